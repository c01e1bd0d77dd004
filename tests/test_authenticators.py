# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import pyotp
from cryptography.fernet import Fernet

from trytond.modules.authentication_totp.exceptions import (
    TOTPCodeError, TOTPRequiredError, TOTPSetupError, TOTPUnreadableError)
from trytond.pool import Pool

from .tools import (
    KEY, LOCKED, PASSWORD, USED, WRONG, TOTPTestCase, right_code)


class AuthenticatorsTestCase(TOTPTestCase):
    "Test users with several authenticators"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.login, self.user_id = self.user(KEY)
        self.keys = {'phone': KEY}

    def change(self, method, *args, **kwargs):
        "Call the method of the user, as a wizard does"
        with self.transaction(self.user_id):
            user = Pool().get('res.user')(self.user_id)
            return getattr(user, method)(*args, **kwargs)

    def add(self, name, by='phone'):
        "Add an authenticator, with a code of another as the proof"
        self.now += 30
        self.keys[name] = self.add_authenticator(
            self.user_id, self.code_of(by), name)
        self.now += 30

    def code_of(self, name, steps=0):
        return right_code(self.keys[name], self.now, steps)

    def answer(self, code, **kwargs):
        "Return the answer to the code, None if the user logs in with it"
        user_id, questions = self.dialogue(
            self.login, password=[PASSWORD], totp_code=[code], **kwargs)
        if user_id:
            self.assertEqual(user_id, self.user_id)
            return None
        return questions[-1][1]

    def rows(self):
        "Return the row of each authenticator, by name"
        with self.transaction():
            table = Pool().get('res.user.totp_counter').__table__()
        return {
            name: dict(zip(
                    ['number', 'counter', 'drift', 'resync', 'last_used'],
                    row, strict=True))
            for name, *row in self.sql(table.select(
                    table.name, table.number, table.counter, table.drift,
                    table.resync, table.last_used,
                    where=table.user == self.user_id, order_by=table.number))}

    def number(self, name):
        return self.rows()[name]['number']

    def add_all(self):
        self.keys['Authenticator'] = self.keys.pop('phone')
        self.add('tablet', by='Authenticator')
        self.add('token', by='tablet')

    def test_each_logs_in(self):
        "Test that a code of each authenticator logs in and marks it as used"
        self.add_all()
        for name in self.keys:
            with self.subTest(name=name):
                before = self.rows()
                self.assertIsNone(self.answer(self.code_of(name)))
                after = self.rows()
                self.assertEqual(
                    [n for n in after if after[n] != before[n]], [name])
                self.assertEqual(after[name]['counter'], self.now // 30)
        self.assertEqual(
            self.events(self.user_id), ['set_up', 'added', 'added'])

    def test_once(self):
        "Test that two authenticators have two codes for the same time step"
        self.add_all()
        codes = [self.code_of(name) for name in self.keys]
        for code in codes:
            self.assertIsNone(self.answer(code))
        for code in codes:
            self.assertEqual(self.answer(code), USED)

    def test_remove(self):
        "Test that the others still work when one is removed"
        self.add_all()
        self.change(
            'remove_totp_authenticator', self.number('tablet'),
            self.code_of('token'))
        self.assertEqual(list(self.rows()), ['Authenticator', 'token'])
        self.now += 30
        self.assertEqual(self.answer(self.code_of('tablet')), WRONG)
        for name in ['Authenticator', 'token']:
            self.assertIsNone(self.answer(self.code_of(name)))
        self.assertEqual(
            self.events(self.user_id)[-1], 'authenticator_removed')

    def test_remove_by_itself(self):
        "Test that an authenticator can be removed with its own code"
        self.add_all()
        self.change(
            'remove_totp_authenticator', self.number('token'),
            self.code_of('token'))
        self.assertEqual(list(self.rows()), ['Authenticator', 'tablet'])

    def test_remove_last(self):
        "Test that removing the last one turns off TOTP"
        self.change(
            'remove_totp_authenticator', self.number('Authenticator'),
            self.code_of('phone'))
        self.assertEqual(self.rows(), {})
        self.assertIsNone(self.stored_secret(self.user_id))
        self.assertEqual(self.events(self.user_id)[-1], 'removed')

    def test_remove_last_required(self):
        "Test that the last one cannot be removed where TOTP is required"
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(self.user_id)], {'totp_required': True})
        with self.assertRaises(TOTPRequiredError):
            self.change(
                'remove_totp_authenticator', self.number('Authenticator'),
                self.code_of('phone'))
        self.assertIsNone(self.answer(self.code_of('phone')))

    def test_rename(self):
        "Test that renaming an authenticator changes only its name"
        self.add_all()
        before = self.rows()
        self.change(
            'rename_totp_authenticator', self.number('tablet'), 'iPad',
            self.code_of('token'))
        after = self.rows()
        self.assertEqual(after['iPad'], before['tablet'])
        self.assertEqual(self.events(self.user_id)[-1], 'renamed')

    def test_proof(self):
        "Test that no change is made without a right code"
        self.add_all()
        number = self.number('tablet')
        before = self.rows(), self.stored_secret(self.user_id)
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(
                self.user_id)
        waiting = object()
        for code in [None, '', 'malformed', waiting, 5, KEY]:
            for method, *args in [
                    ('rename_totp_authenticator', number, 'x'),
                    ('remove_totp_authenticator', number),
                    ('remove_totp',),
                    ('renew_totp_recovery_codes',),
                    ('start_totp_setup',),
                    ]:
                with self.subTest(method=method, code=code):
                    wrong = code
                    if code is waiting:
                        secret = self.change('start_totp_setup', codes.pop())
                        wrong = right_code(secret.text, self.now)
                    with self.assertRaises(TOTPCodeError):
                        self.change(method, *args, wrong)
                    self.now += 3600
            with self.assertRaises(TOTPCodeError):
                self.change('start_totp_setup', wrong, replaces=True)
            with self.assertRaises(TOTPSetupError):
                self.change('finish_totp_setup', wrong)
            self.now += 3600
        self.assertEqual(
            before, (self.rows(), self.stored_secret(self.user_id)))

    def test_proof_hidden(self):
        "Test that a user who cannot see the status has to prove changes too"
        _, other_id = self.user()
        with self.transaction(other_id):
            user = Pool().get('res.user')(self.user_id)
            self.assertFalse(user.totp_enabled)
            for replaces in [False, True]:
                with self.assertRaises(TOTPCodeError):
                    user.start_totp_setup(replaces=replaces)
            self.assertFalse(user.has_pending_totp_secret())
        self.assertEqual(len(self.rows()), 1)

    def test_unknown_number(self):
        "Test that a number without authenticator is refused"
        other, other_id = self.user(KEY)
        self.add_all()
        for number in [0, -1, 999]:
            for method, *args in [
                    ('rename_totp_authenticator', number, 'x'),
                    ('remove_totp_authenticator', number)]:
                self.now += 30
                with self.assertRaises(TOTPSetupError):
                    self.change(method, *args, self.code_of('token'))
        self.assertEqual(len(self.rows()), 3)
        self.assertEqual(len(self.counters(other_id)), 0)

    def test_max(self):
        "Test that no user has more authenticators than max_authenticators"
        self.set_totp('max_authenticators', '2')
        self.keys['Authenticator'] = KEY
        self.add('second', by='Authenticator')
        with self.assertRaises(TOTPSetupError):
            self.add('third', by='Authenticator')
        self.assertEqual(list(self.rows()), ['Authenticator', 'second'])
        # A lower setting removes no authenticator
        self.set_totp('max_authenticators', '1')
        self.now += 60
        for name in ['Authenticator', 'second']:
            self.assertIsNone(self.answer(self.code_of(name)))

    def test_names(self):
        "Test the default names"
        for _ in range(2):
            self.add(None)
        self.assertEqual(list(self.rows()), [
                'Authenticator', 'Authenticator 2', 'Authenticator 3'])

    def test_one_line(self):
        "Test that a name of any characters is stored as a short line"
        rpc = self.client(self.login)
        for name, stored in [
                ('a\nb', 'a b'),
                (' a \t\r\n b ', 'a b'),
                ('a\u2028b\x85c', 'a b c'),
                ('a\0b\ud800', 'ab'),
                ('\u0645\u06cc\u200c\u0631', '\u0645\u06cc\u200c\u0631'),
                ('x' * 10**6, 'x' * 100),
                (5, '5'),
                (['a'], "['a']")]:
            with self.subTest(stored=stored):
                rpc.overview(
                    'rename', self.code(), authenticator='1', name=name)
                self.assertEqual(list(self.rows()), [stored])
                self.now += 30

    def test_replace(self):
        "Test that replacing leaves only the new one"
        self.add_all()
        secret = self.change(
            'start_totp_setup', self.code_of('token'), replaces=True)
        self.change('finish_totp_setup', right_code(secret.text, self.now))
        self.assertEqual(len(self.rows()), 1)
        self.now += 30
        for name in self.keys:
            self.assertEqual(self.answer(self.code_of(name)), WRONG)
            self.forget_failures(self.user_id)
        self.assertIsNone(self.answer(right_code(secret.text, self.now)))

    def test_number_not_given_again(self):
        "Test that a new authenticator never gets the number of a removed one"
        numbers = set()
        self.keys['Authenticator'] = KEY
        for _ in range(3):
            self.add('second', by='Authenticator')
            number = self.number('second')
            self.assertNotIn(number, numbers)
            numbers.add(number)
            self.change(
                'remove_totp_authenticator', number,
                self.code_of('Authenticator'))
            self.now += 30
        with self.transaction():
            User = Pool().get('res.user')
            User.reset_totp([User(self.user_id)])
            User(self.user_id).set_totp_key(KEY)
        self.assertNotIn(self.number('Authenticator'), numbers)

    def test_drift(self):
        "Test that the drift of one does not move that of another"
        self.add_all()
        self.now += 3600
        for _ in range(2):
            answer = self.answer(self.code_of('token', -5))
            self.now += 30
        self.assertIsNone(answer)
        self.assertEqual(
            [row['drift'] for row in self.rows().values()], [0, 0, -5])
        self.assertIsNone(self.answer(self.code_of('tablet', 1)))
        self.assertEqual(
            [row['drift'] for row in self.rows().values()], [0, 1, -5])
        self.now += 60
        self.assertIsNone(self.answer(self.code_of('token', -5)))
        self.assertEqual(self.answer(self.code_of('Authenticator', -5)), WRONG)

    def test_other_parameters(self):
        "Test authenticators that were set up with other settings"
        self.set_totp('digits', '8')
        self.set_totp('algorithm', 'sha256')
        self.keys['Authenticator'] = KEY
        self.now += 30
        secret = self.change(
            'start_totp_setup', self.code_of('Authenticator'))
        other = pyotp.parse_uri(secret.uri('x', 'y'))
        self.change('finish_totp_setup', other.at(self.now))
        self.now += 30
        self.assertIsNone(self.answer(other.at(self.now)))
        self.assertIsNone(self.answer(self.code_of('Authenticator')))

    def test_recovery_codes(self):
        "Test that adding and removing one keeps the recovery codes"
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            codes = RecoveryCode.renew(self.user_id)
        self.add_all()
        self.change(
            'remove_totp_authenticator', self.number('token'), codes.pop())
        for code in codes:
            self.assertIsNone(self.answer(code))

    def test_lock_divided(self):
        "Test that the lockout comes earlier with more authenticators"
        self.set_totp('max_failures', '10')
        self.add_all()
        answers = []
        for _ in range(5):
            answers.append(self.answer('malformed'))
            self.now += 3600
        self.assertEqual(self.failures(self.user_id), 3)
        self.assertEqual(answers, [WRONG] * 2 + [LOCKED] * 3)
        self.assertEqual(self.events(self.user_id)[-1], 'locked')

    def test_lock_by_adding(self):
        "Test that adding an authenticator never locks the user's codes"
        self.set_totp('max_failures', '10')
        self.keys['Authenticator'] = KEY
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(
                self.user_id)
        for _ in range(6):
            self.answer('malformed')
            self.now += 3600
        # From another network, so that a right code does not forgive them
        with self.transaction() as transaction:
            table = Pool().get('res.user.totp_guess').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.networks], ['{"192.0.2.0/24": 6}'],
                    where=(table.user == self.user_id)
                    & (table.kind == 'elsewhere')))
        with self.assertRaises(TOTPSetupError):
            self.add('second', by='Authenticator')
        self.assertIsNone(self.answer(self.code_of('Authenticator')))
        self.now += 30
        secret = self.change('start_totp_setup', codes.pop())
        self.change('finish_totp_setup', right_code(secret.text, self.now))
        self.assertEqual(len(self.rows()), 2)
        self.assertEqual(self.failures(self.user_id), 0)

    def test_unreadable(self):
        "Test that nothing is lost while no key decrypts the secrets"
        self.keys['Authenticator'] = KEY
        key, other = [Fernet.generate_key().decode() for _ in range(2)]
        self.set_keys(key)
        self.add('second', by='Authenticator')
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(
                self.user_id)
        before = self.rows(), self.stored_secret(self.user_id)
        self.set_keys(other)
        for method, *args in [
                ('start_totp_setup',),
                ('remove_totp_authenticator', self.number('second'))]:
            with self.assertRaises(TOTPUnreadableError):
                self.change(method, *args, codes[0])
        self.assertEqual(
            before, (self.rows(), self.stored_secret(self.user_id)))
        # The recovery code is not used up either
        self.assertIsNone(self.answer(codes[0]))
        self.set_keys(key)
        for name in ['Authenticator', 'second']:
            self.assertIsNone(self.answer(self.code_of(name)))
