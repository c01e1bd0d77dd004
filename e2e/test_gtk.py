# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The desktop client in a virtual display, against a server of its own"

import json
import os
import subprocess
import time
import unittest
from contextlib import ExitStack, contextmanager
from threading import Timer

import zxingcpp
from PIL import ImageGrab
from trytond import __series__

from demo.demo import DATABASE, ROOT

from .common import (
    CODE, CODE_WRONG, PASSWORD, RECOVERY_CODES, TOKEN, TOKEN_FILE,
    Authenticator, add_users, new_server)

TOOLS = ROOT / '.e2e' / f'gtk-{__series__}'
DATA = TOOLS / 'data'
HOME = TOOLS / 'home'
LOG = DATA / 'client.log'
SCREENSHOTS = ROOT / '.e2e' / f'screenshots-gtk-{__series__}'
CONFIG = """\
[login]
host = localhost:{port}
db = {database}
expanded = True

[client]
lang = en
# It asks the internet
check_version = False
"""
DONE = (
    "TOTP is on. From now on you enter a code\nafter the password when you "
    "log in.")
MENU = "Set up TOTP (Two-Factor Login)"
# The number of the user in the demo
BOB = 3
# Only a client that hangs takes so long
TIMEOUT = 180


class GtkTestCase(unittest.TestCase):
    "Test the module in the desktop client"

    @classmethod
    def setUpClass(cls):
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        cls.server = server = new_server(TOOLS, DATA, HOME, SCREENSHOTS)
        add_users(server)
        stack.enter_context(server.serve())
        cls.screenshots = 0
        config = HOME / '.config' / 'tryton' / __series__ / 'tryton.conf'
        config.parent.mkdir(parents=True)
        config.write_text(CONFIG.format(port=server.port, database=DATABASE))
        # Nothing of the user who runs the test
        cls.env = {
            'DBUS_SESSION_BUS_ADDRESS': 'disabled:',
            'GSETTINGS_BACKEND': 'memory',
            'HOME': str(HOME),
            'LANG': 'C.UTF-8',
            'NO_AT_BRIDGE': '1',
            'PATH': os.environ['PATH'],
            }
        display = stack.enter_context(cls.start(
                # A small laptop
                'Xvfb', '-screen', '0', '1280x720x24', '-nolisten', 'tcp',
                '-displayfd', '1', stdout=subprocess.PIPE, text=True))
        cls.env['DISPLAY'] = f':{display.stdout.readline().strip()}'
        stack.enter_context(cls.start('openbox'))

    @classmethod
    @contextmanager
    def start(cls, *command, env=None, **kwargs):
        "Run the command until the end of the context."
        with LOG.open('a') as log, \
                subprocess.Popen(
                    command, env={**cls.env, **(env or {})},
                    **{'stdout': log, 'stderr': log, **kwargs}) as process:
            try:
                yield process
            finally:
                process.terminate()

    @contextmanager
    def client(self, **env):
        with self.start(
                TOOLS / 'client' / 'bin' / 'python',
                ROOT / 'e2e' / 'gtk_client.py', env=env,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                text=True) as self.process:
            # So that a client that hangs does not hang the test
            timer = Timer(2 * TIMEOUT, self.process.kill)
            timer.start()
            self.addCleanup(timer.cancel)
            yield
            self.do('close')
            self.assertEqual(self.process.wait(TIMEOUT), 0)

    def do(self, *command):
        print(json.dumps(command), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        self.assertTrue(answer, f"The client ended, see {LOG}")
        return json.loads(answer)

    def expect(self, *expected):
        "Wait until the active window shows the texts; return its entries."
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            texts, entries = self.do('see')
            if set(expected) <= set(texts):
                return entries
            time.sleep(.1)
        self.screenshot('failed')
        self.fail(f"{expected} is not in {texts}")

    def screenshot(self, name):
        type(self).screenshots += 1
        image = None
        while image != (image := ImageGrab.grab(
                    xdisplay=self.env['DISPLAY'])):
            # The window manager may still draw
            time.sleep(.2)
        image.save(SCREENSHOTS / f'{self.screenshots:02}-{name}.png')
        return image

    def answer(self, name, message, value):
        self.expect(message)
        self.screenshot(name)
        self.do('enter', '', value)

    def login(self, login='alice'):
        self.expect("Connect")
        self.screenshot('login')
        self.do('enter', "User name:", login)
        self.answer(
            'password', PASSWORD % login, self.server.password(login))

    def expect_wizard(self, name):
        "Return the URI that is in the QR code."
        entries = self.expect("Confirm")
        uri = zxingcpp.read_barcode(self.screenshot(name)).text
        self.assertEqual(entries["URI:"], uri)
        return uri

    def confirm(
            self, authenticator, shown=True, field="Code:", login='alice'):
        """Confirm the set-up, log in again and return the recovery codes.

        shown: whether there are new ones
        field: the one for the code
        """
        self.do('enter', field, authenticator.code())
        self.expect(DONE)
        codes = self.recovery_codes(shown)
        self.screenshot('done')
        if codes:
            self.do('toggle', "I have saved them:")
            # They are not behind the password that is asked for next
            self.recovery_codes(False)
            self.screenshot('saved')
        self.do('click', "Close")
        # The wizard has ended the session
        self.answer(
            'ended', PASSWORD % login, self.server.password(login))
        self.answer('ended-code', CODE % login, authenticator.next_code())
        self.expect_menu(login)
        return codes

    def recovery_codes(self, shown=True):
        "Wait until they are shown, or not, and return them."
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            texts, _ = self.do('see')
            codes = [
                text.split() for text in texts
                if text and RECOVERY_CODES.match(text)]
            if bool(codes) == shown:
                return codes[0] if codes else []
            time.sleep(.1)
        self.fail(f"Recovery codes are {'' if shown else 'not '}expected")

    def expect_menu(self, login='alice'):
        self.expect(
            f"{login.capitalize()} - Tryton", MENU)
        self.screenshot('menu')

    def test_setup_and_login(self):
        "Test setting TOTP up and logging in with it"
        with self.client(GTK_THEME='Adwaita:dark'):
            self.login()
            self.expect_wizard('scan-dark')
            self.do('click', "Cancel")
            self.expect_menu()

        with self.client():
            self.login()
            # The wizard opens by itself
            authenticator = Authenticator(self.expect_wizard('scan'))
            codes = self.confirm(authenticator)

            # A new phone, and one more
            self.do('open_wizard', 'res.user.setup_totp', "Set up TOTP")
            self.expect("Replace All")
            self.screenshot('overview')
            self.do('enter', "Code:", codes[0], False)
            self.do('click', "Replace All")
            authenticator = Authenticator(self.expect_wizard('replace'))
            codes = self.confirm(authenticator)
            self.do('open_wizard', 'res.user.setup_totp', "Set up TOTP")
            self.expect("Replace All")
            # Enter adds
            self.do('enter', "Code:", codes[0])
            tablet = Authenticator(self.expect_wizard('add'))
            self.confirm(tablet, shown=False)
            self.do('open_wizard', 'res.user.setup_totp', "Set up TOTP")
            self.expect("Replace All")
            self.screenshot('overview-two')
            self.do('click', "Close")
            self.expect_menu()

        with self.client():
            self.login()
            self.answer('code', CODE % 'alice', authenticator.wrong_code())
            self.answer('wrong', CODE_WRONG, authenticator.next_code())
            self.expect_menu()

    def test_token(self):
        "Test setting TOTP up with a token"
        _, key = TOKEN
        with self.client():
            self.login('erin')
            self.expect("Use a Phone Instead")
            self.screenshot('token')
            self.confirm(
                Authenticator(key), field="Token Code:", login='erin')

    def test_administrator(self):
        "Test what an administrator sees of a user and of tokens"
        token_file = DATA / 'tokens.csv'
        token_file.write_text(TOKEN_FILE)
        with self.client():
            self.login('admin')
            # This wizard and the one that configures the modules
            for button in ["Confirm", "OK"]:
                self.expect("Cancel", button)
                self.do('click', "Cancel")
            self.expect(MENU, "Administration")
            self.do('open_records', 'res.user', "Users", 'form', BOB)
            self.expect("Access Permissions", "TOTP")
            self.do('open_tab', "TOTP")
            self.expect("Require TOTP:")
            self.screenshot('user')
            self.do(
                'open_records', 'res.user.totp_token', "TOTP Tokens", 'tree')
            self.expect("Serial Number")
            self.screenshot('tokens')
            self.do(
                'open_wizard', 'res.user.import_totp_tokens',
                "Import TOTP Tokens")
            self.expect("Read")
            self.screenshot('import')
            self.do('choose', str(token_file))
            self.do('click', "Read")
            self.expect("Back", "Import")
            self.screenshot('import-preview')
            self.do('click', "Import")
            self.expect("Imported:")
            self.screenshot('imported')
            self.do('click', "Close")
            self.expect(MENU, "Administration")
