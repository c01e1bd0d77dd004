# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from cryptography.fernet import Fernet

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool

from . import test_silent
from .test_login_setup import KEY_SHOWN
from .tools import (
    IS_KEY, KEY, LOCKED, OTHER_KEY, PASSWORD, REFUSED, RPC, WAIT, WITHOUT,
    WRONG, WRONG_DIGITS, WRONG_NEW, WRONG_RECOVERY, Refused, TOTPTestCase,
    right_code, secret_from)

WRONG_NEW_IN_DIALOG = (
    "The code is wrong. Enter the code that your authenticator shows now for "
    "the new entry. If you added more than one entry, use the newest and "
    "delete the others. To start again, leave the code blank.")
URI = f'otpauth://totp/Tryton:alice?secret={KEY}&issuer=Tryton'
# Texts that are keys, whether or not of the user
KEYS = [
    URI,
    URI.upper(),
    f' {URI}\n',
    f'\ufeff{URI}',
    'otpauth:',
    URI + '&image=' + 'x' * 1000,
    KEY,
    KEY.lower(),
    secret_from(KEY).text,
    secret_from(OTHER_KEY).text.replace(' ', '-'),
    # The shortest one, and one for SHA-512
    'GEZDGNBVGY3TQOJQGEZDGNBVGY',
    'OBSXEZDPNZSSAZDFEBQW4YJAMFWG65DSMUQG2ZLUMEQG65DSMEQGC3TBEBYGK4TEN5X'
    'GKIDE',
    ]
# Texts that are neither a code nor recognised as anything else
OTHERS = ['x', '000000x', 'ACDEFGHJKMNP', '......', '0.5', 'abc-def']


def misprints(code, other):
    """Return typical misprints of the recovery code

    other: another recovery code
    """
    letters = code.replace('-', '')
    return {
        'wrong letter': 'X' + code[1:] if code[0] != 'X' else 'Y' + code[1:],
        'misread letter': 'B' + code[1:],
        'misread digit': code[:-1] + '0',
        'missing letter': code[:-1],
        'missing letter inside': code[:3] + code[4:],
        'doubled letter': code[0] + code,
        'missing group': code[:23],
        'half': letters[:13],
        'lower case': code[:-1].lower(),
        'two': f'{code} {other}',
        'two lines': f'{code}\n{other}\n',
        'two without space': letters + other.replace('-', ''),
        'four': '\n'.join([code, other] * 2),
        'numbered': f'1. {code}',
        'bullet': f'\u2022 {code}',
        'quoted': f'"{code}"',
        'full stop': f'{code}.',
        'commas': code.replace('-', ','),
        'announced': f'Recovery code: {code}',
        }


