# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from trytond.pool import Pool

from .test_login_setup import KEY_SHOWN
from .tools import (
    KEY, OTHER_KEY, PASSWORD, REFUSED, RPC, USED, WAIT, WRONG,
    Refused, TOTPTestCase, right_code)


class DirectoryTestCase(TOTPTestCase):
    """Test that the code is that of the user named by the method before

    The directory ignores the case of the login, as ldap_authentication does.
    """
    authentications = 'directory+totp'

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        # The login that the directory finds for a typed one
        self.names = {}
        with self.transaction():
            User = Pool().get('res.user')

        def login_directory(login, parameters):
            name = self.names.get(login.casefold())
            if name and parameters.get('password') == PASSWORD:
                return User._get_login(name)[0]
        for name, method in [
                ('_login_directory', login_directory),
                ('_login_nobody', lambda login, parameters: None)]:
            patcher = patch.object(
                User, name, staticmethod(method), create=True)
            patcher.start()
            self.addCleanup(patcher.stop)

    def user(self, key=None, **kwargs):
        login, user_id = super().user(key, **kwargs)
        self.names[login.casefold()] = login
        return login, user_id

    def homonym(self, login, key=None):
        "Commit a user with the same login in capitals"
        _, user_id = super().user(key)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'login': login.upper()})
        return user_id

    def answer(self, login, code=None, **parameters):
        "Return the id of the user that a request accepts, or the answer"
        if code is not None:
            parameters['totp_code'] = code
        try:
            return RPC().login(login, **{'password': PASSWORD, **parameters})
        except Refused as refused:
            error, *details = refused.args
            return details[0][1] if details else error

    def test_case(self):
        "Test that the code is asked for and accepted in any case of the login"
        login, user_id = self.user(KEY)
        for typed in [login, login.upper(), login.title()]:
            with self.subTest(typed=typed):
                self.assertIn("Enter the code", self.answer(typed))
                self.assertEqual(self.answer(typed, self.code()), user_id)
                self.assertEqual(self.answer(typed, self.code()), USED)
                self.now += 30
        self.assertEqual(self.failures(user_id), 0)

    def test_wrong(self):
        "Test that wrong codes count for the user in any case of the login"
        login, user_id = self.user(KEY)
        for count, typed in enumerate(
                [login, login.upper(), login.title()], 1):
            self.answer(typed, self.code(95))
            self.assertEqual(self.failures(user_id), count)
        for typed in [login, login.upper(), login.swapcase()]:
            self.assertEqual(
                self.answer(typed, self.code()), WAIT % "30 seconds")
        self.assertEqual(self.events(user_id), ['set_up', 'failed'])

    def test_recovery_code(self):
        "Test a recovery code with a login in another case"
        login, user_id = self.user(KEY)
        with self.transaction():
            code, *_ = Pool().get('res.user.totp_recovery_code').renew(user_id)
        self.assertEqual(self.answer(login.upper(), code), user_id)

    def test_wrong_password(self):
        "Test that no code is asked for if the directory refuses"
        login, user_id = self.user(KEY)
        for typed in [login, login.upper()]:
            self.assertEqual(
                self.answer(typed, self.code(), password='x'), 401)
        self.assertEqual(self.counters(user_id), [])

    def test_homonym(self):
        "Test that the code of the user with exactly the typed login is wrong"
        login, user_id = self.user(KEY)
        other_id = self.homonym(login, OTHER_KEY)
        typed = login.upper()
        self.assertEqual(
            self.answer(typed, right_code(OTHER_KEY, self.now)), WRONG)
        self.assertEqual(self.failures(user_id), 1)
        self.assertEqual(self.failures(other_id), 0)
        self.assertEqual(self.counters(other_id), [])
        self.assertEqual(self.answer(typed, self.code()), user_id)

    def test_no_totp_secret(self):
        "Test that the option checks the user of the directory"
        self.set_config(
            'session', 'authentications', 'directory+totp?no_totp_secret')
        without, without_id = self.user()
        self.assertEqual(self.answer(without.upper()), without_id)
        login, user_id = self.user(KEY)
        self.assertIn("Enter the code", self.answer(login.upper()))
        self.assertEqual(self.answer(login.upper(), self.code()), user_id)
        # Another user without TOTP does not help
        self.homonym(login)
        self.assertIsInstance(self.answer(login.upper()), str)
        # Another user with TOTP does no harm
        self.homonym(without, OTHER_KEY)
        self.assertEqual(self.answer(without.upper()), without_id)

    def test_required(self):
        "Test that users for whom TOTP is required need a code"
        self.set_config(
            'session', 'authentications', 'directory+totp?no_totp_secret')
        login, user_id = self.user()
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'totp_required': True})
        for typed in [login, login.upper()]:
            self.assertIsInstance(self.answer(typed), str)

    def test_setup_totp(self):
        "Test that a setup in the dialog is for the user of the directory"
        self.set_config(
            'session', 'authentications', 'directory+totp?setup_totp')
        login, user_id = self.user()
        other_id = self.homonym(login)
        message = self.answer(login.upper())
        key, = KEY_SHOWN.findall(message)
        self.assertIn(f"account {login},", message)
        self.assertEqual(
            self.answer(login.upper(), right_code(key, self.now)), user_id)
        self.assertEqual(self.events(user_id), ['set_up'])
        self.assertIsNone(self.stored_secret(other_id))
        self.now += 30
        for typed in [login, login.upper()]:
            self.assertEqual(
                self.answer(typed, right_code(key, self.now)), user_id)
            self.now += 30

    def test_setup_totp_wrong(self):
        "Test that wrong codes count for the typed login, as core counts"
        self.set_config(
            'session', 'authentications', 'directory+totp?setup_totp')
        login, _ = self.user()
        for typed, other in [
                (login, login.upper()), (login.upper(), login)]:
            with self.subTest(typed=typed):
                self.forget_attempts()
                self.answer(typed)
                for _ in range(3):
                    self.answer(typed, '000000')
                self.assertEqual(
                    (self.attempts(typed), self.attempts(other)), (3, 0))

    def test_setup_totp_limit(self):
        "Test that core's limit stops wrong codes, but not the owner"
        self.set_config(
            'session', 'authentications', 'directory+totp?setup_totp')
        self.set_config('session', 'max_attempt', '5')
        login, user_id = self.user()
        typed = login.upper()
        self.answer(typed)
        answers = [self.answer(typed, '000000') for _ in range(7)]
        self.assertNotIn(429, answers[:6])
        self.assertEqual(answers[6], 429)
        key, = KEY_SHOWN.findall(self.answer(login))
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    def test_setup_totp_enrolled(self):
        "Test that no key is shown to a user who has TOTP"
        self.set_config(
            'session', 'authentications', 'directory+totp?setup_totp')
        login, user_id = self.user(KEY)
        self.homonym(login)
        for typed in [login, login.upper()]:
            message = self.answer(typed)
            self.assertNotRegex(message, KEY_SHOWN)
            self.assertEqual(self.answer(typed, self.code()), user_id)
            self.now += 30

    def test_inactive(self):
        "Test that an inactive user cannot log in"
        login, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'active': False})
        for typed in [login, login.upper()]:
            self.assertEqual(self.answer(typed, self.code()), 401)

    # What must not be possible

    def test_next_chain(self):
        "Test that a chain does not use the user of the chain before"
        login, user_id = self.user(KEY)
        other_id = self.homonym(login, OTHER_KEY)
        for authentications in [
                'directory+nobody,totp', 'directory+nobody,totp+password']:
            self.set_config('session', 'authentications', authentications)
            self.assertEqual(
                self.answer(
                    login.upper(), right_code(OTHER_KEY, self.now)), other_id)
            self.assertIsInstance(
                self.answer(login.upper(), self.code()), str)
            self.assertEqual(self.counters(user_id), [])
            self.now += 30

    def test_next_chain_without(self):
        "Test that the option of a chain checks the user of its own chain"
        self.set_config(
            'session', 'authentications',
            'directory+nobody,password+totp?no_totp_secret')
        login, user_id = self.user()
        self.homonym(login, OTHER_KEY)
        # The password names the other user, who has TOTP
        self.assertIsInstance(self.answer(login.upper()), str)

    def test_first_factor(self):
        "Test that before a first factor the typed login counts exactly"
        self.set_config('session', 'authentications', 'totp+directory')
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.answer(login.upper(), self.code()), REFUSED)
        self.assertEqual(
            self.answer(f'{login} not', self.code()), REFUSED)
        self.assertEqual(self.answer(login, self.code()), user_id)

    def test_two_methods(self):
        "Test that methods that name different users accept none"
        login, user_id = self.user(KEY)
        other_id = self.homonym(login, OTHER_KEY)
        for authentications in [
                'directory+password+totp', 'password+directory+totp',
                'directory+totp+password', 'password+totp+directory']:
            self.set_config('session', 'authentications', authentications)
            for key in [KEY, OTHER_KEY]:
                answer = self.answer(
                    login.upper(), right_code(key, self.now))
                self.assertNotIn(answer, [user_id, other_id])
                self.assertEqual(self.counters(user_id), [])
                self.assertEqual(self.counters(other_id), [])
        self.set_config('session', 'authentications', 'directory+totp')
        self.forget_failures(user_id)
        self.assertEqual(self.answer(login.upper(), self.code()), user_id)
