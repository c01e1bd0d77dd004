# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet

from trytond import backend

from .tools import KEY, free_port

MODULE = 'trytond.modules.authentication_totp'
FILL = f"""
import datetime as dt
from trytond.pool import Pool
from trytond.transaction import Transaction

pool = Pool('full')
pool.init()
with Transaction().start('full', 0) as transaction:
    user, = pool.get('res.user').search([('login', '=', 'admin')])
    user.set_totp_key('{KEY}')
    counter = pool.get('res.user.totp_counter').__table__()
    transaction.connection.cursor().execute(*counter.update(
            [counter.last_used], [dt.datetime(2099, 1, 1)],
            where=counter.user == user.id))
"""
MISSING = (
    "import sys; sys.modules[{!r}] = None; "
    "from trytond.pool import Pool; Pool.start()")
START = 'from trytond.pool import Pool; Pool.start()'
# The messages about the policy and the database
POLICY = "'topt' is not a login method in the database full"
CLEAR = "stored unencrypted in the database full: 1;"
CLOCK = "the clock of this machine was set back"
# The messages about the settings
NO_KEYS = "[authentication_totp] encryption_keys is not set"
OPEN_KEYS = "every user of this machine can read the keys in "
DIGITS = "[authentication_totp] digits = 8"


@unittest.skipUnless(
    backend.name == 'sqlite', "the database in a file is the same again")
