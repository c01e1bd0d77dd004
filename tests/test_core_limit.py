# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import io
from contextlib import redirect_stdout
from unittest.mock import patch

from trytond.modules.authentication_totp import command, totp
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from . import tools
from .test_login_setup import KEY_SHOWN
from .tools import (
    KEY, LOCKED, PASSWORD, RPC, WAIT, Refused, TOTPTestCase, right_code)

# It has the form of a recovery code
RECOVERY_CODE = '-'.join(['AAAAA'] * 5)
FIVE_MINUTES = 300
TOO_MANY = 429


class CoreLimitTestCase(TOTPTestCase):
    """Test that promises hold with core's limit of attempts at its defaults

    Core counts in seconds of the machine's clock. For it, all requests of a
    test come at the same moment.
    """

    def setUp(self):
        super().setUp()
        self.forget_attempts()

    def enrol(self):
        "Return login, id and recovery codes of a user who has TOTP"
        login, user_id = self.user(KEY)
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            return login, user_id, RecoveryCode.renew(user_id)

    def answer(self, login, code=None, address=tools.ADDRESS, **parameters):
        """Return the answer to a request: the id of the user if the login is
        accepted, the text or the status
        """
        parameters.setdefault('password', PASSWORD)
        if code is not None:
            parameters['totp_code'] = code
        with patch(f'{RPC.__module__}.ADDRESS', address):
            try:
                return RPC().login(login, **parameters)
            except Refused as refused:
                error, *details = refused.args
                return details[0][1] if details else error

    def enter_wrong(self, login, count, **parameters):
        "Enter wrong codes, each as soon as codes are evaluated again"
        for _ in range(count):
            self.assertIsInstance(
                self.answer(login, self.code(95), **parameters), str)
            self.now += 3600

    def exhaust(self, login, device_cookie=None):
        "Enter wrong passwords until core refuses every login"
        parameters = {'password': 'x'}
        if device_cookie:
            parameters['device_cookie'] = device_cookie
        for _ in range(6):
            self.assertEqual(self.answer(login, **parameters), 401)
        self.assertEqual(
            self.answer(login, self.code(), device_cookie=device_cookie),
            TOO_MANY)

    def command(self, *args):
        with redirect_stdout(io.StringIO()):
            command.main(['-d', DB_NAME, *args])

    def test_code(self):
        "Test that a right code logs in after many wrong ones"
        login, user_id, _ = self.enrol()
        for count in [6, 20]:
            self.enter_wrong(login, count)
            self.assertEqual(self.answer(login, self.code()), user_id)

    def test_waiting(self):
        "Test that users who have to wait are told so however often they try"
        login, user_id, _ = self.enrol()
        for _ in range(3):
            self.answer(login, self.code(95))
        for _ in range(20):
            self.assertEqual(
                self.answer(login, self.code()), WAIT % "30 seconds")
        self.now += 30
        self.assertEqual(self.answer(login, self.code()), user_id)

    def test_recovery_code(self):
        "Test that a recovery code logs in at once"
        login, user_id, codes = self.enrol()
        self.enter_wrong(login, 10)
        self.assertEqual(self.answer(login, codes[0]), user_id)
        # Also while the user has to wait
        for _ in range(4):
            self.answer(login, self.code(95))
        self.assertEqual(self.answer(login, codes[1]), user_id)

    def test_recovery_code_locked(self):
        "Test that a recovery code logs in at once while codes are locked"
        self.set_totp('max_failures', '8')
        login, user_id, codes = self.enrol()
        self.enter_wrong(login, 8)
        for _ in range(10):
            self.assertEqual(self.answer(login, self.code()), LOCKED)
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_known_device(self):
        "Test that the same holds for a known device"
        login, user_id, codes = self.enrol()
        cookie = self.client(login).model('res.user.device', 'renew', None)
        self.enter_wrong(login, 8, device_cookie=cookie)
        self.assertEqual(
            self.answer(login, self.code(), device_cookie=cookie), user_id)
        self.enter_wrong(login, 8, device_cookie=cookie)
        self.assertEqual(
            self.answer(login, codes[0], device_cookie=cookie), user_id)

    def test_first_factor(self):
        "Test a code that is asked for before the password"
        self.set_config('session', 'authentications', 'totp+password')
        login, user_id, codes = self.enrol()
        for _ in range(8):
            self.assertEqual(
                self.answer(login, self.code(95)), tools.REFUSED)
            self.now += 3600
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_set_up(self):
        "Test that a wrong code of the new key does not refuse the right one"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        login, user_id = self.user()
        key, = KEY_SHOWN.findall(self.answer(login))
        for _ in range(5):
            self.assertIsInstance(self.answer(login, '000000'), str)
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    # Actions of an administrator take effect at once

    def unlocked(self, login, user_id):
        admin, _ = self.user(administrator=True)
        return {
            'button': lambda: self.client(admin).model(
                'res.user', 'unlock_totp', [user_id]),
            'command': lambda: self.command('unlock', login),
            }

    def reset(self, login, user_id):
        admin, _ = self.user(administrator=True)

        def wizard():
            rpc = self.client(admin)
            prefix = 'wizard.res.user.reset_totp'
            context = {
                'active_model': 'res.user', 'active_id': user_id,
                'active_ids': [user_id]}
            session_id, start, _ = rpc.call(f'{prefix}.create', context)
            rpc.call(f'{prefix}.execute', session_id, {}, start, context)
            rpc.call(f'{prefix}.execute', session_id, {}, 'reset', context)
        return {
            'wizard': wizard,
            'command': lambda: self.command('reset', login),
            }

    def test_unlock(self):
        "Test that the user logs in at once after an unlock"
        self.set_totp('max_failures', '6')
        for way in ['button', 'command']:
            with self.subTest(way):
                login, user_id, _ = self.enrol()
                cookie = self.client(login).model(
                    'res.user.device', 'renew', None)
                self.enter_wrong(login, 6)
                self.assertEqual(self.answer(login, self.code()), LOCKED)
                self.exhaust(login)
                self.exhaust(login, device_cookie=cookie)
                self.unlocked(login, user_id)[way]()
                self.assertEqual(self.answer(login, self.code()), user_id)
                self.now += 30
                self.assertEqual(
                    self.answer(login, self.code(), device_cookie=cookie),
                    user_id)

    def test_reset(self):
        "Test that the user logs in at once after a reset"
        self.set_config(
            'session', 'authentications', 'password+totp?no_totp_secret')
        for way in ['wizard', 'command']:
            with self.subTest(way):
                login, user_id, _ = self.enrol()
                self.enter_wrong(login, 6)
                self.exhaust(login)
                self.reset(login, user_id)[way]()
                self.assertEqual(self.answer(login), user_id)

    def test_unlock_others(self):
        "Test that core's count of other users stays"
        login, user_id, _ = self.enrol()
        other, other_id, _ = self.enrol()
        self.exhaust(login)
        self.exhaust(other)
        self.command('unlock', login)
        self.assertEqual(self.answer(login, self.code()), user_id)
        self.assertEqual(self.answer(other, self.code()), TOO_MANY)

    # What must not be possible

    def evaluated(self, guess):
        """Return how many codes of an attacker are evaluated in five minutes

        guess: a function of the number of guesses so far
        """
        verify, match = totp.verify, totp.Secret.match
        secret = tools.secret_from(KEY)
        evaluated = []

        def counted_verify(secrets, code, *args):
            # Dummies are checked only for the time that it takes
            if secret in [secret for secret, _ in secrets]:
                evaluated.append(code)
            with patch.object(totp.Secret, 'match', match):
                return verify(secrets, code, *args)

        def counted_match(secret, code, *args, **kwargs):
            evaluated.append(code)
            return match(secret, code, *args, **kwargs)
        with patch.object(totp, 'verify', counted_verify), \
                patch.object(totp.Secret, 'match', counted_match):
            self.attack(guess)
        return len(evaluated)

    def attack(self, guess):
        "Guess ten times at once, then for five minutes"
        end = self.now + FIVE_MINUTES
        for count in range(10):
            guess(count)
        while self.now < end:
            count += 1
            guess(count)
            self.now += 5

    def test_guesses(self):
        "Test that at most six codes are evaluated in five minutes"
        for authentications in [
                'password+totp', 'totp+password', 'totp,password',
                'password+totp?setup_totp', 'password+totp?no_totp_secret']:
            for addresses in [1, 250]:
                with self.subTest(authentications, addresses=addresses):
                    self.set_config(
                        'session', 'authentications', authentications)
                    login, _, _ = self.enrol()
                    self.assertLessEqual(
                        self.evaluated(self.guesser(login, addresses)), 6)

    def guesser(self, login, addresses):
        "Return a function that guesses from that many addresses in turn"
        def guess(count):
            self.answer(
                login, f'{count:06}', address=f'10.0.{count % addresses}.1')
        return guess

    def test_guesses_between(self):
        "Test that nothing entered between guesses allows more of them"
        login, user_id, _ = self.enrol()
        between = [
            None, '', RECOVERY_CODE, 'ACDEF-GHJKM-NPQRT', tools.OTHER_KEY,
            'otpauth://x', '123', '12345678', 'x']

        def guess(count):
            self.answer(login, f'{count:06}')
            self.answer(login, between[count % len(between)])
        real = []
        verify = totp.verify

        def counted(secrets, code, *args):
            if len(str(code)) == 6:
                real.append(code)
            return verify(secrets, code, *args)
        with patch.object(totp, 'verify', counted):
            self.attack(guess)
        self.assertLessEqual(len(real), 6)

    def test_guesses_set_up(self):
        "Test guesses of the first code of a new key"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        login, user_id = self.user()
        self.answer(login)
        self.assertLessEqual(self.evaluated(self.guesser(login, 1)), 6)

    def test_password(self):
        "Test that wrong passwords are limited as before"
        login, user_id, _ = self.enrol()
        answers = [self.answer(login, password='x') for _ in range(9)]
        self.assertEqual(answers, [401] * 6 + [TOO_MANY] * 3)

    def test_password_between(self):
        "Test that wrong codes between them do not forgive wrong passwords"
        login, user_id, _ = self.enrol()
        answers = []
        for _ in range(9):
            self.answer(login, self.code(95))
            answers.append(self.answer(login, password='x'))
        self.assertEqual(answers, [401] * 6 + [TOO_MANY] * 3)

    def test_network(self):
        "Test that core's limit of a network counts wrong codes as before"
        self.set_config('session', 'max_attempt_ip_network', '6')
        for authentications in ['password+totp', 'totp+password']:
            self.set_config('session', 'authentications', authentications)
            self.forget_attempts()
            answers = []
            for _ in range(9):
                login, _, _ = self.enrol()
                answers.append(self.answer(login, self.code(95)))
            self.assertEqual(answers[-2:], [TOO_MANY] * 2)
            self.assertNotIn(TOO_MANY, answers[:7])
            # Another network is not limited
            login, user_id, _ = self.enrol()
            self.assertEqual(
                self.answer(login, self.code(), address='203.0.113.7'),
                user_id)

    def test_wrong_recovery_codes(self):
        "Test that a recovery code works at once after many wrong ones"
        login, user_id, codes = self.enrol()
        for _ in range(9):
            self.assertNotEqual(self.answer(login, RECOVERY_CODE), TOO_MANY)
        self.assertEqual(self.answer(login, codes[0]), user_id)

    def test_blank_login(self):
        "Test that attempts with a blank login lock out nobody"
        login, user_id, _ = self.enrol()
        for _ in range(9):
            self.answer('', password='x')
        self.enter_wrong(login, 2)
        self.assertEqual(self.answer(login, self.code()), user_id)
