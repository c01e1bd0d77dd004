# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import string
import sys
import unittest
from itertools import chain
from unicodedata import category, decimal

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool

from .test_login import ASK
from .test_login_setup import KEY_SHOWN
from .tools import (
    KEY, PASSWORD, RPC, Refused, TOTPTestCase, right_code, secret_from)

# The zero of each script; the other digits follow it
SCRIPTS = {
    'ASCII': '0',
    'Arabic': '\u0660',
    'Persian': '\u06f0',
    'Devanagari': '\u0966',
    'Bengali': '\u09e6',
    'Thai': '\u0e50',
    'full-width': '\uff10',
    # Beyond what two bytes hold
    'Adlam': '\U0001e950',
    }
INVISIBLE = {
    'zero-width space': '\u200b',
    'zero-width joiner': '\u200d',
    'left-to-right mark': '\u200e',
    'right-to-left mark': '\u200f',
    'Arabic letter mark': '\u061c',
    'right-to-left override': '\u202e',
    'left-to-right isolate': '\u2066',
    'pop directional isolate': '\u2069',
    'word joiner': '\u2060',
    'byte order mark': '\ufeff',
    'soft hyphen': '\u00ad',
    'variation selector': '\ufe0f',
    'variation selector of the supplement': '\U000e0100',
    'combining grapheme joiner': '\u034f',
    'Hangul filler': '\u3164',
    'Mongolian vowel separator': '\u180e',
    }
SPACES = {
    'space': ' ',
    'tab': '\t',
    'newline': '\n',
    'carriage return and newline': '\r\n',
    'next line': '\x85',
    'no-break space': '\xa0',
    'thin space': '\u2009',
    'figure space': '\u2007',
    'narrow no-break space': '\u202f',
    'ideographic space': '\u3000',
    'line separator': '\u2028',
    }
DASHES = {
    'hyphen-minus': '-',
    'hyphen': '\u2010',
    'non-breaking hyphen': '\u2011',
    'en dash': '\u2013',
    'em dash': '\u2014',
    'minus sign': '\u2212',
    'hyphen bullet': '\u2043',
    'modifier letter minus sign': '\u02d7',
    'small hyphen-minus': '\ufe63',
    'full-width hyphen-minus': '\uff0d',
    'wave dash': '\u301c',
    }
# Numerals that do not look like the digits of a code
STRANGE = {
    'Roman numerals': '\u2169\u2160\u2161\u2162\u2163\u2164\u2165\u2166\u2167'
    '\u2168',
    'superscripts': '\u2070\xb9\xb2\xb3\u2074\u2075\u2076\u2077\u2078\u2079',
    'subscripts': '\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088'
    '\u2089',
    'circled': '\u24ea\u2460\u2461\u2462\u2463\u2464\u2465\u2466\u2467\u2468',
    'Chinese': '\u3007\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d',
    'letters': 'OIZEASGTBP',
    }


def in_script(code, zero):
    "Return the code with the digits that follow the zero"
    return code.translate(
        {ord('0') + digit: chr(ord(zero) + digit) for digit in range(10)})


def full_width(text):
    return text.translate({
            ord(character): ord(character) + 0xfee0
            for character in string.ascii_letters + string.digits})


def forms(code):
    "Yield the forms of the code, with a name for each"
    for name, zero in SCRIPTS.items():
        yield name, in_script(code, zero)
    for marks in [INVISIBLE, SPACES, DASHES]:
        for name, mark in marks.items():
            yield f'{name} inside', f'{code[:3]}{mark}{code[3:]}'
            yield f'{name} at the end', code + mark
            yield f'{name} at the beginning', mark + code
    yield 'all together', '\u202b' + '\u200f \u2212'.join(
        in_script(code, '\u06f0')) + '\u202c\r\n'
    yield 'several scripts', code[:3] + in_script(code[3:], '\u0660')
    # As if the space bar was held down
    yield 'long', code + ' ' * (128 - len(code))


