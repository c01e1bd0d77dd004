# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The web client in a browser, against a server of its own"

import re
import shutil
import time
import unittest
from contextlib import ExitStack, suppress
from itertools import pairwise

import pyotp
import zxingcpp
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from demo.demo import ROOT, Server, free_port

TOOLS = ROOT / '.e2e'
DATA = TOOLS / 'data'
SCREENSHOTS = TOOLS / 'screenshots'
PASSWORD = "Password for %s"
CODE = "Enter the code that your authenticator shows for %s."
CODE_WRONG = (
    "The code is wrong. Enter the code that your authenticator shows now.")
CODE_USED = (
    "The code was already used. Wait for the next one and enter it.")
EVENTS = [
    "TOTP was set up", "A used code was entered again",
    "The TOTP key was replaced"]
PERIOD = 30
RECOVERY_CODES = re.compile(r'^(([0-9A-Z]{5}-?){5}\n?){10}$')

expect.set_options(timeout=60_000)


class Authenticator:
    "What a phone does with the URI"

    def __init__(self, uri):
        self.totp = pyotp.parse_uri(uri)
        # A code that stays right for a while
        self.step = int(time.time() - PERIOD / 2) // PERIOD

    def code(self):
        return self.totp.at(self.step * PERIOD)

    def next_code(self):
        self.step += 1
        # The server accepts a code one step before its time
        time.sleep(max(0, (self.step - 1) * PERIOD - time.time()))
        return self.code()

    def wrong_code(self):
        right = {
            self.totp.at(step * PERIOD)
            for step in range(self.step - 3, self.step + 10)}
        return next(
            code for code in map('{:06}'.format, range(100))
            if code not in right)


class SaoTestCase(unittest.TestCase):
    "Test the module in sao"

    @classmethod
    def setUpClass(cls):
        for folder in [DATA, SCREENSHOTS]:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        server = Server(TOOLS, DATA, free_port())
        server.build()
        stack.enter_context(server.serve())
        cls.password = server.password
        cls.mails = server.mails
        cls.url = f'http://localhost:{server.port}/'
        playwright = stack.enter_context(sync_playwright())
        cls.browser = playwright.chromium.launch(
            executable_path=shutil.which('chromium'),
            args=[
                # It refuses to run as root otherwise
                '--no-sandbox',
                '--disable-background-networking',
                '--disable-component-update',
                '--disable-gpu',
                '--disable-quic',
                '--disable-sync',
                '--no-first-run',
                ])
        stack.callback(cls.browser.close)

    def screenshot(self, name):
        self.screenshots += 1
        path = SCREENSHOTS / f'{self.screenshots:02}-{name}.png'
        self.page.screenshot(path=path, animations='disabled')
        return path

    def login(self, login='alice'):
        dialog = self.page.locator('.login-dialog')
        dialog.locator('#login').fill(login)
        self.screenshot('login')
        dialog.get_by_role('button', name="Login").click()
        self.answer_password(login, 'password')

    def answer_password(self, login, screenshot):
        self.answer(
            'password', PASSWORD % login, self.password(login), screenshot)

    def answer_code(self, code, screenshot, message=CODE % 'alice'):
        self.answer('totp_code', message, code, screenshot)

    def answer(self, name, message, value, screenshot):
        "Enter the value of name when message asks for it."
        dialog = self.page.locator('.ask-dialog').filter(has_text=message)
        expect(dialog).to_be_visible()
        self.screenshot(screenshot)
        dialog.locator(f'input[name={name}]').fill(value)
        dialog.get_by_role('button', name="OK").click()

    def menu(self):
        "Return the entry of the menu, once it is there."
        entry = self.page.locator('#menu').get_by_text("Set up TOTP")
        expect(entry).to_be_visible()
        self.screenshot('menu')
        return entry

    def logout(self):
        self.page.locator('#user-preferences > a').click()
        self.page.get_by_text("Logout").click()
        expect(self.page.locator('.login-dialog')).to_be_visible()
        # At the next login sao would leave the menu open
        self.page.reload()

    def test_setup_and_login(self):
        "Test setting TOTP up and logging in with it"
        self.screenshots = 0
        # A small laptop
        self.page = self.browser.new_page(
            viewport={'width': 1280, 'height': 720})
        self.page.goto(self.url)
        self.login()
        # The wizard opens by itself
        authenticator = self.set_up()
        expect(self.page.locator('.wizard-dialog')).to_be_hidden()
        self.logout()

        self.login()
        code = authenticator.next_code()
        self.answer_code(code, 'code')
        self.menu()
        self.logout()

        self.login()
        self.answer_code(code, 'code')
        self.answer_code(authenticator.wrong_code(), 'used', CODE_USED)
        self.answer_code(authenticator.next_code(), 'wrong', CODE_WRONG)
        new_authenticator = self.set_up(authenticator)
        # Which has ended the session
        self.answer_password('alice', 'ended')
        self.answer_code(new_authenticator.next_code(), 'new-code')
        expect(self.page.locator('.wizard-dialog')).to_be_hidden()
        self.menu()
        self.logout()

        self.login('admin')
        wizard = self.page.locator('.wizard-dialog')
        self.click(wizard, "Cancel")
        expect(wizard).to_be_hidden()
        self.click(self.page, "Cancel")
        events = [
            self.page.locator('td').get_by_text(event).first
            for event in EVENTS]
        self.open(events[0], "Administration", "Users", "TOTP Events")
        for event in events:
            expect(event).to_be_visible()
        self.screenshot('events')
        mails = ' '.join(path.name for path in self.mails.iterdir())
        for event in EVENTS:
            self.assertIn(f'{event} for alice', mails)

    def click(self, parent, name):
        button = parent.get_by_role('button', name=name)
        expect(button).to_be_visible()
        # The client ignores a click while it still builds the page
        self.page.wait_for_load_state('networkidle')
        button.click()

    def open(self, expected, *names):
        "Open the entry of the menu, through its parents, and see expected."
        entries = [
            self.page.locator('#menu').get_by_text(name).last
            for name in names]
        for entry, shown in pairwise([*entries, expected]):
            expect(entry).to_be_visible()
            # The client drops a click now and then
            for _ in range(5):
                entry.click()
                with suppress(AssertionError):
                    expect(shown).to_be_visible(timeout=5_000)
                    break

    def set_up(self, current=None):
        """Set TOTP up with the wizard and return the authenticator.

        current: the authenticator that is replaced
        """
        if current:
            self.menu().click()
        wizard = self.page.locator('.wizard-dialog')
        expect(wizard.locator('.form-image img.center-block')).to_be_visible()
        uri = zxingcpp.read_barcode(
            Image.open(self.screenshot('wizard'))).text
        self.assertEqual(wizard.get_by_label("URI").input_value(), uri)
        if current:
            wizard.get_by_label("Current Code:").fill(current.next_code())
        authenticator = Authenticator(uri)
        wizard.get_by_label("Code:", exact=True).fill(authenticator.code())
        self.screenshot('wizard-code')
        wizard.get_by_role('button', name="Confirm").click()
        expect(wizard.get_by_text("TOTP is on.")).to_be_visible()
        expect(wizard.locator('textarea')).to_have_value(RECOVERY_CODES)
        self.screenshot('wizard-done')
        self.click(wizard, "Close")
        return authenticator
