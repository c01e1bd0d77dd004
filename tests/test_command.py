# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import io
import os
import subprocess
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from importlib.metadata import entry_points
from pathlib import Path
from unittest.mock import Mock, patch

from cryptography.fernet import Fernet

from trytond import backend, security
from trytond.modules.authentication_totp import clock, command, sealed
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction

from .mail import Inbox
from .test_concurrency import at_once
from .tools import (
    KEY, OTHER_KEY, PASSWORD, RPC, TOTPTestCase, right_code, seal_set,
    secret_from, start_mail_server)

MODULE = 'trytond.modules.authentication_totp.command'
CLEAR = '{'
FILL = f"""
from trytond.pool import Pool
from trytond.transaction import Transaction

pool = Pool('full')
pool.init()
with Transaction().start('full', 0):
    User = pool.get('res.user')
    user, = User.search([('login', '=', 'admin')])
    user.set_totp_key('{KEY}')
    User.create([{{
                'name': "Alice",
                'login': 'alice',
                'email': 'alice@example.com',
                }}])
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


class CommandMixin:
    "Run the command in this process"
    loaded = False

    def main(self, *args, stderr=None):
        "Return the exit code, the standard output and the standard error"
        stdout, stderr = io.StringIO(), stderr or io.StringIO()
        # Only the first command of a test loads the database, because loading
        # takes longer than everything else
        init = Mock() if self.loaded else Pool.init
        self.loaded = True
        with patch.object(Pool, 'init', init), \
                redirect_stdout(stdout), redirect_stderr(stderr):
            try:
                command.main(['-d', DB_NAME, *args])
                code = 0
            except SystemExit as exit:
                code = exit.code
                # Python does the same at the end of a process
                if isinstance(code, str):
                    print(code, file=stderr)
                    code = 1
        return code, stdout.getvalue(), stderr.getvalue()

    def assertDone(self, *args):
        code, output, error = self.main(*args)
        self.assertEqual((code, error), (0, ''))
        return output

    def assertFails(self, message, *args):
        self.assertEqual(self.main(*args), (1, '', f'{message}\n'))


class CommandTestCase(CommandMixin, TOTPTestCase):
    "Test the effects of the command on users (law 8)"

    def setUp(self):
        super().setUp()
        self.key1, self.key2, self.key3 = [
            Fernet.generate_key().decode() for _ in range(3)]
        # Earlier tests have left secrets
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret, table.totp_pending_secret],
                    [None, None]))

    def log_in(self, login, code=None):
        self.forget_attempts()
        return self.dialogue(
            login, password=[PASSWORD], totp_code=[code or self.code()])[0]

    def start_setup(self, login, code=None):
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        session_id, shown = rpc.start_setup(code)
        self.set_config('session', 'authentications', 'password+totp')
        return rpc, session_id, shown

    def deactivate(self, user_id):
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'active': False})

    def stored(self, user_id):
        "Return the stored secrets, in force and pending"
        with self.transaction():
            table = Pool().get('res.user').__table__()
        row, = self.sql(table.select(
                table.totp_secret, table.totp_pending_secret,
                where=table.id == user_id))
        return [secret for secret in row if secret]

    def assertSealed(self, user_id, key, count=1):
        stored = self.stored(user_id)
        self.assertEqual(len(stored), count)
        for text in stored:
            Fernet(key).decrypt(text)

    def hook_seal(self, hook):
        "Call the hook with the owner's id before a new secret is stored"
        # Patch the module's class, as the command builds the pool anew
        seal_secrets = sealed.User._seal_totp_secrets

        def hooked(user, *args):
            stored = seal_secrets(user, *args)
            hook(user.id)
            return stored
        return patch.object(sealed.User, '_seal_totp_secrets', hooked)

    def test_status(self):
        "Test the lines about the users who have TOTP"
        alice, _ = self.user(KEY)
        bob, bob_id = self.user(KEY)
        carol, _ = self.user()
        dave, dave_id = self.user()
        self.deactivate(bob_id)
        rpc, session_id, shown = self.start_setup(dave)
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        line = (
            '%s: on since 2033-05-18 03:33:20 UTC, '
            '%s recovery codes left, %s failures')
        expected = [
            line % (alice, 0, 0), line % (bob, 0, 0), line % (dave, 10, 0)]
        self.assertEqual(self.assertDone('status').splitlines(), expected)
        self.set_totp('max_failures', '3')
        for _ in range(3):
            self.log_in(dave, '000000')
        self.assertEqual(
            self.assertDone('status', dave), (line % (dave, 10, 3))
            + ', waiting until 2033-05-18 03:33:50 UTC, locked\n')
        self.now += 60
        self.assertEqual(
            self.assertDone('status', dave),
            (line % (dave, 10, 3)) + ', locked\n')
        self.assertEqual(
            self.assertDone('status', bob), (line % (bob, 0, 0)) + '\n')
        self.assertEqual(self.assertDone('status', carol), f'{carol}: off\n')

    def test_status_unreadable(self):
        "Test that unreadable secrets are marked, and the exit code"
        self.set_keys(self.key1)
        lost, _ = self.user(KEY)
        self.set_keys(self.key2)
        good, _ = self.user(KEY)
        without, _ = self.user()
        code, output, error = self.main('status')
        self.assertEqual(code, 1)
        line = (
            '%s: on since 2033-05-18 03:33:20 UTC, 0 recovery codes left, '
            '0 failures')
        self.assertEqual(output.splitlines(), [
                (line % lost) + ', no key decrypts the secret', line % good])
        self.assertEqual(
            error, "users whose secret no key decrypts: 1\n")
        self.assertEqual(self.main('status', lost)[0], 1)
        for login in [good, without]:
            self.assertDone('status', login)
        self.set_keys(self.key2, self.key1)
        self.assertDone('status')

    def test_status_tokens(self):
        "Test that tokens which no key decrypts are named, and the exit code"
        self.set_keys(self.key1)
        lost, _ = self.user(KEY)
        with self.transaction():
            Token = Pool().get('res.user.totp_token')
            Token.store([
                    (serial, secret_from(KEY))
                    for serial in ['status\u20281', 'status 2']])
            self.addCleanup(
                self.delete, 'res.user.totp_token', [
                    t.id for t in Token.search([])])
        self.assertDone('status')
        self.set_keys(self.key2)
        code, output, error = self.main('status')
        self.assertEqual(code, 1)
        self.assertEqual(output.splitlines()[1:], [
                'token "status 2": no key decrypts the secret',
                'token "status 1": no key decrypts the secret'])
        self.assertEqual(
            error, "users whose secret no key decrypts: 1, "
            "tokens whose secret no key decrypts: 2\n")
        # The line of one user is about this user alone
        _, output, error = self.main('status', lost)
        self.assertNotIn('token "', output)
        self.assertEqual(
            error, "users whose secret no key decrypts: 1\n")

    def test_status_waiting(self):
        "Test that a line tells how many e-mails wait, and since when"
        login, user_id = self.user(KEY)
        for worker, count in [('False', 0), ('True', 1), ('True', 2)]:
            self.set_config('queue', 'worker', worker)
            self.now += 3600
            since = clock.second(self.now - 3600 * (count - 1))
            with self.transaction():
                pool = Pool()
                Event = pool.get('res.user.totp_event')
                Event.record([pool.get('res.user')(user_id)], 'renamed')
                self.addCleanup(
                    self.delete, 'res.user.totp_event', [
                        e.id for e in Event.search([], limit=1)])
            lines = self.assertDone('status').splitlines()
            self.assertEqual(lines[1:], [
                    f'e-mails waiting for a worker: {count}, since {since} UTC'
                    ] if count else [])
        # The line of one user is about this user alone
        self.assertEqual(len(self.assertDone('status', login).splitlines()), 1)

    def test_status_one_line(self):
        "Test that a login with line breaks is printed on one line"
        login, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'login': f'{login}\u2028{login}'})
        output = self.assertDone('status')
        self.assertEqual(len(output.splitlines()), 1)
        self.assertTrue(output.startswith(f'{login} {login}: on'))

    def test_unknown_login(self):
        "Test that an unknown login is an error, and so is the root user's"
        for name in ['status', 'reset', 'unlock']:
            for login in ['nobody', '', 'root', '%']:
                with self.subTest(name=name, login=login):
                    self.assertFails(
                        f'there is no user with the login "{login}"',
                        name, login)

    def test_reset(self):
        "Test that the key is removed and the owner is told"
        login, user_id = self.user(KEY)
        _, other_id = self.user(KEY)
        self.start_setup(login, self.code())
        self.assertEqual(
            self.assertDone('reset', login), f'TOTP was reset for "{login}"\n')
        self.assertEqual(self.stored(user_id), [])
        self.assertEqual(self.events(user_id), ['set_up', 'reset'])
        # Two setups and the reset
        self.assertEqual(self.mailer.submit.call_count, 3)
        self.assertTrue(self.stored(other_id))
        self.assertEqual(self.events(other_id), ['set_up'])

    def test_reset_inactive(self):
        "Test that an inactive user can be reset"
        login, user_id = self.user(KEY)
        self.deactivate(user_id)
        self.assertDone('reset', login)
        self.assertEqual(self.stored(user_id), [])
        self.assertEqual(self.events(user_id), ['set_up', 'reset'])

    def test_unlock(self):
        "Test that the user can log in again"
        self.set_totp('max_failures', '3')
        login, user_id = self.user(KEY)
        for _ in range(3):
            self.log_in(login, '000000')
        self.now += 60
        self.assertIsNone(self.log_in(login))
        self.assertEqual(
            self.assertDone('unlock', login),
            f'TOTP was unlocked for "{login}"\n')
        self.assertEqual(self.log_in(login), user_id)
        self.assertEqual(self.events(user_id)[-1], 'unlocked')

    def test_reseal(self):
        "Test that secrets without a key or with an old one are encrypted anew"
        clear, clear_id = self.user(KEY)
        _, none_id = self.user()
        self.set_keys(self.key1)
        old, old_id = self.user(KEY)
        _, inactive_id = self.user(KEY)
        self.set_keys(self.key2, self.key1)
        _, new_id = self.user(KEY)
        self.deactivate(inactive_id)
        before = self.stored(new_id)
        self.assertEqual(
            self.assertDone('reseal'),
            "all secrets are encrypted with the first key, users: 4\n")
        # The old key is no longer needed
        self.set_keys(self.key2)
        for login, user_id in [(clear, clear_id), (old, old_id)]:
            self.assertSealed(user_id, self.key2)
            self.assertEqual(self.log_in(login), user_id)
            self.assertEqual(self.events(user_id), ['set_up', 'resealed'])
        self.assertSealed(inactive_id, self.key2)
        self.assertEqual(self.stored(none_id), [])
        self.assertEqual(self.stored(new_id), before)
        self.assertEqual(self.events(new_id), ['set_up'])

    def test_reseal_pending(self):
        "Test that a pending secret is encrypted, and can be confirmed later"
        for keys in [[], [self.key1]]:
            with self.subTest(keys=keys):
                if keys:
                    self.set_keys(*keys)
                login, user_id = self.user()
                rpc, session_id, shown = self.start_setup(login)
                self.set_keys(self.key2, self.key1)
                self.assertDone('reseal')
                self.assertSealed(user_id, self.key2)
                self.assertEqual(self.events(user_id), ['resealed'])
                self.set_keys(self.key2)
                rpc.confirm_setup(
                    session_id, shown,
                    code=right_code(shown['secret'], self.now))
                self.now += 30
                self.assertEqual(
                    self.log_in(login, right_code(shown['secret'], self.now)),
                    user_id)

    def test_reseal_both(self):
        "Test that a user with two secrets has one event"
        login, user_id = self.user(KEY)
        self.start_setup(login, self.code())
        self.set_keys(self.key1)
        self.assertDone('reseal')
        self.assertSealed(user_id, self.key1, count=2)
        self.assertEqual(self.events(user_id), ['set_up', 'resealed'])

    def test_reseal_without_keys(self):
        "Test that the command fails without an encryption key"
        self.set_totp('encryption_keys', '')
        self.user(KEY)
        self.assertFails(
            "[authentication_totp] encryption_keys is not set: "
            "there is no key to encrypt with", 'reseal')

    def test_reseal_unreadable(self):
        "Test that unreadable secrets are named and stay unchanged"
        self.set_keys(self.key1)
        lost, lost_id = self.user(KEY)
        waiting, waiting_id = self.user()
        self.start_setup(waiting)
        self.set_keys(self.key3)
        _, good_id = self.user(KEY)
        self.set_keys(self.key2, self.key3)
        copied, copied_id = self.user(KEY)
        # The first key decrypts this secret, but only for its owner
        self.put_secret(copied_id, seal_set(good_id, secret_from(KEY)))
        bad = [lost_id, waiting_id, copied_id]
        before = [self.stored(id_) for id_ in bad]
        code, output, error = self.main('reseal')
        self.assertEqual((code, output), (1, ''))
        self.assertEqual(
            error.splitlines(), [
                f'no key decrypts the secret of "{lost}"',
                f'no key decrypts the secret of "{waiting}"',
                f'no key decrypts the secret of "{copied}"',
                "users whose secret no key decrypts: 3",
                ])
        self.assertEqual(before, [self.stored(id_) for id_ in bad])
        self.assertEqual(self.events(lost_id), ['set_up'])
        self.assertSealed(good_id, self.key2)

    def test_reseal_restarted(self):
        "Test that a second run continues after an interruption"
        users = [self.user(KEY)[1] for _ in range(5)]
        self.set_keys(self.key1)
        calls = []

        def interrupt(owner):
            calls.append(owner)
            if len(calls) == 4:
                raise KeyboardInterrupt
        with patch.object(command, '_BATCH', 2):
            with self.hook_seal(interrupt):
                self.assertFails("interrupted", 'reseal')
            # Finished batches stay, and the interrupted one is undone
            for user_id in users[:2]:
                self.assertSealed(user_id, self.key1)
            for user_id in users[2:]:
                self.assertEqual(self.stored(user_id)[0][0], CLEAR)
            done = [self.stored(id_) for id_ in users[:2]]
            self.assertDone('reseal')
        for user_id in users:
            self.assertSealed(user_id, self.key1)
            self.assertEqual(self.events(user_id), ['set_up', 'resealed'])
        self.assertEqual(done, [self.stored(id_) for id_ in users[:2]])

    def test_reseal_again(self):
        "Test that a batch is tried again after an error of the database"
        _, user_id = self.user(KEY)
        self.set_keys(self.key1)
        calls = []

        def fail(owner):
            calls.append(owner)
            if len(calls) <= failures:
                raise backend.DatabaseOperationalError("try\nagain")
        with patch('time.sleep'):
            failures = 1
            with self.hook_seal(fail):
                self.assertDone('reseal')
            self.assertEqual(calls, [user_id] * 2)
            self.assertEqual(self.events(user_id), ['set_up', 'resealed'])
            self.set_keys(self.key2, self.key1)
            failures = 1000
            with self.hook_seal(fail):
                self.assertFails("the database failed: try again", 'reseal')
        self.assertSealed(user_id, self.key1)

    def test_reseal_replaced(self):
        "Test that a secret that changes at the same time is not overwritten"
        _, user_id = self.user(KEY)
        self.set_keys(self.key1)
        other = seal_set(user_id, secret_from(OTHER_KEY))

        def replace(owner):
            table = Pool().get('res.user').__table__()
            Transaction().connection.cursor().execute(*table.update(
                    [table.totp_secret], [other], where=table.id == owner))
        with self.hook_seal(replace):
            self.assertDone('reseal')
        self.assertEqual(self.stored(user_id), [other])
        self.assertEqual(self.events(user_id), ['set_up'])

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_reseal_and_login(self):
        "Test a login between reading and writing a secret"
        login, user_id = self.user(KEY)
        self.set_keys(self.key1)
        logins = []

        def log_in(owner):
            if not logins:
                logins.append(None)
                logins[:] = at_once(
                    lambda parameters: security.login(
                        DB_NAME, login, parameters, cache=False),
                    [{'password': PASSWORD, 'totp_code': self.code()}])
        with self.hook_seal(log_in):
            self.assertDone('reseal')
        self.assertEqual(logins, [user_id])
        self.assertSealed(user_id, self.key1)
        self.assertEqual(self.events(user_id), ['set_up', 'resealed'])
        self.now += 30
        self.assertEqual(self.log_in(login), user_id)

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_reseal_beside_logins(self):
        "Test that logins and the command work at the same time"
        users = [self.user(KEY) for _ in range(12)]
        keys = []
        for key in [self.key1, self.key2, self.key3]:
            keys.insert(0, key)
            self.set_keys(*keys)
            self.now += 30

            def run(user):
                if user is None:
                    return command.main(['-d', DB_NAME, 'reseal'])
                return security.login(
                    DB_NAME, user[0],
                    {'password': PASSWORD, 'totp_code': self.code()},
                    cache=False)
            with redirect_stdout(io.StringIO()), patch.object(
                    command, '_BATCH', 3):
                results = at_once(run, [*users, None])
            self.assertEqual(
                results, [user_id for _, user_id in users] + [None])
            for _, user_id in users:
                self.assertSealed(user_id, key)
        for _, user_id in users:
            self.assertEqual(self.events(user_id), ['set_up'] + [
                    'resealed'] * 3)

    def test_login_with_unreadable_pending(self):
        "Test that an unreadable pending secret stops no login"
        login, user_id = self.user(KEY)
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(user_id)
        self.set_keys(self.key1)
        # A code would also encrypt the secret in force
        self.start_setup(login, codes[0])
        self.set_keys(self.key2)
        self.assertEqual(self.log_in(login), user_id)
        Fernet(self.key2).decrypt(self.stored_secret(user_id))

    def test_progress(self):
        "Test that a user at a terminal sees a progress bar"
        for _ in range(4):
            self.user(KEY)
        self.set_keys(self.key1)
        with patch.object(command, '_BATCH', 2):
            code, _, error = self.main('reseal', stderr=Terminal())
        self.assertEqual(code, 0)
        self.assertEqual(
            error,
            f"\r[{'#' * 20}{' ' * 20}] 50%\r[{'#' * 40}] 100%\n")

    def test_not_reachable(self):
        "Test that an unreachable database server is reported in one line"
        with patch.object(
                Transaction, 'start',
                side_effect=backend.DatabaseOperationalError("no\nserver")):
            self.assertFails(
                "the database server cannot be reached: no server", 'status')


class ProcessMixin:
    "Run the command as a process"

    @classmethod
    def python(cls, *args, **env):
        base = {
            name: value for name, value in os.environ.items()
            if not name.startswith('TRYTOND_')}
        return subprocess.run(
            [sys.executable, *args], env={**base, **env},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def run_command(self, *args, **env):
        run = self.python('-m', MODULE, *args, **env)
        return run.returncode, run.stdout, run.stderr

    def assertFails(self, message, *args, **env):
        self.assertEqual(
            self.run_command(*args, **env), (1, '', f'{message}\n'))


@unittest.skipUnless(
    backend.name == 'sqlite', "the database in a file is the same again")
class FrontDoorTestCase(ProcessMixin, unittest.TestCase):
    "Test the command as a process, with a SQLite file"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.config = cls.write(
            'trytond.conf',
            f'[database]\nuri = sqlite://\npath = {folder.name}')
        cls.password = cls.write('password', 'correct horse')
        (cls.folder / 'empty.sqlite').touch()
        plain = cls.folder / 'plain.sqlite'
        plain.touch()
        cls.admin('plain', 'ir', 'res', '--email', 'admin@example.com')
        (cls.folder / 'full.sqlite').write_bytes(plain.read_bytes())
        cls.admin('full', 'authentication_totp')
        cls.python('-c', FILL, TRYTOND_CONFIG=cls.config).check_returncode()

    @classmethod
    def write(cls, name, text):
        path = cls.folder / name
        path.write_text(text + '\n')
        path.chmod(0o600)
        return str(path)

    @classmethod
    def admin(cls, database, *args):
        cls.python(
            '-m', 'trytond.cli.admin', '-c', cls.config, '-d', database, '-u',
            *args, TRYTONPASSFILE=cls.password).check_returncode()

    def test_entry_point(self):
        "Test that the command is installed"
        entry_point, = entry_points(
            group='console_scripts', name='trytond_totp')
        self.assertIs(entry_point.load(), command.main)

    def test_help(self):
        "Test that the help shows the usage of each subcommand"
        code, output, _ = self.run_command('--help')
        self.assertEqual(code, 0)
        for name in [
                '-d DATABASE status', '-d DATABASE status alice',
                '-d DATABASE reset alice', '-d DATABASE unlock alice',
                '-d DATABASE reset --all --quiet',
                '-d DATABASE reseal', 'genkey']:
            self.assertIn(f'trytond_totp {name}'.replace(
                    ' -d', ' -c trytond.conf -d'), output)
        self.assertTrue(all(len(line) < 80 for line in output.splitlines()))

    def test_usage(self):
        "Test that wrong usage is reported as such"
        for args in [
                [], ['status'], ['-d', 'full'], ['-d', 'full', 'unknown'],
                ['-d', 'full', 'reset'], ['-d', 'full', 'unlock'],
                ['-d', 'full', 'reset', 'admin', '--all'],
                ['-d', 'full', 'reseal', 'admin'], ['-x', 'genkey']]:
            with self.subTest(args=args):
                code, output, error = self.run_command(*args)
                self.assertEqual((code, output), (2, ''))
                self.assertIn('error: ', error)
                self.assertNotIn('Traceback', error)

    def test_genkey(self):
        "Test that genkey needs no database, no configuration and no key"
        keys = set()
        for env in [{}, {
                    'TRYTOND_AUTHENTICATION_TOTP__ENCRYPTION_KEYS':
                    str(self.folder / 'missing')}]:
            code, output, error = self.run_command('genkey', **env)
            self.assertEqual((code, error), (0, ''))
            key, = output.splitlines()
            Fernet(key)
            keys.add(key)
        self.assertEqual(len(keys), 2)

    def test_status_and_reseal(self):
        "Test that the configuration may consist of one file or several"
        keys = self.write(
            'keys', Fernet.generate_key().decode())
        more = self.write(
            'more.conf', f'[authentication_totp]\nencryption_keys = {keys}')
        for args in [['-c', self.config, '-c', more], ['-c', more]]:
            code, output, error = self.run_command(
                *args, '-d', 'full', 'status', 'admin',
                TRYTOND_CONFIG=self.config)
            self.assertEqual((code, error), (0, ''))
            self.assertRegex(
                output,
                r'^admin: on since [-0-9]{10} [:0-9]{8} UTC, '
                r'0 recovery codes left, 0 failures\n$')
        self.assertEqual(
            self.run_command(
                '-c', self.config, '-c', more, '-d', 'full', 'reseal'),
            (0, "all secrets are encrypted with the first key, users: 1\n",
                ''))
        # Without the keys
        code, _, _ = self.run_command(
            '-c', self.config, '-d', 'full', 'reseal')
        self.assertEqual(code, 1)

    def test_unknown(self):
        "Test the errors for an unknown login, database or module"
        for database, message in [
                ('full', 'there is no user with the login "nobody"'),
                ('nothing', 'there is no Tryton database "nothing"'),
                ('../full', 'there is no Tryton database "../full"'),
                ('empty', 'there is no Tryton database "empty"'),
                ('plain', "the module authentication_totp is not activated "
                    'in the database "plain"')]:
            with self.subTest(database=database):
                self.assertFails(
                    message, '-c', self.config, '-d', database, 'reset',
                    'nobody')

    def test_configuration(self):
        "Test the errors for wrong configurations"
        args = ['-d', 'full', 'status']
        missing = str(self.folder / 'missing.conf')
        self.assertFails(
            "the configuration cannot be read: [Errno 2] "
            f"No such file or directory: '{missing}'",
            '-c', self.config, '-c', missing, *args)
        path = self.write('wrong.conf', 'period = 30')
        code, output, error = self.run_command('-c', path, *args)
        self.assertEqual((code, output), (1, ''))
        self.assertRegex(error, '^the configuration cannot be read: .*\n$')
        message = (
            "[authentication_totp] period = '7': "
            "must be a whole number of seconds from 15 to 120")
        path = self.write('range.conf', '[authentication_totp]\nperiod = 7')
        self.assertFails(message, '-c', self.config, '-c', path, *args)
        self.assertFails(
            message, '-c', self.config, *args,
            TRYTOND_AUTHENTICATION_TOTP__PERIOD='7')

    def test_verbose(self):
        "Test that the log is shown on request"
        code, output, error = self.run_command(
            '-vv', '-c', self.config, '-d', 'full', 'status', 'alice')
        self.assertEqual((code, output), (0, 'alice: off\n'))
        self.assertIn(f'using {self.config} as configuration files', error)

    def test_told(self):
        "Test that the e-mail is sent before the process ends"
        inbox = Inbox()
        server = start_mail_server(self, inbox)
        self.addCleanup(server.stop)
        self.assertEqual(
            self.run_command(
                '-c', self.config, '-d', 'full', 'unlock', 'admin',
                TRYTOND_EMAIL__URI=f'smtp://127.0.0.1:{server.port}',
                # Links use https because of this setting
                TRYTOND_SSL__CERTIFICATE='true',
                TRYTOND_WEB__HOSTNAME='tryton.example.com:8443',
                TRYTOND_WEB__ROOT_PATH='/erp'),
            (0, 'TOTP was unlocked for "admin"\n', ''))
        message, = inbox.messages
        self.assertEqual(message['To'], 'admin@example.com')
        text = message.get_body(['plain']).get_content().splitlines()
        for line in [
                "Server: https://tryton.example.com:8443/erp/#full",
                "tryton://tryton.example.com:8443/full"]:
            self.assertIn(line, text)

    def test_mail_server_not_reachable(self):
        "Test that the command works without a mail server"
        self.assertEqual(
            self.run_command(
                '-c', self.config, '-d', 'full', 'unlock', 'alice',
                TRYTOND_EMAIL__URI='smtp://127.0.0.1:1'),
            (0, 'TOTP was unlocked for "alice"\n', ''))


@unittest.skipUnless(
    backend.name == 'postgresql', "the other tests are on SQLite")
class PostgreSQLTestCase(ProcessMixin, TOTPTestCase):
    "Test the command as a process, with PostgreSQL"

    def test_messages(self):
        "Test that errors of PostgreSQL reveal no more than those of SQLite"
        uri = os.environ['TRYTOND_DATABASE_URI']
        args = ['status', 'nobody']
        for database, message in [
                ('nothing', 'there is no Tryton database "nothing"'),
                (DB_NAME, 'there is no user with the login "nobody"')]:
            self.assertFails(
                message, '-d', database, *args, TRYTOND_DATABASE_URI=uri)
        code, output, error = self.run_command(
            '-d', DB_NAME, *args,
            TRYTOND_DATABASE_URI='postgresql://127.0.0.1:1')
        self.assertEqual((code, output), (1, ''))
        self.assertRegex(
            error, '^the database server cannot be reached: .*\n$')
