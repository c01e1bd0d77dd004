# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .mail import MailTestCase
from .tools import KEY, LOCKED, PASSWORD, RPC, Refused, right_code

# It has the form of a recovery code
WRONG_CODE = 'ACDEF-GHJKM-NPQRT-WXY34-679AC'


class RecoveryGuessingTestCase(MailTestCase):
    "Test that wrong recovery codes lock out nobody (law 5)"

    def enrol(self):
        "Return a user who has set up TOTP, the key and the recovery codes"
        login, user_id = self.user()
        key, codes = self.client(login).set_up(self.now)
        self.received()
        self.now += 30
        return login, user_id, key, codes

    def answer(self, login, code, **parameters):
        "Return the answer to one request, the id of the user who logs in"
        try:
            return RPC().login(
                login, password=PASSWORD, totp_code=code, **parameters)
        except Refused as refused:
            error, (name, message, _) = refused.args
            self.assertEqual((error, name), ('LoginException', 'totp_code'))
            return message

    def recovery_failed(self, user_id):
        return self.events(user_id).count('recovery_failed')

    def status(self, user_id):
        with self.transaction():
            user = Pool().get('res.user')(user_id)
            return user.totp_locked, user.totp_waiting_until

    def test_over_time(self):
        "Test that a right one is accepted after many wrong ones over time"
        login, user_id, key, codes = self.enrol()
        first = self.answer(login, WRONG_CODE)
        self.assertIn("recovery code", first)
        self.assertIn("wrong", first)
        for _ in range(199):
            self.now += 3600
            self.assertEqual(self.answer(login, WRONG_CODE), first)
        self.assertEqual(self.answer(login, codes[0]), user_id)
        # The codes of the authenticator are not delayed either
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    def test_at_once(self):
        "Test that a right one is accepted after many wrong ones at once"
        login, user_id, key, codes = self.enrol()
        answers = {self.answer(login, WRONG_CODE) for _ in range(200)}
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.status(user_id), (False, None))
        self.assertEqual(self.answer(login, codes[0]), user_id)
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    def test_every_hour(self):
        "Test that a wrong one every hour does not keep the owner out"
        login, user_id, key, codes = self.enrol()
        for _ in range(3):
            self.answer(login, WRONG_CODE)
        for count in range(10):
            self.now += 3600
            self.answer(login, WRONG_CODE)
            self.assertEqual(self.answer(login, codes[count]), user_id)

    def test_while_codes_wait(self):
        "Test that one is accepted while the user has to wait"
        login, user_id, key, codes = self.enrol()
        for _ in range(3):
            self.answer(login, right_code(key, self.now, 95))
        for _ in range(5):
            self.answer(login, WRONG_CODE)
        self.assertIsInstance(
            self.answer(login, right_code(key, self.now)), str)
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_while_locked(self):
        "Test that one is accepted while codes are locked"
        self.set_totp('max_failures', '4')
        login, user_id, key, codes = self.enrol()
        for _ in range(4):
            self.answer(login, right_code(key, self.now, 95))
            self.now += 3600
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), LOCKED)
        for _ in range(5):
            self.answer(login, WRONG_CODE)
        self.assertTrue(self.status(user_id)[0])
        self.assertEqual(self.answer(login, codes[0]), user_id)
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    def test_known_device(self):
        "Test that the same holds for a known device"
        login, user_id, key, codes = self.enrol()
        cookie = self.client(login).model('res.user.device', 'renew', None)
        for _ in range(150):
            self.answer(login, WRONG_CODE, device_cookie=cookie)
        self.assertEqual(
            self.answer(login, codes[0], device_cookie=cookie), user_id)
        self.assertEqual(
            self.answer(
                login, right_code(key, self.now), device_cookie=cookie),
            user_id)

    def test_lock_of_codes(self):
        "Test that they do not count towards the lockout"
        self.set_totp('max_failures', '4')
        login, user_id, key, codes = self.enrol()
        for _ in range(10):
            self.answer(login, WRONG_CODE)
        self.assertEqual(self.status(user_id), (False, None))
        for _ in range(3):
            self.answer(login, right_code(key, self.now, 95))
        self.now += 3600
        for _ in range(10):
            self.answer(login, WRONG_CODE)
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)
        self.assertNotIn('locked', self.events(user_id))

    def test_first_factor(self):
        "Test that one is accepted without a first factor"
        login, user_id, key, codes = self.enrol()
        self.set_config('session', 'authentications', 'totp,password')
        answers = {
            self.answer(user, WRONG_CODE)
            for user in [login, 'nobody'] for _ in range(110)}
        # Nothing reveals which users have recovery codes
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_recorded(self):
        "Test that the third one in a row is recorded, but not those after it"
        login, user_id, key, codes = self.enrol()
        counts = []
        for _ in range(50):
            self.answer(login, WRONG_CODE)
            counts.append(self.recovery_failed(user_id))
        self.assertEqual(counts, [0, 0] + [1] * 48)
        # A right one resets the count
        self.assertEqual(self.answer(login, codes[0]), user_id)
        counts = []
        for _ in range(4):
            self.answer(login, WRONG_CODE)
            counts.append(self.recovery_failed(user_id))
        self.assertEqual(counts, [1, 1, 2, 2])
        # They do not count as wrong codes of an authenticator
        self.assertNotIn('failed', self.events(user_id))

    def test_told(self):
        "Test that the owner is told by e-mail, at most once an hour"
        login, user_id, key, codes = self.enrol()
        times = []
        for code in codes:
            for _ in range(2):
                self.answer(login, WRONG_CODE)
            self.assertEqual(self.received(), [])
            self.answer(login, WRONG_CODE)
            if subjects := self.received():
                subject, = subjects
                self.assertIn(login, subject)
                self.assertIn("recovery code", self.text())
                times.append(self.now)
            self.assertEqual(self.answer(login, code), user_id)
            self.received()
            self.now += 1200
        self.assertEqual(self.recovery_failed(user_id), 10)
        self.assertEqual(
            [after - before for before, after in zip(
                    times, times[1:], strict=False)],
            [3600] * 3)

    def test_without_recovery_codes(self):
        "Test that the owner is told of them even without recovery codes"
        login, user_id = self.user(KEY)
        for _ in range(50):
            self.answer(login, WRONG_CODE)
        self.assertEqual(self.recovery_failed(user_id), 1)
        self.assertEqual(self.answer(login, self.code()), user_id)
