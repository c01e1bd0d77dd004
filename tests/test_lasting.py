# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from trytond import security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, LOCKED, PASSWORD, WRONG, TOTPTestCase

DAY = 24 * 3600
HOME, OFFICE, ATTACKER = '192.0.2.7', '198.51.100.7', '203.0.113.7'


class LastingTestCase(TOTPTestCase):
    "Test that the count of wrong codes lasts (law 5)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.login, self.user_id = self.user(KEY)

    def answer(self, address, code, login=None):
        "Return the answer to a code from the address, None if it is accepted"
        parameters = {'password': PASSWORD, 'totp_code': code}
        context = {'_request': {'remote_addr': address}}
        try:
            self.assertTrue(security.login(
                    DB_NAME, login or self.login, parameters, cache=False,
                    context=context))
        except LoginException as question:
            return question.message

    def attack(self, until):
        "Enter wrong codes until the time, even while told to wait"
        while self.now < until:
            answer = self.answer(ATTACKER, self.code(95))
            if answer == LOCKED:
                self.now = until
            else:
                self.now += 1 if answer == WRONG else 600

    def test_patient(self):
        "Test that only 100 codes of an attacker are evaluated in 60 days"
        verify = totp.verify
        evaluated = []

        def counted(secrets, code, *args):
            evaluated.append(code)
            return verify(secrets, code, *args)
        owner, guesses = 0, 0
        with patch.object(totp, 'verify', counted):
            for day in range(60):
                morning = 2_000_000_000 + day * DAY
                self.now = max(self.now, morning)
                # The attacker pauses until the owner has logged in
                for _ in range(3):
                    evaluated.clear()
                    if self.answer(HOME, self.code()) is None:
                        owner += 1
                        break
                    self.now += 1800
                evaluated.clear()
                self.attack(morning + DAY)
                guesses += len(evaluated)
        self.assertEqual(guesses, 100)
        self.assertGreater(owner, 1)
        self.assertEqual(self.answer(HOME, self.code()), LOCKED)

    def test_mistyping(self):
        "Test that an owner who mistypes once a day gets no nearer the lockout"
        self.answer(ATTACKER, self.code(95))
        for day in range(365):
            self.now = 2_000_000_000 + day * DAY
            self.assertEqual(self.answer(HOME, self.code(95)), WRONG)
            self.assertIsNone(self.answer(HOME, self.code()))
            self.assertEqual(self.failures(self.user_id), 1)

    def test_own_network(self):
        "Test that a right code forgives only the failures of its network"
        for address in [HOME, OFFICE, ATTACKER, HOME]:
            self.answer(address, self.code(95))
            self.now += 3600
        self.assertEqual(self.failures(self.user_id), 4)
        self.assertIsNone(self.answer(HOME, self.code()))
        self.assertEqual(self.failures(self.user_id), 2)
        self.now += 30
        self.assertIsNone(self.answer(OFFICE, self.code()))
        self.assertEqual(self.failures(self.user_id), 1)

    def test_ends_waiting(self):
        "Test that a right code ends the delay that others have caused"
        for _ in range(7):
            self.answer(ATTACKER, self.code(95))
            self.now += 3600
        self.assertIsNone(self.answer(HOME, self.code()))
        self.now += 30
        self.assertEqual(self.answer(ATTACKER, self.code(95)), WRONG)
        self.assertEqual(self.answer(ATTACKER, self.code(95)), WRONG)
        self.assertIsNone(self.answer(HOME, self.code()))
        self.assertEqual(self.failures(self.user_id), 9)

    def test_set_to_nought(self):
        "Test the actions that forgive the failures of all networks"
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            recovery_code, *_ = RecoveryCode.renew(self.user_id)

        def server(method):
            with self.transaction():
                User = Pool().get('res.user')
                getattr(User, method)([User(self.user_id)])
        for forgive in [
                lambda: self.answer(HOME, recovery_code),
                lambda: server('unlock_totp'),
                lambda: server('reset_totp')]:
            for address in [OFFICE, ATTACKER]:
                self.answer(address, self.code(95))
            self.assertEqual(self.failures(self.user_id), 2)
            self.assertIsNone(forgive())
            self.assertEqual(self.failures(self.user_id), 0)

    def test_replacing_forgives_nothing(self):
        "Test that a new key does not reset the count"
        self.answer(ATTACKER, self.code(95))
        with self.transaction():
            Pool().get('res.user')(self.user_id).set_totp_key(KEY)
        self.assertEqual(self.failures(self.user_id), 1)

    def test_networks_bounded(self):
        "Test that a row holds no more networks than failures"
        self.set_config('session', 'ip_network_4', '32')
        for i in range(150):
            self.answer(f'203.0.113.{i}', self.code(95))
            self.now += 3600
        with self.transaction():
            table = Pool().get('res.user.totp_guess').__table__()
        (networks,), = self.sql(table.select(
                table.networks, where=(table.user == self.user_id)
                & (table.kind == 'elsewhere')))
        self.assertEqual(networks.count('203.0.113'), 100)
