# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Take the screenshots of the manual, and those of the wizard in languages and
on screens that somebody should look at
"""

import shutil

from playwright.sync_api import expect

from demo.demo import DATABASE, ROOT, Server, free_port

from .sao import Sao, chromium

TOOLS = ROOT / '.e2e'
DATA = TOOLS / 'data'
LOOKS = TOOLS / 'looks'
MANUAL = ROOT / 'doc' / 'images'
LANGUAGES = ['en', 'de', 'es', 'fa', 'zh_CN']
WIDTHS = [1280, 360]
SHARP = 2


def main():
    for folder in [DATA, LOOKS]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    server = Server(TOOLS, DATA, free_port())
    server.build()
    server.run(
        'trytond-admin', '-d', DATABASE, '-u', 'authentication_totp',
        *(arg for code in LANGUAGES for arg in ['-l', code]))
    # So that all dialogs can be seen
    config = server.config.read_text()
    server.config.write_text(config.replace(
            '?no_totp_secret', '?no_totp_secret:setup_totp'))
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
        enter(sao, '#login', 'alice')
        enter(sao, 'input[name=password]', server.password('alice'))
        qr_code = sao.wizard.locator('.form-image img.center-block')
        expect(qr_code).to_be_visible()
        speak(sao, language)
        expect(qr_code).to_be_visible()
        sao.screenshot('wizard')
        speak(sao, 'en')
        sao.page.close()


def enter(sao, selector, text):
    field = sao.page.locator(selector)
    expect(field).to_be_visible()
    sao.screenshot('login')
    field.fill(text)
    field.press('Enter')


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


if __name__ == '__main__':
    main()
