# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What the tests of both clients need"

import re
import shutil
import time

import pyotp

from demo.demo import Server, free_port

PASSWORD = "Password for %s"
CODE = (
    "Enter the code from your authenticator for %s, or a recovery code.")
CODE_WRONG = (
    "The code is wrong. Enter the code that your authenticator shows now.")
PERIOD = 30
RECOVERY_CODES = re.compile(r'^(([0-9A-Z]{5}-?){5}\n?){10}$')


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


class Authenticator:
    "What a phone does with the URI"

    def __init__(self, uri):
        self.totp = pyotp.parse_uri(uri)
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
