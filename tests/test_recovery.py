# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import string
import unittest

from hypothesis import example, given
from hypothesis import strategies as st

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.model import ModelSQL
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .test_concurrency import at_once
from .tools import (
    ISSUER, KEY, LOCKED, PASSWORD, RPC, USED, WRONG, WRONG_RECOVERY, Refused,
    TOTPTestCase, right_code)


class RecoveryTestCase(TOTPTestCase):
    "Test the recovery codes"

    def setUp(self):
        super().setUp()
        self.set_config('session', 'max_attempt', '10000')

    def client(self, login):
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        self.set_config('session', 'authentications', 'password+totp')
        return rpc

    def enrol(self):
        "Return login, id and recovery codes of a user who has set up TOTP"
        login, user_id = self.user(KEY)
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            return login, user_id, RecoveryCode.renew(user_id)

    def answer(self, login, code, **parameters):
        "Return the answer to one request, None if the user logs in"
        try:
            self.assertTrue(security.login(
                    DB_NAME, login, {
                        'password': PASSWORD, 'totp_code': code,
                        **parameters}, cache=False))
        except LoginException as question:
            return question.message

    def left(self, user_id):
        with self.transaction():
            return Pool().get('res.user')(user_id).totp_recovery_codes

    def test_set_up(self):
        "Test that the wizard shows them, and that nothing else ever does"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        result = rpc.wizard(
            'execute', session_id, {'start': {
                    'code': right_code(shown['secret'], self.now)}},
            'confirm')
        defaults = result['view']['defaults']
        codes = defaults['recovery_codes'].splitlines()
        self.assertEqual(len(set(codes)), 10)
        for code in codes:
            self.assertRegex(code, '^([34679ACDEFGHJKMNPQRTWXY]{5}-?){5}$')
        self.assertEqual(
            defaults['recovery_codes_file'].decode().splitlines(), [
                f"Recovery codes for {login} on {ISSUER}. "
                "Each can be used once instead of a code.", '', *codes])
        self.assertEqual(
            defaults['recovery_codes_name'],
            f"recovery-codes-{login}-2033-05-18.txt")
        # The client sends them back, and asks for the page again
        rpc = self.client(login)
        for values in [{'done': defaults}, {}]:
            result = rpc.wizard('execute', session_id, values, 'done')
            self.assertFalse(
                result['view']['defaults'].get('recovery_codes'))
        self.assertNotInDatabase(codes)
        for count, code in enumerate(reversed(codes)):
            self.assertEqual(self.left(user_id), 10 - count)
            form = [
                code, code.lower(), code.replace('-', ''),
                ' ' + code.replace('-', ' ') + '\n'][count % 4]
            self.assertIsNone(self.answer(login, form))
            self.assertEqual(self.answer(login, form), WRONG_RECOVERY)
        self.assertEqual(self.left(user_id), 0)

    def assertNotInDatabase(self, codes):
        with self.transaction():
            tables = [
                model.__table__() for _, model in Pool().iterobject()
                if issubclass(model, ModelSQL)
                and not callable(model.table_query)]
        content = str(
            [self.sql(table.select()) for table in tables]).upper()
        self.assertIn('TOTP', content)
        for code in codes:
            for form in [code, code.replace('-', ''), code[:11]]:
                self.assertNotIn(form, content)

    def test_locked(self):
        "Test that one works during a lockout and ends it"
        login, user_id, codes = self.enrol()
        for _ in range(100):
            self.answer(login, self.code(95))
            self.now += 3600
        self.assertEqual(self.answer(login, self.code()), LOCKED)
        self.assertIsNone(self.answer(login, codes[0]))
        self.assertIsNone(self.answer(login, self.code()))

    def test_other_user(self):
        "Test that one of another user is refused"
        _, other_id, codes = self.enrol()
        login, user_id, _ = self.enrol()
        self.assertEqual(self.answer(login, codes[0]), WRONG_RECOVERY)
        self.assertEqual(self.left(other_id), 10)

    def test_chain(self):
        "Test that a login that fails later uses up none"
        login, user_id, codes = self.enrol()
        self.set_config('session', 'authentications', 'totp+password')
        for password, in [['x'], [PASSWORD]]:
            got_id, questions = self.dialogue(
                login, totp_code=[codes[0]], password=[password])
            self.assertEqual(
                [name for name, _ in questions], ['totp_code', 'password'])
            self.assertEqual(
                got_id, user_id if password == PASSWORD else None)
        self.assertEqual(self.left(user_id), 9)

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_once(self):
        "Test that only one of 16 threads logs in with the same one"
        login, user_id, codes = self.enrol()
        self.set_config('session', 'authentications', 'totp')
        for code in codes:
            results = at_once(
                lambda code: security.login(
                    DB_NAME, login, {'totp_code': code}, cache=False),
                [code] * 16)
            self.assertEqual(results.count(user_id), 1)
            for result in results:
                if result != user_id:
                    self.assertIsInstance(result, LoginException)
            self.forget_attempts()
            self.now += 3600
        self.assertEqual(self.left(user_id), 0)

    def test_off(self):
        "Test that there are none if they are turned off"
        login, user_id, codes = self.enrol()
        self.set_totp('recovery_codes', '0')
        self.assertEqual(self.answer(login, codes[0]), WRONG)
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            self.assertEqual(RecoveryCode.renew(user_id), [])

    def new_codes(self, rpc, code):
        _, shown = rpc.overview('renew', code=code)
        return shown['recovery_codes'].splitlines()

    def test_new(self):
        "Test that making new ones takes a code and replaces the old ones"
        login, user_id, old = self.enrol()
        rpc = self.client(login)
        for code in [self.code(95), '', None, totp.new_recovery_code()]:
            with self.assertRaises(Refused):
                self.new_codes(rpc, code)
        # Blank codes are not counted
        self.assertEqual(self.failures(user_id), 1)
        self.assertEqual(self.failures(user_id, 'recovery'), 1)
        self.assertEqual(self.left(user_id), 10)
        self.now += 30
        new = self.new_codes(rpc, self.code())
        self.assertEqual(len(set(new) - set(old)), 10)
        self.assertNotInDatabase(new)
        self.assertEqual(self.answer(login, self.code()), USED)
        self.assertEqual(self.answer(login, old[0]), WRONG_RECOVERY)
        newer = self.new_codes(rpc, new[0])
        self.assertIsNone(self.answer(login, newer[0]))
        self.assertEqual(
            self.events(user_id),
            ['set_up', 'renewed', 'replayed', 'recovered',
                'renewed', 'recovered'])

    def test_new_without_totp(self):
        "Test that a user without TOTP gets none"
        login, user_id = self.user()
        rpc = self.client(login)
        for code in [self.code(), totp.new_recovery_code()]:
            with self.assertRaises(Refused):
                self.new_codes(rpc, code)
        self.assertEqual(self.left(user_id), 0)

    def test_replace(self):
        "Test that one replaces the key, and that the others stop working"
        login, user_id, codes = self.enrol()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup(codes[0])
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown,
                code=right_code(shown['secret'], self.now)), 'done')
        self.assertEqual(self.left(user_id), 10)
        for code in codes:
            self.assertIsNotNone(self.answer(login, code))
        self.now += 30
        self.assertIsNone(
            self.answer(login, right_code(shown['secret'], self.now)))

    def test_new_key(self):
        "Test that a new key removes the recovery codes"
        login, user_id, codes = self.enrol()
        with self.transaction():
            Pool().get('res.user')(user_id).set_totp_key(KEY)
        self.assertEqual(self.left(user_id), 0)
        self.assertEqual(self.answer(login, codes[0]), WRONG_RECOVERY)

    def test_few(self):
        "Test that the user is told of each use, and when few are left"
        login, user_id, codes = self.enrol()
        notifications = []
        for code in codes[:8]:
            self.assertIsNone(self.answer(login, code))
            with self.transaction():
                Notification = Pool().get('res.notification')
                notifications.append([
                        n.label for n in Notification.search(
                            [('user', '=', user_id)])])
            self.now += 3600
        self.assertEqual(
            [len(n) for n in notifications], [0, 0, 0, 0, 0, 0, 1, 1])
        self.assertEqual(
            notifications[-1], ["Recovery codes left: 2. Generate new ones."])
        self.assertEqual(
            self.events(user_id), ['set_up'] + ['recovered'] * 8)
        with self.transaction(user_id):
            pool = Pool()
            Notification = pool.get('res.notification')
            notification, = Notification.get()
            self.assertEqual(
                notification['action']['wiz_name'], 'res.user.setup_totp')
            pool.get('res.user.totp_recovery_code').renew(user_id)
            self.assertEqual(Notification.get(), [])

    @given(st.one_of(
            st.none(), st.integers(), st.text(), st.binary(),
            st.lists(st.text()),
            st.text('34679ACDEFGHJKMNPQRTWXYacdf- \u2013\xdf', max_size=40)))
    @example('0' * 7 + '\xdf' * 3)
    @example('0' * 13 + '\u0130')
    def test_form(self, code):
        "Test that anything that a client can send can be hashed or is refused"
        hash_ = totp.hash_recovery_code(code)
        if hash_ is not None:
            self.assertTrue(any(map(str.isalpha, code)))
            self.assertIsNone(totp.count_digits(code))
            self.assertGreater(len(code), 12)
            small = code.translate(
                str.maketrans(string.ascii_uppercase, string.ascii_lowercase))
            self.assertEqual(
                hash_, totp.hash_recovery_code(f' {small}\u2212'))

    def test_close(self):
        "Test that the page can be closed although the session has ended"
        context = {
            'client': '0' * 32, 'language': 'en', 'language_direction': 'ltr',
            'groups': list(range(10, 20)), 'company': 1,
            'company_filter': 'one', 'employee': 12, 'action_id': 150,
            'active_id': None, 'active_ids': None, 'active_model': None}
        for count, issuer, language, has_file in [
                ('10', 'Tryton {database}', 'en', True),
                ('10', 'Tryton {database}', 'ru', True),
                ('10', 'x' * 100, 'en', True),
                ('10', '\u0416' * 100, 'ru', True),
                ('25', '\u0416' * 100, 'ru', False)]:
            with self.subTest(count=count, issuer=issuer, language=language):
                self.set_totp('recovery_codes', count)
                self.set_totp('issuer', issuer)
                context['language'] = language
                login, _ = self.user()
                rpc = self.client(login)
                session_id, shown = rpc.start_setup()
                code = right_code(shown['secret'], self.now)
                values = rpc.call(
                    'wizard.res.user.setup_totp.execute', session_id,
                    {'start': {**shown, 'code': code}}, 'confirm', context
                    )['view']['defaults']
                codes = values['recovery_codes']
                self.assertEqual(len(codes.splitlines()), int(count))
                file = values.get('recovery_codes_file') or b''
                self.assertEqual(
                    file.decode().endswith(f'{codes}\n'), has_file)
                with self.assertRaises(Refused) as refused:
                    rpc.call(
                        'wizard.res.user.setup_totp.execute', session_id,
                        {'done': {**values, 'saved': True, 'id': -1000}},
                        'close', context, compress=True)
                # The client asks for the password
                self.assertEqual(refused.exception.args, (401,))

    def test_bits(self):
        "Test that a recovery code has 112 bits or more"
        self.assertGreater(len(totp._RECOVERY_CHARACTERS) ** 25, 2 ** 112)
        self.assertEqual(
            len({totp.new_recovery_code() for _ in range(1000)}), 1000)