class HintsTestCase(TOTPTestCase):
    "Test that a user who enters something else learns what to enter (law 9)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()

    def enrol(self):
        "Return login, id and recovery codes of a user who has TOTP"
        login, user_id = self.user(KEY)
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            return login, user_id, RecoveryCode.renew(user_id)

    def answer(self, login, code=None, **parameters):
        "Return the id of the user who logs in, or the text of the answer"
        if code is not None:
            parameters['totp_code'] = code
        try:
            return RPC().login(login, password=PASSWORD, **parameters)
        except Refused as refused:
            error, *details = refused.args
            return details[0][1] if details else error

    def told(self, function, *args, **kwargs):
        "Return the text that the user of a wizard is told"
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        self.assertEqual(context.exception.args[0], 'UserError')
        return context.exception.args[1][0]

    def counts(self, user_id):
        "Return the numbers of wrong codes and of wrong recovery codes"
        return tuple(
            self.failures(user_id, kind) for kind in ['elsewhere', 'recovery'])

    def set_other_key(self, user_id, digits):
        "Add an authenticator whose codes have that many digits"
        self.set_totp('digits', str(digits))
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            secret = user.start_totp_setup(self.code())
            user.finish_totp_setup(secret._totp.generate(self.now).token)
        self.set_totp('digits', '6')
        self.now += 300

    # Recovery codes

    def test_recovery_code(self):
        "Test the words for a misprinted recovery code, which counts as wrong"
        login, user_id, codes = self.enrol()
        for count, (name, text) in enumerate(
                misprints(*codes[:2]).items(), 1):
            with self.subTest(name, text=text):
                attempts = self.network_attempts()
                self.assertEqual(self.answer(login, text), WRONG_RECOVERY)
                self.assertEqual(self.counts(user_id), (0, count))
                self.assertEqual(self.network_attempts(), attempts + 1)
        self.assertEqual(
            self.events(user_id).count('recovery_failed'), 1)
        # The user does not have to wait
        self.assertEqual(self.answer(login, self.code()), user_id)
        self.assertEqual(self.answer(login, codes[0]), user_id)
        self.assertEqual(self.answer(login, codes[0]), WRONG_RECOVERY)

    def test_recovery_code_characters(self):
        "Test that the words name the characters that no recovery code has"
        codes = ''.join(totp.new_recovery_code() for _ in range(500))
        _, _, rest = WRONG_RECOVERY.partition('never contains ')
        names = rest.partition('.')[0].split(', ')
        self.assertEqual(
            set('0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ') - set(codes),
            set(names))

    def test_recovery_code_while_waiting(self):
        "Test that the words are the same during a delay and during a lockout"
        self.set_totp('max_failures', '4')
        login, user_id, codes = self.enrol()
        for _ in range(3):
            self.answer(login, self.code(95))
        misprint = misprints(*codes[:2])['missing letter']
        self.assertEqual(self.answer(login, self.code()), WAIT % "30 seconds")
        self.assertEqual(self.answer(login, misprint), WRONG_RECOVERY)
        self.now += 30
        self.answer(login, self.code(95))
        self.now += 3600
        self.assertEqual(self.answer(login, self.code()), LOCKED)
        self.assertEqual(self.answer(login, misprint), WRONG_RECOVERY)
        self.assertEqual(self.counts(user_id), (4, 2))
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_recovery_code_in_wizards(self):
        "Test that the wizards tell the same"
        login, user_id, codes = self.enrol()
        misprint = misprints(*codes[:2])['numbered']
        rpc = self.client(login)
        for button in ['add', 'replace', 'renew']:
            self.assertEqual(
                self.told(rpc.overview, button, code=misprint),
                WRONG_RECOVERY)
        self.assertEqual(
            self.told(rpc.turn_off, misprint), WRONG_RECOVERY)
        self.assertEqual(self.counts(user_id), (0, 4))

    def test_no_recovery_codes(self):
        "Test that the words do not mention recovery codes that are turned off"
        login, user_id, codes = self.enrol()
        self.set_totp('recovery_codes', '0')
        for count, text in enumerate(
                list(misprints(*codes[:2]).values())[:5], 1):
            answer = self.answer(login, text)
            self.assertNotIn("recovery code is wrong", answer)
            self.assertEqual(self.counts(user_id), (count, 0))
            self.now += 3600

    # Keys

    def test_key(self):
        "Test the words for a key, which counts as a wrong code"
        login, user_id, _ = self.enrol()
        for text in KEYS:
            with self.subTest(text=text[:60]):
                self.assertEqual(self.answer(login, text), IS_KEY % '6')
                self.assertEqual(self.counts(user_id), (1, 0))
            self.forget_failures(user_id)
        self.assertEqual(self.answer(login, self.code()), user_id)

    def test_key_waits(self):
        "Test that keys lead to the same delays and lockout as codes"
        self.set_totp('max_failures', '4')
        login, user_id, _ = self.enrol()
        for _ in range(2):
            self.assertEqual(self.answer(login, KEY), IS_KEY % '6')
        for text in KEYS:
            self.assertEqual(self.answer(login, text), WAIT % "30 seconds")
        self.assertEqual(self.counts(user_id), (3, 0))
        self.now += 30
        self.assertEqual(self.answer(login, URI), LOCKED)
        self.now += 3600
        for text in KEYS:
            self.assertEqual(self.answer(login, text), LOCKED)

    def test_key_digits(self):
        "Test that the words name the digits of the user's authenticators"
        login, user_id, _ = self.enrol()
        self.set_other_key(user_id, 8)
        self.assertEqual(self.answer(login, KEY), IS_KEY % '6 or 8')
        self.set_totp('digits', '8')
        login, user_id = self.user(OTHER_KEY)
        # The digits of the authenticator count, not those of the setting
        self.set_totp('digits', '6')
        self.assertEqual(self.answer(login, URI), IS_KEY % '8')

    def test_key_in_wizards(self):
        "Test that the wizards tell the same"
        login, user_id, _ = self.enrol()
        rpc = self.client(login)
        for button in ['renew', 'add']:
            self.assertEqual(
                self.told(rpc.overview, button, code=KEY), IS_KEY % '6')
        self.forget_failures(user_id)
        for function in [rpc.turn_off, rpc.start_setup]:
            self.assertEqual(self.told(function, URI), IS_KEY % '6')
        self.assertEqual(self.counts(user_id), (2, 0))

    def test_key_not_told(self):
        "Test that the words do not repeat the key"
        login, user_id, _ = self.enrol()
        for text in KEYS:
            self.assertNotIn(text.strip(), self.answer(login, text))
            self.forget_failures(user_id)

    # Digits

    def test_digits(self):
        "Test the words for a code with too few or too many digits"
        for digits, wrong in [
                ('6', ['1', '12345', '1234567', '12345678', '0' * 13,
                    '1 2 3', '\u0661\u0662\u0663', '1' * 128]),
                ('8', ['123456', '1234567', '123456789', '000000'])]:
            self.set_totp('digits', digits)
            login, user_id = self.user(KEY)
            # The digits of the authenticator count, not those of the setting
            self.set_totp('digits', '8' if digits == '6' else '6')
            for code in wrong:
                with self.subTest(digits=digits, code=code):
                    self.assertEqual(
                        self.answer(login, code), WRONG_DIGITS % digits)
                    self.assertEqual(self.counts(user_id), (1, 0))
                self.forget_failures(user_id)

    def test_digits_right(self):
        "Test that the words do not mention digits if their number is right"
        login, user_id, _ = self.enrol()
        for text in [self.code(95), *OTHERS]:
            with self.subTest(text=text):
                self.assertEqual(self.answer(login, text), WRONG)
            self.forget_failures(user_id)

    def test_digits_of_several(self):
        "Test a user whose authenticators have different numbers of digits"
        login, user_id, _ = self.enrol()
        self.set_other_key(user_id, 8)
        for code, answer in [
                ('000000', WRONG), ('00000000', WRONG),
                ('0000000', WRONG_DIGITS % '6 or 8'),
                ('00000', WRONG_DIGITS % '6 or 8')]:
            with self.subTest(code=code):
                self.assertEqual(self.answer(login, code), answer)
            self.forget_failures(user_id)

    def test_digits_wait(self):
        "Test that the words do not mention digits during a delay"
        login, user_id, _ = self.enrol()
        for _ in range(3):
            self.answer(login, '12345678')
        self.assertEqual(self.answer(login, '12345678'), WAIT % "30 seconds")
        self.assertEqual(self.counts(user_id), (3, 0))

    def test_digits_in_wizards(self):
        "Test that the wizards tell the same"
        login, user_id, _ = self.enrol()
        rpc = self.client(login)
        for function in [rpc.turn_off, rpc.start_setup]:
            self.assertEqual(
                self.told(function, '12345678'), WRONG_DIGITS % '6')
        self.assertEqual(self.counts(user_id), (2, 0))

    def test_without_totp(self):
        "Test a user without an authenticator"
        login, _ = self.user()
        for code in ['12345678', KEY, '000000']:
            with self.subTest(code=code):
                self.assertEqual(self.answer(login, code), WITHOUT)

    # The setup

    def test_set_up(self):
        "Test the words for a code that was not made with the new key"
        login, user_id = self.user()
        rpc = self.client(login)
        _, thrown_away = rpc.start_setup()
        session_id, shown = rpc.start_setup()
        for code, answer in [
                (right_code(thrown_away['secret'], self.now), WRONG_NEW),
                ('x', WRONG_NEW),
                ('12345678', WRONG_DIGITS % '6'),
                (shown['secret'], IS_KEY % '6'),
                (shown['secret_uri'], IS_KEY % '6')]:
            with self.subTest(code=code):
                self.assertEqual(
                    self.told(
                        rpc.confirm_setup, session_id, shown, code=code),
                    answer)
        self.assertIsNone(self.stored_secret(user_id))
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now)),
            'done')

    def test_set_up_8_digits(self):
        "Test that the words name the digits of the new key"
        login, user_id = self.user(KEY)
        self.set_totp('digits', '8')
        rpc = self.client(login)
        session_id, shown = rpc.start_setup(self.code())
        for code in [self.code(), '123456']:
            self.assertEqual(
                self.told(rpc.confirm_setup, session_id, shown, code=code),
                WRONG_DIGITS % '8')

    def test_set_up_in_dialog(self):
        "Test the same in the login dialog"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        login, user_id = self.user()
        keys = []
        for _ in range(2):
            keys += KEY_SHOWN.findall(self.answer(login))
        thrown_away, key = keys
        for code, answer in [
                (right_code(thrown_away, self.now), WRONG_NEW_IN_DIALOG),
                ('x', WRONG_NEW_IN_DIALOG),
                ('12345678', WRONG_DIGITS % '6'),
                (key, IS_KEY % '6'),
                (URI, IS_KEY % '6')]:
            with self.subTest(code=code):
                self.assertEqual(self.answer(login, code), answer)
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)


