# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What the tests of both clients need"

import re
import secrets
import shutil
import time
from pathlib import Path

import pyotp

from demo.demo import DATABASE, Server, free_port

PASSWORD = "Password for %s"
CODE = (
    "Enter the code from your authenticator for %s, or a recovery code.")
CODE_WRONG = (
    "The code is wrong. Enter the code that your authenticator shows now.")
PERIOD = 30
LOGINS = ['frank', 'dave', 'erin']
TOKEN = ('T0001', 'JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP')
# One is good, and each of the others is refused
TOKEN_FILE = """\
serial,key,algorithm,digits,period
T0002,KRUGS4ZANFZSAYJAORXWWZLOEBTG64RA,SHA256,6,30
T0003,KRUGS4ZA,SHA1,6,30
T0002,JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP,SHA1,6,30
T0001,JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP,SHA1,6,30
"""
RECOVERY_CODES = re.compile(r'^(([0-9A-Z]{5}-?){5}\s?){10}$')


def new_server(tools, data, *folders, **options):
    """Return a server with new data, and empty the folders.

    The tools, the data and the options are those of demo.Server.
    """
    for folder in [data, *folders]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    options.setdefault(
        'authentications', 'password+totp?no_totp_secret:setup_totp')
    server = Server(tools, data, free_port(), **options)
    server.build()
    return server


def add_users(server):
    "Add the users of LOGINS."
    token_file = server.database / 'token.csv'
    token_file.write_text('serial,key\n%s,%s\n' % TOKEN)
    for login in LOGINS:
        server.password_file(login).write_text(secrets.token_hex(6))
    server.run(
        'python', Path(__file__).with_name('add_users.py'), DATABASE,
        server.database, token_file, *LOGINS)


class Authenticator:
    "What a phone does with the URI, and a token with its key"

    def __init__(self, uri):
        self.totp = (
            pyotp.parse_uri(uri) if ':' in uri else pyotp.TOTP(uri))
        self.step = self.now()

    def now(self):
        "Return the time step whose code stays right for a while."
        return int(time.time() - PERIOD / 2) // PERIOD

    def code(self):
        return self.totp.at(self.step * PERIOD)

    def next_code(self):
        self.step = max(self.step + 1, self.now())
        # The server accepts a code one step before its time
        time.sleep(max(0, (self.step - 1) * PERIOD - time.time()))
        return self.code()

    def wrong_code(self):
        right = {
            self.totp.at(step * PERIOD)
            for step in range(self.now() - 30, self.now() + 30)}
        return next(
            code for code in map('{:06}'.format, range(100))
            if code not in right)
