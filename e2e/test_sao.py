# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The web client in a browser, against a server of its own

The pictures are of a small laptop and of a phone.
"""

import re
import unittest
from contextlib import ExitStack

from playwright.sync_api import expect

from demo.demo import ROOT

from .common import (
    CODE, CODE_WRONG, TOKEN, TOKEN_FILE, Authenticator, add_users, new_server)
from .sao import PHONE, Sao, chromium

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
        cls.server = new_server(
            TOOLS, DATA, SCREENSHOTS,
            authentications=(
                'password+totp?no_totp_secret:setup_totp:totp_device'))
        add_users(cls.server)
        stack.enter_context(cls.server.serve())
        cls.browser = stack.enter_context(chromium())

    def sao(self, name, **options):
        """Return a client on a device of its own.

        name: of the folders with its pictures
        options: as playwright takes them
        """
        folders = [
            SCREENSHOTS / f'{name}-{size}' for size in ['laptop', 'phone']]
        if 'viewport' in options:
            folders = folders[1:]
        for folder in folders:
            folder.mkdir()
        sao = Sao(self.browser, self.server, *folders, **options)
        self.addCleanup(sao.page.context.close)
        return sao

    def test_setup_and_login(self):
        "Test setting TOTP up, logging in with it and the overview"
        sao = self.sao('setup')
        sao.login()
        # The wizard opens by itself
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator)
        codes = sao.codes
        sao.menu()
        preferences = sao.page.locator('.modal').filter(
            has_text="Preferences")
        sao.page.evaluate('Sao.preferences()')
        expect(preferences.get_by_label(
                "TOTP Recovery Codes:")).to_be_visible()
        sao.screenshot('preferences')

        sao = self.sao('login')
        sao.login()
        code = authenticator.next_code()
        sao.answer_code(code, 'code')
        sao.menu()

        sao = self.sao('wait')
        sao.login()
        sao.answer_code(code, 'code')
        sao.answer_code(authenticator.wrong_code(), 'used', CODE_USED)
        for name in ['wrong', 'wrong-again']:
            sao.answer_code(authenticator.wrong_code(), name, CODE_WRONG)
        sao.answer_wait(codes.pop())
        # The phone is lost: one recovery code leads to a new one
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator)
        codes = sao.codes

        # A new phone, while the old one is there
        sao.overview()
        sao.press("Replace All", codes.pop())
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator)
        codes = sao.codes

        sao = self.sao('overview')
        sao.login()
        sao.answer_code(authenticator.next_code(), 'code')
        # One more
        sao.overview()
        sao.press("Add", codes.pop())
        tablet = sao.set_up(codes=False)
        sao.answer_ended_session(tablet)
        sao.overview()
        sao.press(
            "Rename", codes.pop(),
            authenticator="Authenticator 2", name="Tablet")
        expect(sao.wizard.locator('td:visible').get_by_text(
                re.compile("Authentic|Tablet"))).to_have_text(
                    ["Authenticator", "Tablet"])
        expect(sao.code).to_have_value('')
        # The names to choose from are the new ones
        sao.press("Remove", codes.pop(), authenticator="Tablet")
        sao.answer_ended_session(authenticator)
        sao.overview()
        sao.press("New Recovery Codes", codes.pop())
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
        mails = ' '.join(path.name for path in self.server.mails.iterdir())
        for event in EVENTS:
            self.assertIn(f'{event} for alice', mails)

    def test_keyboard(self):
        "Test setting TOTP up and a lost phone with the keyboard alone"
        sao = self.sao('keyboard')
        sao.login('frank')
        sao.answer_ended_session(sao.set_up(), 'frank')
        sao.menu()

        code = sao.codes[0]
        sao = self.sao('keyboard-lost')
        sao.login('frank')
        sao.answer_code(code, 'recovery-code', CODE % 'frank')
        authenticator = sao.set_up()
        sao.answer_ended_session(authenticator, 'frank')
        sao.menu()

    def test_phone(self):
        "Test setting TOTP up on a phone, before the day it is required"
        sao = self.sao(
            'required', viewport=PHONE, is_mobile=True, has_touch=True)
        sao.login('dave')
        expect(sao.wizard.get_by_label("Required From:")).to_be_visible()
        first = sao.scan()
        sao.wizard.get_by_role('button', name="Cancel").tap()
        expect(sao.wizard).to_be_hidden()
        sao.menu().tap()
        expect(sao.wizard.get_by_text("Delete the entry")).to_be_visible()
        self.assertNotEqual(sao.scan(), first)
        sao.answer_ended_session(sao.set_up(), 'dave')
        sao.menu()

    def test_administrator(self):
        "Test what an administrator sees of users, tokens and events"
        sao = self.sao('administrator')
        sao.login('admin')
        sao.cancel_wizards()
        self.look_after_users(sao)
        self.look_after_tokens(sao)
        event = sao.cell("TOTP was reset")
        sao.open(event, "Administration", "Users", "TOTP Events")
        sao.screenshot('events')
        for tab in ["Attacks", "Changes"]:
            sao.page.get_by_role('tab', name=tab, exact=True).click()
            sao.page.wait_for_load_state('networkidle')
            sao.screenshot(f'events-{tab.lower()}')
        expect(event).to_be_visible()

    def look_after_users(self, sao):
        users = {name: sao.cell(name) for name in ["Bob", "Erin"]}
        sao.open(users["Bob"], "Administration", "Users", "Users")
        sao.screenshot('users')
        for name, buttons in [
                ("Erin", ["Invite"]),
                ("Bob", ["Remove Authenticator", "Reset"])]:
            page = sao.page.get_by_role('tab', name="TOTP", exact=True)
            sao.until(expect(page).to_be_visible, users[name].dblclick)
            page.click()
            expect(sao.page.get_by_label(
                    "Require TOTP:", exact=True)).to_be_visible()
            sao.screenshot(f'user-{name.lower()}')
            for button in buttons:
                sao.click(sao.page, button)
                expect(sao.wizard).to_be_visible()
                sao.page.wait_for_load_state('networkidle')
                sao.screenshot(button.lower().replace(' ', '-'))
                if button == "Invite":
                    sao.click(sao.wizard, "Send")
                    expect(sao.wizard.get_by_text("on their way")
                        ).to_be_visible()
                    sao.screenshot('invited')
                    sao.click(sao.wizard, "Close")
                elif button == "Reset":
                    sao.click(sao.wizard, "Reset")
                else:
                    sao.click(sao.wizard, "Cancel")
                expect(sao.wizard).to_be_hidden()
            sao.click(sao.page, "Switch")

    def look_after_tokens(self, sao):
        importing = sao.page.locator('#menu').get_by_text("Import TOTP Tokens")
        sao.open(importing, "TOTP Tokens")
        sao.until(expect(sao.wizard).to_be_visible, importing.click)
        sao.screenshot('import')
        sao.wizard.locator('input[type=file]').set_input_files({
                'name': 'tokens.csv',
                'mimeType': 'text/csv',
                'buffer': TOKEN_FILE.encode(),
                })
        sao.click(sao.wizard, "Read")
        expect(sao.wizard.get_by_label("Refused:", exact=True)).to_have_value(
            '3')
        sao.page.wait_for_load_state('networkidle')
        sao.screenshot('import-preview')
        sao.click(sao.wizard, "Import")
        expect(sao.wizard.get_by_text("Delete the file now")).to_be_visible()
        sao.screenshot('imported')
        sao.click(sao.wizard, "Close")
        expect(sao.wizard).to_be_hidden()

        token = sao.cell("T0002")
        expect(sao.page.locator('.modal-backdrop')).to_have_count(0)
        sao.until(
            expect(token).to_be_visible,
            sao.page.get_by_role('button', name="Reload/Undo").click)
        sao.screenshot('tokens')
        token.click()
        sao.action("Assign")
        sao.screenshot('assign')
        sao.click(sao.wizard, "Cancel")
        expect(sao.wizard).to_be_hidden()
        sao.page.get_by_role('tab', name="Assigned").click()
        expect(sao.cell("Erin")).to_be_visible()
        sao.screenshot('tokens-assigned')

    def test_token(self):
        "Test setting TOTP up with a token"
        serial, key = TOKEN
        token = Authenticator(key)
        sao = self.sao('token')
        sao.login('erin')
        expect(sao.wizard.get_by_label("Serial Number:")).to_have_value(serial)
        field = sao.wizard.get_by_label("Token Code:")
        expect(field).to_be_focused()
        sao.screenshot('token')
        sao.page.keyboard.type(token.code())
        sao.page.keyboard.press('Enter')
        sao.read_recovery_codes()
        sao.close()
        sao.answer_ended_session(token, 'erin')
        sao.menu()
        # Another one, and what the page of who has TOTP shows of both
        sao.overview()
