# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import re

import polib

from trytond.pool import Pool
from trytond.transaction import Transaction

from . import translations
from .tools import ADDRESS, PASSWORD, RPC, TOTPTestCase

# The length of a line of a label that fits on a small screen
LINE = 48


class LocaleTestCase(TOTPTestCase):
    "Test the translations"
    authentications = 'password+totp?no_totp_secret'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.languages = translations.languages()
        translations.load(cls.languages, [translations.MODULE])

    def file(self, language):
        return polib.pofile(str(translations.FOLDER / f'{language}.po'))

    def entries(self):
        for language in self.languages:
            for entry in self.file(language):
                with self.subTest(
                        language=language, entry=entry.msgctxt,
                        text=entry.msgid):
                    yield entry

    def test_languages(self):
        "Test that the required languages exist"
        self.assertLessEqual(
            {'ca', 'de', 'es', 'fr', 'it', 'nl', 'pl', 'pt', 'sl'},
            set(self.languages))

    def test_complete(self):
        "Test that each file has all texts that Tryton exports, translated"
        exported, = translations.export([translations.SOURCE])
        sources = [(e.msgctxt, e.msgid) for e in exported]
        for language in self.languages:
            with self.subTest(language=language):
                file = self.file(language)
                self.assertEqual(
                    [(e.msgctxt, e.msgid) for e in file], sources)
                self.assertEqual(file.untranslated_entries(), [])
                self.assertEqual(file.fuzzy_entries(), [])

    def test_placeholders(self):
        "Test that translations have the placeholders of their sources"
        for entry in self.entries():
            for translated in entry.msgstr_plural.values() or [entry.msgstr]:
                self.assertEqual(
                    *(sorted(re.findall(r'%\(\w+\)s|%', text))
                        for text in [entry.msgid, translated]))

    def test_plurals(self):
        "Test that texts with a number have each plural form of the language"
        with self.transaction():
            Lang = Pool().get('ir.lang')
            numbers = {
                lang.code: lang.nplurals for lang in Lang.search([])}
        count = 0
        for language in self.languages:
            for entry in self.file(language):
                if entry.msgid_plural:
                    with self.subTest(language=language, text=entry.msgid):
                        self.assertEqual(
                            list(entry.msgstr_plural),
                            list(range(numbers[language])))
                        count += 1
        self.assertTrue(count)

    def test_lines(self):
        "Test that lines in views fit on a small screen"
        for entry in self.entries():
            if entry.msgctxt.startswith('view:'):
                for text in [entry.msgid, entry.msgstr]:
                    self.assertLessEqual(
                        max(map(len, text.splitlines())), LINE)

    def test_names(self):
        "Test that texts use the translated names of menu entries"
        for language in self.languages:
            file = self.file(language)
            names = {
                e.msgid: e.msgstr for e in file
                if e.msgctxt.startswith('model:ir.ui.menu,')}
            for entry in file:
                for name, translated in names.items():
                    if f'"{name}"' in entry.msgid:
                        with self.subTest(
                                language=language, text=entry.msgid):
                            self.assertIn(translated, entry.msgstr)

    def test_wizard(self):
        "Test that the wizard is shown in each language"
        login, user_id = self.user()
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        for language in self.languages:
            with self.subTest(language=language):
                context = {'language': language}
                session_id, start, _ = rpc.call(
                    'wizard.res.user.setup_totp.create', context)
                result = rpc.call(
                    'wizard.res.user.setup_totp.execute', session_id, {},
                    start, context)
                view = result['view']['fields_view']
                texts = '\n'.join([
                        view['arch'], *(field[name]
                            for field in view['fields'].values()
                            for name in ['string', 'help'])])
                translated = [
                    e.msgstr.replace('\n', '&#10;')
                    for e in self.file(language)
                    if re.match(
                        r'(field|help|view):res\.user\.setup_totp\.start\b',
                        e.msgctxt)]
                self.assertGreater(len(translated), 10)
                self.assertEqual(
                    [t for t in translated if t not in texts], [])

    def test_email(self):
        "Test that the e-mails are in the language of the user"
        _, user_id = self.user()
        with self.transaction():
            pool = Pool()
            Event = pool.get('res.user.totp_event')
            Lang = pool.get('ir.lang')
            User = pool.get('res.user')
            Email = pool.get('res.user.totp_event.email', type='report')
            events = Event.create([{
                        'user': user_id, 'kind': kind,
                        'time': dt.datetime(2033, 5, 18), 'actor': actor,
                        'address': ADDRESS, 'authenticator': "Tablet",
                        } for kind, _ in Event.kind.selection
                    for actor in [1, None]])
            user = User(user_id)
            for user.language in Lang.search([
                        ('code', 'in', self.languages)]):
                user.save()
                messages = [
                    Email.write(event, True) for event in Event.browse(events)]
                texts = ' '.join(' '.join(
                        message.get_body(['plain']).get_content()
                        for message in messages).split())
                with self.subTest(language=user.language.code):
                    self.assertIn(
                        f' dir="{user.language.direction}"',
                        messages[0].get_body(['html']).get_content())
                    self.assertEqual([
                            e.msgstr for e in self.file(user.language.code)
                            if e.msgctxt.startswith(
                                'model:ir.message,text:msg_totp_email_')
                            and '%' not in e.msgstr
                            and ' '.join(e.msgstr.split()) not in texts], [])
            Transaction().rollback()