class CleanTestCase(unittest.TestCase):
    "Test the removal of characters, without database"
    now = 2_000_000_000

    def match(self, code, key=KEY):
        return secret_from(key).match(code, self.now, 0)

    def test_scripts(self):
        "Test the decimal digits of every script that Python knows"
        code = right_code(KEY, self.now)
        zeros = [
            character for character in map(chr, range(sys.maxunicode + 1))
            if category(character) == 'Nd' and not decimal(character)]
        self.assertGreater(len(zeros), 50)
        for zero in zeros:
            with self.subTest(zero=ascii(zero)):
                self.assertEqual(
                    self.match(in_script(code, zero)), self.now // 30)

    def test_removed(self):
        "Test that of all characters inside a code only invisible ones vanish"
        code = right_code(KEY, self.now)
        secret = secret_from(KEY)
        # The planes that contain characters
        planes = [range(0x20000), range(0xe0000, 0xe1000)]
        removed = {
            character for character in map(chr, chain(*planes))
            if secret.match(
                f'{code[:3]}{character}{code[3:]}', self.now, 0)}
        for character in removed:
            if character not in '\u2212\u2043\u02d7':
                with self.subTest(character=ascii(character)):
                    self.assertTrue(
                        character.isspace()
                        # Format, control and non-spacing characters, some
                        # Hangul fillers, and reserved code points
                        or category(character) in {'Pd', 'Cf', 'Mn', 'Cn'}
                        or character in '\u115f\u1160\u3164\uffa0')
        for name, mark in {**INVISIBLE, **SPACES, **DASHES}.items():
            if len(mark) == 1:
                with self.subTest(mark=name):
                    self.assertIn(mark, removed)
        # Visible marks, including decimal separators
        for mark in '.,_/\u066b\u066c\u00b7\u2022\u0301\u064e':
            with self.subTest(mark=ascii(mark)):
                self.assertNotIn(mark, removed)

    def test_keys(self):
        "Test that a key is cleaned like a code"
        secret = secret_from(KEY)
        groups = secret.text.split()
        for form in [
                secret.text, full_width(KEY), full_width(KEY).lower(),
                in_script(KEY, '\u0660'), f'\ufeff{KEY}\r\n', f'{KEY}====',
                *(mark.join(groups) for mark in {
                        **INVISIBLE, **SPACES, **DASHES}.values())]:
            with self.subTest(form=ascii(form)):
                self.assertEqual(secret_from(form), secret)

    def test_longest_key(self):
        "Test that the longest key can be typed as it is shown"
        secret = totp.Secret.new(1024, 'sha512', 6, 30)
        self.assertEqual(
            totp.Secret.from_key(secret.text, 'sha512', 6, 30), secret)

    def test_no_keys(self):
        "Test that anything but a key of 128 bits raises ValueError"
        for key in [
                None, True, 5, 5.5, KEY.encode(), [], [KEY], {}, object(),
                '', ' ', '\u200b', '=', 'A', 'A' * 24, KEY[:-1] + '1',
                KEY[:-1] + '0', KEY[:-1] + '8', KEY[:-1] + '\u0668',
                KEY + '.', KEY[:-1] + '\u00df', KEY[:-1] + '\u00b2',
                KEY[:-1] + '\u2461', KEY[:-1] + '\ud800', 'A=' * 16,
                KEY + 'A', 'A' * 10 ** 6 + '1']:
            with self.subTest(key=ascii(key)[:40]), \
                    self.assertRaises(ValueError):
                secret_from(key)


class TypedTestCase(TOTPTestCase):
    "Test the forms in which people enter what they read (law 9)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()

    def answer(self, login, code):
        "Return the id of the user who logs in, or the text of the answer"
        try:
            return RPC().login(login, password=PASSWORD, totp_code=code)
        except Refused as refused:
            error, *details = refused.args
            return details[0][1] if details else error

    def next(self):
        "Go to the next time step"
        self.now += 30

    def test_login(self):
        "Test the login dialog"
        login, user_id = self.user(KEY)
        for name, form in list(forms('000000')):
            code = dict(forms(self.code()))[name]
            with self.subTest(name, form=ascii(form)):
                self.assertEqual(self.answer(login, code), user_id)
            self.next()
            self.forget_failures(user_id)

    def test_login_8_digits(self):
        "Test a code of eight digits in groups of four"
        self.set_totp('digits', '8')
        login, user_id = self.user(KEY)
        for zero in SCRIPTS.values():
            code = in_script(self.authenticator_8(), zero)
            self.assertEqual(
                self.answer(login, f'{code[:4]}\u202f{code[4:]}\u200e'),
                user_id)
            self.next()

    def authenticator_8(self):
        secret = totp.Secret.from_key(KEY, 'sha1', 8, 30)
        return secret._totp.generate(self.now).token

    def test_strange(self):
        "Test that numerals that are not decimal digits are wrong"
        login, user_id = self.user(KEY)
        for name, digits in STRANGE.items():
            code = self.code().translate(
                {ord('0') + digit: digits[digit] for digit in range(10)})
            with self.subTest(name):
                self.assertIsInstance(self.answer(login, code), str)
                self.assertEqual(self.failures(user_id), 1)
                self.forget_failures(user_id)
        for code in [
                self.code()[:5] + '\u2167', self.code()[:5] + '\xb2',
                self.code()[:5] + '\u4e00', self.code()[:5] + '\u2460',
                self.code() + '\u2460', self.code() + '\u0301',
                self.code()[:3] + '.' + self.code()[3:],
                self.code()[:3] + '\u066b' + self.code()[3:],
                '+' + self.code(), f'{self.code()}.0', f'"{self.code()}"',
                self.code() + ' ' * 1000]:
            with self.subTest(code=ascii(code)):
                self.assertIsInstance(self.answer(login, code), str)
                self.assertEqual(self.failures(user_id), 1)
                self.forget_failures(user_id)
        self.assertEqual(self.answer(login, self.code()), user_id)

    def test_blank(self):
        "Test that only invisible characters are blank"
        login, user_id = self.user(KEY)
        for blank in [
                None, '', '\u200e \ufeff\n', *INVISIBLE.values(),
                *SPACES.values()]:
            with self.subTest(blank=ascii(blank)):
                self.assertEqual(self.answer(login, blank), ASK % login)
                self.assertEqual(self.failures(user_id), 0)
            self.forget_failures(user_id)
        for dash in DASHES.values():
            for code in [dash, f' {dash}\u200b']:
                with self.subTest(code=ascii(code)):
                    self.assertIsInstance(self.answer(login, code), str)
                    self.assertEqual(self.failures(user_id), 1)
                    self.forget_failures(user_id)

    def test_dialog(self):
        "Test the code that confirms the setup in the login dialog"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        for name in ['Persian', 'full-width', 'all together', 'long']:
            with self.subTest(name):
                login, user_id = self.user()
                # A blank code does not count as a wrong one
                self.assertRegex(self.answer(login, '\u200b'), KEY_SHOWN)
                with self.assertRaises(Refused) as context:
                    RPC().login(login, password=PASSWORD)
                key, = KEY_SHOWN.findall(context.exception.args[1][1])
                code = right_code(key, self.now)
                self.assertEqual(
                    self.answer(login, dict(forms(code))[name]), user_id)

    def test_wizard(self):
        "Test both codes that the wizard needs to replace the authenticator"
        for name in ['Arabic', 'full-width', 'all together', 'long']:
            with self.subTest(name):
                login, user_id = self.user(KEY)
                rpc = self.client(login)
                session_id, shown = rpc.start_setup(
                    dict(forms(self.code()))[name])
                code = right_code(shown['secret'], self.now)
                self.assertEqual(
                    rpc.confirm_setup(
                        session_id, shown, code=dict(forms(code))[name]),
                    'done')

    def test_wizards(self):
        "Test the other buttons that ask for a code"
        for name in ['Arabic', 'full-width', 'all together', 'long']:
            with self.subTest(name):
                login, user_id = self.user(KEY)
                _, shown = self.client(login).overview(
                    'renew', code=dict(forms(self.code()))[name])
                self.assertTrue(shown['recovery_codes'])
                self.next()
                self.client(login).turn_off(dict(forms(self.code()))[name])
                self.next()
                self.assertIsNone(self.stored_secret(user_id))

    def test_recovery_codes(self):
        "Test recovery codes in the login dialog and in a wizard"
        login, user_id = self.user(KEY)
        for form in [
                lambda code: full_width(code),
                lambda code: full_width(code).lower(),
                lambda code: in_script(code, '\u0966'),
                lambda code: f'\ufeff{code}\r\n',
                lambda code: '\u200b'.join(code),
                *(lambda code, mark=mark: code.replace('-', mark)
                    for mark in {**INVISIBLE, **SPACES, **DASHES}.values())]:
            with self.transaction():
                RecoveryCode = Pool().get('res.user.totp_recovery_code')
                first, second, *_ = RecoveryCode.renew(user_id)
            with self.subTest(form=ascii(form(first))):
                self.assertEqual(self.answer(login, form(first)), user_id)
                _, shown = self.client(login).overview(
                    'renew', code=form(second))
                self.assertTrue(shown['recovery_codes'])

    def test_set_totp_key(self):
        "Test that server code can set a key in the form that a file has it"
        login, user_id = self.user()
        for form in [
                f'\ufeff{KEY}\r\n', full_width(KEY),
                KEY[:16] + '\u2212\u200b' + KEY[16:].lower()]:
            with self.subTest(form=ascii(form)), self.transaction():
                Pool().get('res.user')(user_id).set_totp_key(form)
            self.assertEqual(self.answer(login, self.code()), user_id)
            self.next()
        with self.transaction():
            user = Pool().get('res.user')(user_id)
            for key in [None, KEY.encode(), 5, '\u200b', KEY[:-1] + '\xb2']:
                with self.subTest(key=ascii(key)), \
                        self.assertRaises(ValueError):
                    user.set_totp_key(key)
