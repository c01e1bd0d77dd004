# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The web client, as a person with an authenticator uses it"

import shutil
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise

import zxingcpp
from PIL import Image
from playwright.sync_api import TimeoutError, expect, sync_playwright

from .common import CODE, PASSWORD, RECOVERY_CODES, Authenticator

expect.set_options(timeout=60_000)
PHONE = {'width': 390, 'height': 844}


@contextmanager
def chromium():
    "Run a browser until the end of the context."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
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
        yield browser
        browser.close()


class Sao:
    """A page with the web client

    browser: the browser to open the page in
    server: the demo.Server
    screenshots: the folder where they go, numbered
    phone: the folder for the same on the screen of a phone
    options: the size and the language of the page, as playwright takes them
    """

    def __init__(
            self, browser, server, screenshots, phone=None, **options):
        self.server = server
        self.screenshots = screenshots
        self.phone = phone
        self.count = 0
        # A small laptop
        options.setdefault('viewport', {'width': 1280, 'height': 720})
        self.page = browser.new_page(**options)
        self.page.goto(f'http://localhost:{server.port}/')
        self.wizard = self.page.locator('.wizard-dialog')
        self.qr_code = self.wizard.locator('.form-image img.center-block')

    def screenshot(self, name):
        self.count += 1
        file = f'{self.count:02}-{name}.png'
        if self.phone:
            size = self.page.viewport_size
            self.page.set_viewport_size(PHONE)
            # There the menu and the tabs share one place
            tabs = self.page.locator('#tablist > *').count()
            if tabs:
                self.toggle_menu()
            self.page.screenshot(
                path=self.phone / file, animations='disabled')
            if tabs:
                self.toggle_menu()
            self.page.set_viewport_size(size)
        path = self.screenshots / file
        self.page.screenshot(path=path, animations='disabled')
        return path

    def toggle_menu(self):
        self.page.evaluate('jQuery("[data-toggle=menu]").click()')

    def login(self, login='alice'):
        "Enter login and password, with the keyboard."
        field = self.page.locator('.login-dialog #login')
        expect(field).to_be_focused()
        self.page.keyboard.type(login)
        self.screenshot('login')
        self.page.keyboard.press('Enter')
        self.answer_password(login, 'password')

    def answer_password(self, login, screenshot):
        self.answer(
            'password', PASSWORD % login, self.server.password(login),
            screenshot)

    def answer_code(self, code, screenshot, message=CODE % 'alice'):
        self.answer('totp_code', message, code, screenshot)

    def answer_ended_session(self, authenticator, login='alice'):
        "Log in again, as the wizard has ended the session of the user."
        self.answer_password(login, 'ended')
        self.answer_code(
            authenticator.next_code(), 'ended-code', CODE % login)
        expect(self.wizard).to_be_hidden()

    def answer(self, name, message, value, screenshot):
        "Enter the value of name when message asks for it, with the keyboard."
        # The client keeps the last one, which may have the same message
        dialog = self.page.locator('.ask-dialog:visible').filter(
            has_text=message)
        field = dialog.locator(f'input[name={name}]')
        expect(field).to_be_focused()
        self.screenshot(screenshot)
        expect(field).to_be_focused()
        self.page.keyboard.type(value)
        entered = field.element_handle()
        self.until(
            partial(entered.wait_for_element_state, 'hidden'),
            self.page.keyboard.press, 'Enter')

    def answer_wait(self, code):
        "Enter a recovery code, as codes are not accepted for a while."
        self.answer(
            'totp_code', "Too many wrong codes. Try again in ", code, 'wait')

    def menu(self, name="Set up TOTP (Two-Factor Login)"):
        "Return the entry of the menu, once it is there."
        entry = self.page.locator('#menu').get_by_text(name)
        expect(entry).to_be_visible()
        self.screenshot('menu')
        return entry

    def cancel_wizards(self):
        "Cancel those which open when an administrator logs in at first."
        self.click(self.wizard, "Cancel")
        expect(self.wizard).to_be_hidden()
        entry = self.page.locator('#menu').get_by_text("Administration").last
        self.until(
            expect(entry).to_be_visible,
            self.page.get_by_role('button', name="Cancel").click)
        self.page.wait_for_load_state('networkidle')
        # Each wizard that closes draws the menu. If the client draws one of
        # them later than the other, no entry of the menu opens.
        self.page.evaluate('Sao.menu()')
        self.page.wait_for_load_state('networkidle')
        expect(entry).to_be_visible()

    def logout(self):
        self.page.locator('#user-preferences > a').click()
        self.page.get_by_text("Logout").click()
        expect(self.page.locator('.login-dialog')).to_be_visible()
        # At the next login sao would leave the menu open
        self.page.reload()

    def click(self, parent, name):
        button = parent.get_by_role('button', name=name, exact=True)
        expect(button).to_be_visible()
        # The client ignores a click while it still builds the page
        self.page.wait_for_load_state('networkidle')
        # No finger is faster, and the client draws the page anew meanwhile
        button.click(delay=100)

    def open(self, expected, *names):
        "Open the entry of the menu, through its parents, and see expected."
        # An entry may have the name of its parent, which is above it
        entries = [
            self.page.locator('#menu').get_by_text(name, exact=True).nth(
                names[:i].count(name))
            for i, name in enumerate(names)]
        for entry, shown in pairwise([*entries, expected]):
            self.until(expect(shown).to_be_visible, entry.click)

    def until(self, check, act, *args):
        "Act until the check of playwright passes."
        # The client drops a click or a key now and then
        for _ in range(5):
            act(*args)
            with suppress(AssertionError, TimeoutError):
                check(timeout=5_000)
                return
        check()

    def action(self, name):
        "Launch the action of the records selected."
        self.page.get_by_role('button', name="Launch action").click()
        self.page.get_by_role('menuitem', name=name).click()
        expect(self.wizard).to_be_visible()
        # The client would clear what is entered while it builds the page
        self.page.wait_for_load_state('networkidle')

    def cell(self, text):
        "Return the cell of a list with the text."
        return self.page.locator('td:visible').get_by_text(
            text, exact=True).first

    def scan(self):
        "Return the URI of the QR code that the wizard shows."
        expect(self.qr_code).to_be_visible()
        self.page.wait_for_load_state('networkidle')
        while not (barcode := zxingcpp.read_barcode(
                    Image.open(self.screenshot('scan')))):
            # The browser may still draw
            self.page.wait_for_timeout(200)
        return barcode.text

    @property
    def code(self):
        "The field of the wizard that asks for a code"
        return self.wizard.get_by_label("Code:", exact=True)

    def overview(self):
        "Open the wizard of a user who has TOTP."
        self.menu().click()
        expect(self.code).to_be_focused()
        # The client would clear what is entered while it builds the page
        self.page.wait_for_load_state('networkidle')
        self.screenshot('overview')

    def press(self, button, code, **values):
        "Fill the overview and press the button."
        for name, value in values.items():
            field = self.wizard.get_by_label(
                {'authenticator': "Authenticator:", 'name': "New Name:"}[name],
                exact=True)
            if name == 'authenticator':
                field.select_option(label=value)
                # The client draws the page again, without what is typed
                # before it has done so
                expect(self.wizard.get_by_role(
                        'button', name=button)).to_be_visible()
                self.page.wait_for_load_state('networkidle')
            else:
                field.fill(value)
        def fill():
            self.code.fill(code)
            # The client refreshes the choices when a field loses the focus,
            # and would send none if the button were pressed then
            self.code.blur()

        self.until(partial(expect(self.code).to_have_value, code), fill)
        self.screenshot(button.lower().replace(' ', '-'))
        self.click(self.wizard, button)

    def set_up(self, close=True, codes=True):
        """Set TOTP up with the page to scan and return the authenticator.

        The new recovery codes are in codes.
        It takes the keyboard alone, except where no recovery codes are shown.
        close: whether the wizard is closed at the end
        codes: whether recovery codes are shown
        """
        uri = self.scan()
        # An authenticator on the same screen opens it
        expect(self.wizard.get_by_label("URI")).to_have_attribute('href', uri)
        authenticator = Authenticator(uri)
        self.confirm(authenticator)
        if codes:
            self.codes = self.read_recovery_codes()
        self.screenshot('done')
        if close:
            self.close(codes)
        return authenticator

    def confirm(self, authenticator):
        "Enter the code of the new authenticator with the keyboard."
        expect(self.code).to_be_focused()
        self.page.keyboard.type(authenticator.code())
        self.screenshot('scan-code')
        self.page.keyboard.press('Enter')
        expect(self.wizard.get_by_text("TOTP is on.")).to_be_visible()

    @property
    def recovery_codes(self):
        return self.wizard.locator('label').get_by_text(RECOVERY_CODES)

    def read_recovery_codes(self):
        "Return those that the wizard shows."
        for size in [PHONE, self.page.viewport_size]:
            self.page.set_viewport_size(size)
            # Nobody must scroll to see them all
            expect(self.recovery_codes).to_be_in_viewport(ratio=1)
        # The key that loses what other pages show
        self.page.keyboard.press('Escape')
        text = self.wizard.locator('textarea')
        expect(text).to_have_value(RECOVERY_CODES)
        expect(self.recovery_codes).to_be_visible()
        return text.input_value().split()

    def close(self, codes=True):
        "Close the page with the recovery codes, once they are saved."
        if codes:
            button = self.wizard.get_by_role('button', name="Close")
            expect(button).to_be_disabled()
            expect(self.wizard.get_by_label(
                    "I have saved them")).to_be_focused()
            self.page.keyboard.press('Space')
            expect(button).to_be_enabled()
            # They are not behind the password that is asked for next
            expect(self.recovery_codes).to_be_hidden()
            self.screenshot('saved')
            self.page.wait_for_load_state('networkidle')
            self.page.keyboard.press('Enter')
        else:
            self.click(self.wizard, "Close")