class HintsBeforeFirstFactorTestCase(TOTPTestCase):
    "Test that before a first factor no hint reveals which users have TOTP"

    post = test_silent.WorkTestCase.post
    play = test_silent.WorkTestCase.play
    assertSameWork = test_silent.WorkTestCase.assertSameWork

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        # No attempt may expire during a test
        self.set_config('session', 'timeout', str(10 ** 9))
        self.set_keys(Fernet.generate_key().decode())
        # One policy is enough to see what is evaluated
        patcher = patch.object(
            test_silent, 'AUTHENTICATIONS', ['totp,password'])
        patcher.start()
        self.addCleanup(patcher.stop)
        self.rpc = RPC()

    @property
    def texts(self):
        return [
            *misprints(
                'ACDEF-GHJKM-NPQRT-WXY34-679AC',
                '679AC-ACDEF-GHJKM-NPQRT-WXY34').values(),
            *KEYS, *OTHERS, '1', '12345', '123456', '1234567', '12345678',
            '\u06f1\u06f2\u06f3', '\u0661' * 6, f'{self.code(95)}\u200e',
            '-', '\u2212', '\u2167' * 6, '1' * 128, '1' * 129,
            'A' * 129]

    def with_8_digits(self):
        self.set_totp('digits', '8')
        login, _ = self.user(KEY)
        self.set_totp('digits', '6')
        return login

    def with_both(self):
        login, user_id = self.user(KEY)
        self.set_totp('digits', '8')
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            secret = user.start_totp_setup(self.code())
            user.finish_totp_setup(secret._totp.generate(self.now).token)
        self.set_totp('digits', '6')
        return login

    def with_recovery_codes(self):
        login, user_id = self.user(KEY)
        with self.transaction():
            Pool().get('res.user.totp_recovery_code').renew(user_id)
        return login

    def logins(self):
        without, _ = self.user()
        return {
            'unknown': f'{without} not',
            'without TOTP': without,
            'with TOTP': self.user(KEY)[0],
            'with recovery codes': self.with_recovery_codes(),
            }

    def test_words(self):
        "Test that everybody gets the same answer to each text"
        for authentications in ['totp,password', 'totp+password']:
            logins = {
                **self.logins(),
                'with 8 digits': self.with_8_digits(),
                'with 6 and 8 digits': self.with_both(),
                }
            self.now += 300
            self.set_config('session', 'authentications', authentications)
            for text in self.texts:
                with self.subTest(authentications, text=text[:60]):
                    answers = set()
                    for login in logins.values():
                        response = self.post(
                            login, totp_code=text, password=PASSWORD)
                        self.assertEqual(response.status_code, 200)
                        answers.add(response.json['error'][1][1])
                    self.assertEqual(answers, {REFUSED})
            self.forget_attempts()

    def test_work_digits(self):
        "Test codes with a number of digits that some authenticators have"
        self.assertSameWork(
            {'totp_code': '12345678'}, {'totp_code': '1234567'},
            {'totp_code': '123456'}, {'totp_code': '123456789'})

    def test_work_digits_of_setting(self):
        "Test the same where all authenticators have eight digits"
        self.set_totp('digits', '8')
        self.assertSameWork({'totp_code': '12345678'}, {'totp_code': '123456'})

    def test_work_digits_of_users(self):
        "Test users who set up TOTP while the setting had another value"
        self.assertSameWork(
            {'totp_code': '12345678'}, {'totp_code': '123456'},
            logins=lambda: {
                'unknown': 'nobody',
                'with 8 digits': self.with_8_digits(),
                'with 6 and 8 digits': self.with_both(),
                })

    def test_work_scripts(self):
        "Test that digits of another script cost the same for everybody"
        self.assertSameWork(
            {'totp_code': '\u06f1' * 6}, {'totp_code': '\u0661' * 8},
            {'totp_code': '\u200f12\u200b3456\u200e'}, {'totp_code': '\u2212'})

    def test_work_keys(self):
        "Test keys, one of which causes a delay"
        self.assertSameWork(
            {'totp_code': KEY}, {'totp_code': URI},
            {'totp_code': KEYS[9]}, {'totp_code': KEY}, {'totp_code': URI})

    def test_work_recovery_codes(self):
        "Test misprinted recovery codes"
        texts = misprints(
            'ACDEF-GHJKM-NPQRT-WXY34-679AC', '679AC-ACDEF-GHJKM-NPQRT-WXY34')
        self.assertSameWork(*(
                {'totp_code': texts[name]} for name in [
                    'wrong letter', 'missing letter', 'two', 'numbered',
                    'misread digit']))
