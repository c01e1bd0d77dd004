# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json
from unittest.mock import patch

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import guess, totp
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    KEY, LOCKED, PASSWORD, REFUSED, RPC, USED, WAIT, WRONG, Refused,
    TOTPTestCase)


def in_words(seconds):
    if seconds > 60:
        return f'{seconds // 60} minutes'
    return f'{seconds} seconds' if seconds > 1 else '1 second'


class GuessingTestCase(TOTPTestCase):
    "Test that guessing ends (law 5)"

    def setUp(self):
        super().setUp()
        # Core's limit would refuse the logins of these tests
        self.lift_core_limit()

    def answer(self, login, code, password=PASSWORD, device_cookie=None):
        "Return the answer to one request, None if the user logs in"
        parameters = {'password': password, 'totp_code': code}
        if device_cookie:
            parameters['device_cookie'] = device_cookie
        try:
            self.assertTrue(
                security.login(DB_NAME, login, parameters, cache=False))
        except LoginException as question:
            self.assertEqual(question.name, 'totp_code')
            self.assertEqual(question.type, 'char')
            return question.message

    def guess(self, login, count, **kwargs):
        for _ in range(count):
            self.answer(login, self.code(95), **kwargs)

    def device(self, user_id):
        with self.transaction(user_id):
            return Pool().get('res.user.device').renew(None)

    def read(self, rpc, user_id, *names):
        values, = rpc.model('res.user', 'read', [user_id], list(names))
        return [values[name] for name in names]

    def test_waits(self):
        "Test the delay after each failure, to the second"
        login, user_id = self.user(KEY)
        waits = []
        for failures in range(1, 13):
            wait = guess.wait(failures)
            waits.append(wait)
            self.assertEqual(
                self.answer(login, self.code(95)),
                WAIT % in_words(wait) if wait else WRONG)
            self.assertEqual(self.failures(user_id), failures)
            if wait:
                for rest in [wait, 1]:
                    self.now += wait - rest
                    time = in_words(rest)
                    # Even the right code is refused, and none is counted
                    for code in [self.code(), self.code(95)]:
                        self.assertEqual(
                            self.answer(login, code), WAIT % time)
                    self.now -= wait - rest
                self.now += wait
        self.assertEqual(waits, [
                0, 0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600])
        self.assertIsNone(self.answer(login, self.code()))

    def test_patient(self):
        "Test that an attacker who waits as told has 100 codes checked, ever"
        login, user_id = self.user(KEY)
        with patch.object(totp, 'verify', side_effect=totp.verify) as verify:
            for _ in range(200):
                self.now += 3600
                self.answer(login, self.code(95))
        self.assertEqual(verify.call_count, 100)
        self.assertEqual(self.failures(user_id), 100)
        self.now += 10 ** 8
        self.assertEqual(self.answer(login, self.code()), LOCKED)

    def test_max_failures(self):
        "Test the setting max_failures"
        self.set_totp('max_failures', '4')
        login, user_id = self.user(KEY)
        self.guess(login, 3)
        self.now += 30
        self.guess(login, 1)
        self.now += 10 ** 6
        self.assertEqual(self.answer(login, self.code()), LOCKED)

    def test_success(self):
        "Test that a right code forgets the failures"
        login, user_id = self.user(KEY)
        self.guess(login, 2)
        self.assertIsNone(self.answer(login, self.code()))
        self.assertEqual(self.failures(user_id), 0)
        self.now += 30
        self.guess(login, 3)
        self.assertEqual(self.answer(login, self.code()), WAIT % '30 seconds')
        self.now += 30
        self.assertIsNone(self.answer(login, self.code()))
        self.assertEqual(self.failures(user_id), 0)
        self.now += 30
        self.assertEqual(self.answer(login, self.code(95)), WRONG)

    def test_parallel(self):
        "Test that a right code is not accepted after parallel wrong ones"
        login, user_id = self.user(KEY)
        with self.transaction():
            Counter = Pool().get('res.user.totp_counter')
            match = Counter.verify(user_id, self.code())
        self.guess(login, 3)
        with self.transaction():
            with self.assertRaises(backend.DatabaseOperationalError):
                Counter.consume(match)
        self.assertEqual(self.answer(login, self.code()), WAIT % '30 seconds')

    def test_language(self):
        "Test that wrong codes count whatever the language"
        login, user_id = self.user(KEY)
        for language in [
                5, 1.5, True, [], {}, '', '\0', 'a\0b', '\ud800', 'en_US\n',
                'a' * 10 ** 5, *('a_' * n for n in range(1, 200, 7))]:
            with self.subTest(language=repr(language)[:20]):
                before = self.failures(user_id) or 0
                response = RPC().post(
                    'common.db.login', login,
                    {'password': PASSWORD, 'totp_code': self.code(95)},
                    language)
                self.assertEqual(
                    json.loads(response.data)['error'][1][:2],
                    ['totp_code', WRONG])
                self.assertEqual(self.failures(user_id), before + 1)
                self.assertEqual(self.answer(login, self.code()), None)
                self.now += 30

    def test_context(self):
        "Test that wrong codes count whatever the context of the client"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        for i, context in enumerate([
                {'language': 5}, {'language': 'a_' * 100},
                {'queue_expected_at': 'x'}, {'queue_scheduled_at': 'x'},
                {'queue_name': 5}, {'active_test': 'x', 'user': 'x'},
                {'_datetime': 'x', '_check_access': True}], 1):
            with self.subTest(context=context):
                session_id, _ = rpc.overview()
                rpc.post(
                    'wizard.res.user.setup_totp.execute', session_id,
                    {'overview': {'code': self.code(95)}}, 'add', context)
                self.assertEqual(self.failures(user_id), i)
                self.now += 3600

    def test_replay(self):
        "Test that a used code counts as a failure"
        login, user_id = self.user(KEY)
        code = self.code()
        self.assertIsNone(self.answer(login, code))
        # The authenticator no longer shows it
        self.now += 60
        for answer in [USED, USED, WAIT % '30 seconds']:
            self.assertEqual(self.answer(login, code), answer)
        self.assertEqual(self.failures(user_id), 3)
        self.assertEqual(
            self.answer(login, self.code(1)), WAIT % '30 seconds')

    def test_wrong_password(self):
        "Test that guesses with a wrong password cause no delay"
        login, user_id = self.user(KEY)
        for _ in range(10):
            security.login(DB_NAME, login, {
                    'password': 'x', 'totp_code': '000000'}, cache=False)
        self.assertEqual(self.failures(user_id), 0)

    def test_known_device(self):
        "Test that an attacker elsewhere cannot lock out a known device"
        login, user_id = self.user(KEY)
        cookie = self.device(user_id)
        for _ in range(100):
            self.guess(login, 1)
            self.now += 3600
        self.assertEqual(self.answer(login, self.code()), LOCKED)
        self.assertEqual(
            self.answer(login, self.code(), device_cookie='x'), LOCKED)
        self.assertIsNone(
            self.answer(login, self.code(), device_cookie=cookie))
        # This login does not end the lockout elsewhere
        self.now += 30
        self.assertEqual(self.answer(login, self.code()), LOCKED)
        self.guess(login, 3, device_cookie=cookie)
        self.assertEqual(self.failures(user_id, 'known_device'), 3)
        self.assertEqual(
            self.answer(login, self.code(), device_cookie=cookie),
            WAIT % '30 seconds')

    def test_no_attempt(self):
        "Test that core delays a user who has to wait, but counts no attempt"
        self.forget_attempts()
        login, user_id = self.user(KEY)
        self.guess(login, 3)
        self.assertEqual(self.network_attempts(), 3)
        with patch('trytond.res.user.time') as time:
            for _ in range(10):
                self.answer(login, self.code())
            self.assertEqual(time.sleep.call_count, 10)
        self.assertEqual(self.network_attempts(), 3)

    def test_first_factor(self):
        "Test that everybody gets the same answer before a first factor"
        self.set_config('session', 'authentications', 'totp')
        known, user_id = self.user(KEY)
        without, _ = self.user()
        for login in [known, without, f'{known} not']:
            with self.subTest(login=login):
                self.forget_attempts()
                for _ in range(6):
                    self.assertEqual(
                        self.answer(login, self.code(95)), REFUSED)
                # Core counts an attempt, whether or not the user has to wait
                self.assertEqual(self.network_attempts(), 6)
        self.assertEqual(self.failures(user_id), 3)
        self.assertEqual(self.answer(known, self.code()), REFUSED)

    def test_unlock(self):
        "Test that an administrator sees the failures and unlocks the user"
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        names = ['totp_failures', 'totp_waiting_until', 'totp_locked']
        self.set_config('session', 'authentications', 'password')
        rpc, owner_rpc = RPC(), RPC()
        rpc.login(admin, password=PASSWORD)
        owner_rpc.login(login, password=PASSWORD)
        self.set_config('session', 'authentications', 'password+totp')
        self.assertEqual(self.read(rpc, user_id, *names), [0, None, False])
        self.guess(login, 3)
        failures, until, locked = self.read(rpc, user_id, *names)
        self.assertEqual((failures, locked), (3, False))
        self.assertEqual(until.timestamp(), self.now + 30)
        self.now += 30
        self.assertEqual(self.read(rpc, user_id, *names), [3, None, False])
        for _ in range(97):
            self.guess(login, 1)
            self.now += 3600
        self.assertEqual(self.read(rpc, user_id, *names), [100, None, True])

        with self.assertRaises(Refused):
            owner_rpc.model('res.user', 'unlock_totp', [user_id])
        self.assertEqual(self.answer(login, self.code()), LOCKED)
        rpc.model('res.user', 'unlock_totp', [user_id])
        self.assertEqual(self.read(rpc, user_id, *names), [0, None, False])
        self.assertIsNone(self.answer(login, self.code()))

    def test_status(self):
        "Test that the status adds up the failures of all kinds of codes"
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        cookie = self.device(user_id)
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(admin, password=PASSWORD)
        self.set_config('session', 'authentications', 'password+totp')
        self.guess(login, 3)
        self.now += 30
        self.guess(login, 1)
        self.guess(login, 3, device_cookie=cookie)
        failures, until = self.read(
            rpc, user_id, 'totp_failures', 'totp_waiting_until')
        self.assertEqual(failures, 7)
        self.assertEqual(until.timestamp(), self.now + 60)

    def test_clock_back(self):
        "Test that setting the clock back does not prolong the wait"
        login, user_id = self.user(KEY)
        self.now += 10 ** 7
        self.guess(login, 3)
        self.now -= 10 ** 7
        self.assertIsNone(self.answer(login, self.code()))

    def test_clock_ahead(self):
        "Test that the log says why a clock set back locks out an honest user"
        login, user_id = self.user(KEY)
        self.now += 3600
        self.assertIsNone(self.answer(login, self.code()))
        self.now -= 3600
        with self.assertLogs('trytond.modules.authentication_totp') as logs:
            self.assertEqual(self.answer(login, self.code()), USED)
        self.assertEqual(len(logs.output), 1)
        self.assertRegex(
            logs.output[0], rf'of user {user_id} is 35\d\d seconds ahead')
