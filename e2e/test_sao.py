# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The web client in a browser, against a server of its own"

import unittest
from contextlib import ExitStack

from playwright.sync_api import expect

from demo.demo import ROOT

from .common import CODE_WRONG, new_server
from .sao import Sao, chromium

TOOLS = ROOT / '.e2e'
DATA = TOOLS / 'data'
SCREENSHOTS = TOOLS / 'screenshots'
CODE_USED = (
    "The code was already used. Wait for the next code and enter it.")
EVENTS = [
    "TOTP was set up",
    "All authenticators were replaced", "An authenticator was added",
    "An authenticator was removed", "TOTP was turned off"]


class SaoTestCase(unittest.TestCase):
    "Test the module in sao"

    @classmethod
    def setUpClass(cls):
        stack = ExitStack()
        cls.addClassCleanup(stack.close)
        cls.server = new_server(TOOLS, DATA, SCREENSHOTS)
        stack.enter_context(cls.server.serve())
        cls.browser = stack.enter_context(chromium())

    def test_setup_and_login(self):
        "Test setting TOTP up and logging in with it"
        sao = Sao(self.browser, self.server, SCREENSHOTS)
        sao.login()
        # The wizard opens by itself
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator)
        sao.menu()
        sao.logout()

        sao.login()
        code = authenticator.next_code()
        sao.answer_code(code, 'code')
        sao.menu()
        sao.logout()

        sao.login()
        sao.answer_code(code, 'code')
        sao.answer_code(authenticator.wrong_code(), 'used', CODE_USED)
        sao.answer_code(authenticator.next_code(), 'wrong', CODE_WRONG)
        # A new phone
        sao.overview()
        sao.press("Replace All", authenticator.next_code())
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator)
        sao.menu()
        # One more
        sao.overview()
        sao.press("Add", authenticator.next_code())
        tablet = sao.set_up(codes=False)
        sao.answer_ended_session(tablet)
        sao.overview()
        sao.press(
            "Rename", authenticator.next_code(),
            authenticator="Authenticator 2", name="Tablet")
        for name in ["Authenticator", "Tablet"]:
            expect(sao.wizard.locator('td').get_by_text(
                    name, exact=True)).to_be_visible()
        expect(sao.code).to_have_value('')
        # The names to choose from are the new ones
        sao.press(
            "Remove", authenticator.next_code(), authenticator="Tablet")
        sao.answer_ended_session(authenticator)
        sao.overview()
        sao.press("New Recovery Codes", authenticator.next_code())
        code, *_ = sao.read_recovery_codes()
        sao.screenshot('recovery-codes')
        sao.close()
        expect(sao.wizard).to_be_hidden()
        # It asks before it turns TOTP off
        sao.overview()
        sao.press("Turn off TOTP", code)
        warning = sao.page.locator('.modal').filter(
            has_text="You will log in with the password alone")
        expect(warning).to_be_visible()
        sao.screenshot('turn-off-warning')
        sao.click(warning, "Yes")
        sao.answer_password('alice', 'ended')
        expect(sao.wizard).to_be_hidden()
        # Who has no TOTP sees a new key at once
        sao.menu().click()
        expect(sao.qr_code).to_be_visible()
        sao.click(sao.wizard, "Cancel")
        expect(sao.wizard).to_be_hidden()
        sao.logout()

        sao.login('admin')
        sao.cancel_wizards()
        events = [
            sao.page.locator('td').get_by_text(event).first
            for event in EVENTS]
        sao.open(events[0], "Administration", "Users", "TOTP Events")
        for event in events:
            expect(event).to_be_visible()
        sao.screenshot('events')
        mails = ' '.join(path.name for path in self.server.mails.iterdir())
        for event in EVENTS:
            self.assertIn(f'{event} for alice', mails)