class StartTestCase(unittest.TestCase):
    "Test what processes log at start by default (law 10)"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.config = str(cls.folder / 'trytond.conf')
        Path(cls.config).write_text(
            f'[database]\nuri = sqlite://\npath = {folder.name}\n'
            '[session]\nauthentications = password+topt\n'
            '[authentication_totp]\ndigits = 8\n')
        cls.keys = cls.folder / 'keys'
        cls.keys.write_text(Fernet.generate_key().decode())
        (cls.folder / 'password').write_text('correct horse')
        (cls.folder / 'full.sqlite').touch()
        cls.run_python(
            '-m', 'trytond.cli.admin', '-c', cls.config, '-d', 'full',
            '-u', 'authentication_totp', '--activate-dependencies',
            '--email', 'admin@example.com',
            TRYTONPASSFILE=str(cls.folder / 'password')).check_returncode()
        cls.run_python(
            '-c', FILL, TRYTOND_CONFIG=cls.config).check_returncode()

    def setUp(self):
        super().setUp()
        self.keys.chmod(0o644)

    @classmethod
    def environ(cls, **env):
        return {
            **{name: value for name, value in os.environ.items()
                if not name.startswith('TRYTOND_')},
            **env}

    @classmethod
    def run_python(cls, *args, prefix=(), **env):
        return subprocess.run(
            [*prefix, sys.executable, *args], env=cls.environ(**env),
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def errors(self, text):
        return [line for line in text.splitlines() if f' ERROR {MODULE}' in
            line]

    def assertTold(self, text, *words):
        "Check that there is one line with each of the words, and no other"
        lines = self.errors(text)
        for word in words:
            self.assertEqual(
                len([line for line in lines if word in line]), 1,
                f"{word} in:\n{text}")
        self.assertEqual(len(lines), len(words), text)

    def with_keys(self):
        return {
            'TRYTOND_AUTHENTICATION_TOTP__ENCRYPTION_KEYS': str(self.keys)}

    def serve(self, **env):
        "Return what a server has logged by the time it listens"
        port = free_port(self)
        with tempfile.TemporaryFile('w+') as log:
            server = subprocess.Popen(
                [sys.executable, '-m', 'trytond.cli', '-c', self.config,
                    '-d', 'full'],
                env=self.environ(
                    TRYTOND_WEB__LISTEN=f'127.0.0.1:{port}', **env),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                while server.poll() is None:
                    with suppress(OSError):
                        socket.create_connection(('127.0.0.1', port)).close()
                        break
                    time.sleep(0.1)
            finally:
                server.terminate()
                server.wait()
            log.seek(0)
            return log.read()

    def test_server(self):
        "Test trytond"
        self.assertTold(self.serve(), NO_KEYS, DIGITS, POLICY, CLOCK)
        self.assertTold(
            self.serve(**self.with_keys()),
            OPEN_KEYS, DIGITS, POLICY, CLEAR, CLOCK)

    def test_application(self):
        "Test the application that gunicorn and uWSGI load"
        run = self.run_python(
            '-c', 'import trytond.application', TRYTOND_CONFIG=self.config,
            TRYTOND_DATABASE_NAMES='full', **self.with_keys())
        self.assertTold(run.stderr, OPEN_KEYS, DIGITS, POLICY, CLEAR, CLOCK)

    def test_cron(self):
        "Test trytond-cron, with one process that loads the database"
        run = self.run_python(
            '-m', 'trytond.cli.cron', '-c', self.config, '-d', 'full', '-1',
            '-n', '1', **self.with_keys())
        lines = self.errors(run.stderr)
        if multiprocessing.get_all_start_methods()[0] != 'fork':
            # The process for the database, which is no fork from Python 3.14
            # on, does not know what the first process has told
            first = [line for line in lines if line.split()[0]
                == lines[0].split()[0]]
            self.assertTold('\n'.join(first), OPEN_KEYS, DIGITS)
            lines = lines[len(first):]
        self.assertTold(
            '\n'.join(lines), OPEN_KEYS, DIGITS, POLICY, CLEAR, CLOCK)

    def test_admin(self):
        "Test trytond-admin"
        run = self.run_python(
            '-m', 'trytond.cli.admin', '-c', self.config, '-d', 'full')
        self.assertTold(run.stderr, NO_KEYS, DIGITS, POLICY, CLOCK)

    def test_worker_stopped(self):
        "Test that trytond-worker also says why it stops"
        run = self.run_python(
            '-m', 'trytond.cli.worker', '-c', self.config, '-d', 'full',
            TRYTOND_AUTHENTICATION_TOTP__PERIOD='7')
        self.assertEqual(
            run.stderr, "[authentication_totp] period = '7': "
            "must be a whole number of seconds from 15 to 120\n")

    def denied(self, *args):
        "Run Python with a key file that its user may not read"
        prefix = []
        if os.geteuid() == 0:
            if not shutil.which('setpriv'):
                self.skipTest("root may read everything")
            names = '-dac_override,-dac_read_search'
            prefix = [
                'setpriv', f'--inh-caps={names}', f'--bounding-set={names}']
        self.keys.chmod(0)
        return self.run_python(*args, prefix=prefix, **self.with_keys())

    def test_denied(self):
        "Test that an update needs no encryption keys, but the server does"
        line = (
            f"encryption_keys = '{self.keys}': must be the path of a file "
            f"that can be read, but {self.keys}: Permission denied")
        for args in [[], ['-u', 'authentication_totp']]:
            run = self.denied(
                '-m', 'trytond.cli.admin', '-c', self.config, '-d', 'full',
                *args)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertTold(run.stderr, line, DIGITS, POLICY, CLOCK)
        run = self.denied('-c', START)
        self.assertEqual(run.returncode, 3)
        self.assertEqual(run.stderr, f'[authentication_totp] {line}\n')
        # Any other mistake stops the update too
        self.keys.chmod(0o600)
        run = self.run_python(
            '-m', 'trytond.cli.admin', '-c', self.config, '-d', 'full',
            TRYTOND_AUTHENTICATION_TOTP__ENCRYPTION_KEYS=f'{self.keys}.old')
        self.assertEqual(run.returncode, 3)

    def test_missing_library(self):
        "Test that the server starts without a library, and names it"
        self.keys.chmod(0o600)
        for name, module in [
                ('cryptography', 'cryptography.fernet'),
                ('passlib', 'passlib.totp')]:
            with self.subTest(name=name):
                run = self.run_python(
                    '-c', MISSING.format(module), **self.with_keys())
                self.assertEqual(run.returncode, 0, run.stderr)
                line, = run.stderr.splitlines()
                self.assertIn(f"the library {name} cannot be loaded", line)
                self.assertIn(module, line)
                # The same holds when everything is loaded
                run = self.run_python(
                    '-c', f"{MISSING.format(module)}; Pool('full').init()",
                    TRYTOND_CONFIG=self.config, **self.with_keys())
                self.assertEqual(run.returncode, 0, run.stderr)
                self.assertNotIn('Traceback', run.stderr)
                run = self.run_python(
                    '-c', f"import sys; sys.modules[{module!r}] = None; "
                    f"from {MODULE}.command import main; main(['genkey'])")
                self.assertEqual(run.returncode, 1)
                line, = run.stderr.splitlines()
                self.assertIn(f"the library {name} cannot be loaded", line)
