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
        "Add an authenticator, proved by a code of another"
        self.now += 30
        self.keys[name] = self.add_authenticator(
            self.user_id, self.code_of(by), name)
        self.now += 30

    def code_of(self, name, steps=0):
        return right_code(self.keys[name], self.now, steps)

    def answer(self, code, **kwargs):
        "What the code is told, None if the user logs in with it"
        user_id, questions = self.dialogue(
            self.login, password=[PASSWORD], totp_code=[code], **kwargs)
        if user_id:
            self.assertEqual(user_id, self.user_id)
            return None
        return questions[-1][1]

    def rows(self):
        "The row of each authenticator, by its name"
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
        "Test that a code of each authenticator logs in, and marks it used"
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
        "Test that the same step of two authenticators are two codes"
        self.add_all()
        codes = [self.code_of(name) for name in self.keys]
        for code in codes:
            self.assertIsNone(self.answer(code))
        for code in codes:
            self.assertEqual(self.answer(code), USED)

    def test_remove(self):
        "Test that the others go on when one is removed"
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
        "Test that the code of the one that is removed proves as well"
        self.add_all()
        self.change(
            'remove_totp_authenticator', self.number('token'),
            self.code_of('token'))
        self.assertEqual(list(self.rows()), ['Authenticator', 'tablet'])

    def test_remove_last(self):
        "Test that to remove the last one is to turn TOTP off"
        self.change(
            'remove_totp_authenticator', self.number('Authenticator'),
            self.code_of('phone'))
        self.assertEqual(self.rows(), {})
        self.assertIsNone(self.stored_secret(self.user_id))
        self.assertEqual(self.events(self.user_id)[-1], 'removed')

    def test_remove_last_required(self):
        "Test that the last one stays where TOTP is required"
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(self.user_id)], {'totp_required': True})
        with self.assertRaises(TOTPRequiredError):
            self.change(
                'remove_totp_authenticator', self.number('Authenticator'),
                self.code_of('phone'))
        self.assertIsNone(self.answer(self.code_of('phone')))

    def test_rename(self):
        "Test that an authenticator gets another name, and nothing else"
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
        "Test that the proof is asked for whoever cannot see the status"
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
        "Test that the number of no authenticator is refused"
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
        "Test that nobody has more than max_authenticators"
        self.set_totp('max_authenticators', '2')
        self.keys['Authenticator'] = KEY
        self.add('second', by='Authenticator')
        with self.assertRaises(TOTPSetupError):
            self.add('third', by='Authenticator')
        self.assertEqual(list(self.rows()), ['Authenticator', 'second'])
        # A lower setting takes none away
        self.set_totp('max_authenticators', '1')
        self.now += 60
        for name in ['Authenticator', 'second']:
            self.assertIsNone(self.answer(self.code_of(name)))

    def test_names(self):
        "Test the names that the user does not choose"
        for _ in range(2):
            self.add(None)
        self.assertEqual(list(self.rows()), [
                'Authenticator', 'Authenticator 2', 'Authenticator 3'])

    def test_replace(self):
        "Test that replacing leaves the new one alone"
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
        "Test that a new authenticator gets no number of a removed one"
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
        "Test authenticators that were made with other settings"
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
        "Test that the lock comes earlier with more authenticators"
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
        "Test that nobody locks the own codes by adding an authenticator"
        self.set_totp('max_failures', '10')
        self.keys['Authenticator'] = KEY
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(
                self.user_id)
        for _ in range(6):
            self.answer('malformed')
            self.now += 3600
        # Of another network, so that a right code does not forgive them
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
        # Nor is the recovery code used up
        self.assertIsNone(self.answer(codes[0]))
        self.set_keys(key)
        for name in ['Authenticator', 'second']:
            self.assertIsNone(self.answer(self.code_of(name)))
