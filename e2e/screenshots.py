# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Take the screenshots of the manual, and those of the wizard in languages and
on screens that somebody should look at
"""

from playwright.sync_api import expect

from demo.demo import DATABASE, ROOT

from .common import add_users, new_server
from .sao import Sao, chromium

TOOLS = ROOT / '.e2e'
DATA = TOOLS / 'data'
LOOKS = TOOLS / 'looks'
MANUAL = ROOT / 'doc' / 'images'
LANGUAGES = ['en', 'de', 'es', 'fa']
WIDTHS = [1280, 390]
SHARP = 2


def main():
    server = new_server(
        TOOLS, DATA, LOOKS,
        # So that all dialogs can be seen
        authentications='password+totp?no_totp_secret:setup_totp')
    server.run(
        'trytond-admin', '-d', DATABASE, '-u', 'authentication_totp',
        '-l', *LANGUAGES)
    add_users(server)
    with server.serve(), chromium() as browser:
        for language in LANGUAGES:
            look(browser, server, language)
        take(browser, server)


def look(browser, server, language):
    "Take the wizard and the login in the language, on both kinds of screens."
    for width in WIDTHS:
        folder = LOOKS / f'{language}-{width}'
        folder.mkdir()
        sao = Sao(
            browser, server, folder, locale=language.replace('_', '-'),
            color_scheme='dark', viewport={'width': width, 'height': 720})
        password = sao.page.locator('input[name=password]')
        # Another user than that of the manual, whose key must be the first
        enter(sao, sao.page.locator('#login'), 'frank', password)
        enter(sao, password, server.password('frank'), sao.qr_code)
        speak(sao, language)
        expect(sao.qr_code).to_be_visible()
        sao.page.wait_for_load_state('networkidle')
        sao.screenshot('wizard')
        # Only after this wizard the client knows the direction of the language
        sao.wizard.locator('.modal-footer button').first.click()
        entry = sao.page.locator('#menu').get_by_text("TOTP").first
        sao.until(expect(sao.qr_code).to_be_visible, entry.click)
        sao.page.wait_for_load_state('networkidle')
        sao.screenshot('wizard-from-menu')
        speak(sao, 'en')
        expect(sao.qr_code).to_be_visible()
        sao.page.close()


def enter(sao, field, text, shown):
    expect(field).to_be_visible()
    sao.screenshot('login')
    field.fill(text)
    sao.until(expect(shown).to_be_visible, field.press, 'Enter')


def speak(sao, language):
    "Change the language of the user."
    sao.page.evaluate(
        """language => Sao.rpc({
            method: 'model.res.user.set_preferences',
            params: [{language: language}, {}],
            }, Sao.Session.current_session)""", language)
    sao.page.reload()


def take(browser, server):
    "Take the screenshots of the manual."
    folder = LOOKS / 'manual'
    folder.mkdir()
    sao = Sao(browser, server, folder, device_scale_factor=SHARP)
    sao.login()
    expect(sao.qr_code).to_be_visible()
    shot(sao, 'setup_totp', sao.wizard)
    authenticator = sao.set_up(close=False)
    shot(sao, 'setup_totp_done', sao.wizard)
    sao.close()
    sao.answer_ended_session(authenticator)
    sao.overview()
    shot(sao, 'setup_totp_overview', sao.wizard)
    sao.click(sao.wizard, "Close")
    preferences = sao.page.locator('.modal').filter(has_text="Preferences")
    sao.page.evaluate('Sao.preferences()')
    expect(preferences.get_by_label("TOTP Recovery Codes:")).to_be_visible()
    shot(sao, 'preferences', preferences)
    sao.page.reload()
    sao.logout()
    sao.login()
    question = sao.page.locator('.ask-dialog')
    expect(question).to_contain_text("Enter the code")
    shot(sao, 'code', question)
    sao.page.close()

    sao = Sao(browser, server, folder, device_scale_factor=SHARP)
    sao.login('admin')
    sao.cancel_wizards()
    bob = sao.page.locator('td').get_by_text("Bob", exact=True)
    sao.open(bob, "Administration", "Users", "Users")
    shot(sao, 'users')
    locked = sao.page.get_by_label("TOTP Locked:")
    page = sao.page.get_by_role('tab', name="TOTP", exact=True)
    sao.until(expect(page).to_be_visible, bob.dblclick)
    page.click()
    expect(locked).to_be_visible()
    shot(sao, 'user')
    sao.page.evaluate(
        """() => Sao.rpc({
            method: 'model.res.user.search',
            params: [[['login', '=', 'bob']], 0, null, null, {}],
            }, Sao.Session.current_session).then(ids => Sao.rpc({
                method: 'model.res.user.write',
                params: [ids, {totp_required: true}, {}],
            }, Sao.Session.current_session))""")
    sao.page.get_by_role('button', name="Launch action").click()
    sao.page.get_by_role("menuitem", name="Reset TOTP").click()
    expect(sao.wizard.get_by_text("Have you verified")).to_be_visible()
    shot(sao, 'reset_totp', sao.wizard)
    sao.click(sao.wizard, "Reset")
    expect(sao.wizard).to_be_hidden()
    sao.open(
        sao.page.locator('td').get_by_text("TOTP was reset"), "TOTP Events")
    shot(sao, 'events')
    sao.page.close()

    sao = Sao(browser, server, folder, device_scale_factor=SHARP)
    sao.login('bob')
    question = sao.page.locator('.ask-dialog')
    expect(question).to_contain_text("Add an entry")
    shot(sao, 'login_setup', question)
    sao.page.close()


def shot(sao, name, dialog=None):
    "Take the page, or the dialog alone, once nothing moves."
    sao.page.wait_for_load_state('networkidle')
    target = dialog.locator('.modal-content') if dialog else sao.page
    target.screenshot(path=MANUAL / f'{name}.png', animations='disabled')


if __name__ == '__main__':
    main()
