# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond import security
from trytond.exceptions import LoginException
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, PASSWORD, USED, WAIT, WRONG, TOTPTestCase, right_code


class DriftTestCase(TOTPTestCase):
    "Test authenticators whose clock is wrong (RFC 4226 7.4, RFC 6238 6)"

    def setUp(self):
        super().setUp()
        self.set_config('session', 'max_attempt', '10000')

    def answer(self, login, steps):
        "Return the answer to a code that many steps ahead, None if accepted"
        try:
            self.assertTrue(security.login(
                    DB_NAME, login, {
                        'password': PASSWORD,
                        'totp_code': right_code(KEY, self.now, steps),
                        }, cache=False))
        except LoginException as question:
            return question.message

    def resync(self, login, steps):
        self.assertEqual(self.answer(login, steps), WRONG)
        self.now += 30
        self.assertIsNone(self.answer(login, steps))

    def test_slow(self):
        "Test a token that is 5 minutes slow and logs in for a year"
        login, user_id = self.user(KEY)
        self.resync(login, -10)
        self.assertEqual(self.drift(user_id), -10)
        for _ in range(365):
            self.now += 24 * 3600
            self.assertIsNone(self.answer(login, -10))
        self.assertEqual(self.drift(user_id), -10)

    def test_slower(self):
        "Test a token that gets slower by a step a month"
        login, user_id = self.user(KEY)
        for month in range(11):
            for _ in range(30):
                self.now += 24 * 3600
                self.assertIsNone(self.answer(login, -month))
            self.assertEqual(self.drift(user_id), -month)

    def test_jump(self):
        "Test that two codes are accepted after a clock has jumped"
        login, user_id = self.user(KEY)
        for steps in [3, 0, -3, 10, -10]:
            with self.subTest(steps=steps):
                self.now += 3600
                self.resync(login, steps)
                self.assertEqual(self.drift(user_id), steps)
                self.assertEqual(self.failures(user_id), 0)

    def test_beyond(self):
        "Test that codes of a clock that is further off are refused"
        login, user_id = self.user(KEY)
        for steps in [11, -11]:
            with self.subTest(steps=steps):
                for answer in [WRONG, WRONG, WAIT % '30 seconds']:
                    self.now += 30
                    self.assertEqual(self.answer(login, steps), answer)
                self.now += 3600
                self.forget_failures(user_id)

    def test_consecutive(self):
        "Test that only two consecutive codes resynchronise the clock"
        login, user_id = self.user(KEY)
        for second in [5, 7, 3, 4, -5]:
            with self.subTest(second=second):
                self.now += 3600
                self.assertEqual(self.answer(login, 5), WRONG)
                self.assertEqual(self.answer(login, second), WRONG)
                self.forget_failures(user_id)
        # Two codes with another one between them do not either
        self.now += 3600
        self.assertEqual(self.answer(login, 5), WRONG)
        self.assertEqual(self.answer(login, 99), WRONG)
        self.assertEqual(self.answer(login, 6), WAIT % '30 seconds')
        self.assertEqual(self.drift(user_id), 0)

    def test_used(self):
        "Test that a code from before the resynchronisation stays used"
        login, user_id = self.user(KEY)
        self.assertIsNone(self.answer(login, 0))
        for steps in [-10, -9, -5, 0]:
            self.assertEqual(self.answer(login, steps), USED)
            self.forget_failures(user_id)

    def test_walk(self):
        "Test that the oldest code at each login moves the drift to the cap"
        login, user_id = self.user(KEY)
        for direction in [-1, 1]:
            for _ in range(40):
                self.now += 3600
                before = self.drift(user_id)
                self.assertIsNone(
                    self.answer(login, before + direction))
                self.assertLessEqual(abs(self.drift(user_id) - before), 1)
                self.assertLessEqual(abs(self.drift(user_id)), 10)
            self.assertEqual(self.drift(user_id), 10 * direction)

    def test_one_step(self):
        "Test that a login moves the drift by one step, whatever the tolerance"
        self.set_totp('tolerance', '5')
        login, user_id = self.user(KEY)
        drifts = []
        for steps in [5, 5, 5, -2, -2, -2]:
            self.now += 3600
            self.assertIsNone(self.answer(login, steps))
            drifts.append(self.drift(user_id))
        self.assertEqual(drifts, [1, 2, 3, 2, 1, 0])

    def test_late(self):
        "Test that the code after the last one is refused once it is too old"
        login, user_id = self.user(KEY)
        self.assertIsNone(self.answer(login, 0))
        self.now += 5 * 30
        self.assertEqual(self.answer(login, -4), WRONG)

    def test_last_used(self):
        "Test that administrators see when a code was last accepted"
        login, user_id = self.user(KEY)
        times = []
        for steps in [99, 0, 99]:
            self.now += 3600
            self.answer(login, steps)
            with self.transaction():
                used = Pool().get('res.user')(user_id).totp_last_used
            times.append(used and int(used.timestamp()))
        self.assertEqual(times, [None, self.now - 3600, self.now - 3600])

    def test_new_key(self):
        "Test that a new key starts without drift"
        login, user_id = self.user(KEY)
        self.resync(login, -10)
        with self.transaction():
            Pool().get('res.user')(user_id).set_totp_key(KEY)
        self.assertEqual(self.drift(user_id), 0)
        self.now += 3600
        self.assertIsNone(self.answer(login, 0))

    def test_reset_by_right(self):
        "Test that a right code ends a resynchronisation that had begun"
        login, user_id = self.user(KEY)
        self.assertEqual(self.answer(login, 5), WRONG)
        self.assertIsNone(self.answer(login, 0))
        self.assertEqual(self.answer(login, 6), WRONG)
