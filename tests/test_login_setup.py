# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging
import re
import traceback

from trytond import security
from trytond.exceptions import LoginException
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    IS_KEY, PASSWORD, RPC, USED, Refused, TOTPTestCase, right_code)

KEY_SHOWN = re.compile('(?:[A-Z2-7]{4} ){7}[A-Z2-7]{4}')
# An attacker could guess the rest of a key from a part of it
KEY_PART = '[A-Z2-7]{4}( [A-Z2-7]{4})+|[A-Z2-7]{8}'


class LoginSetupTestCase(TOTPTestCase):
    "Test the setup in the login dialog"
    authentications = 'password+totp?setup_totp'

    def request(self, login, **parameters):
        "Return the id of the user who logs in, or the answer to the request"
        try:
            return RPC().login(login, password=PASSWORD, **parameters)
        except Refused as refused:
            error, *details = refused.args
            if not details:
                return error
            self.assertEqual(error, 'LoginException')
            name, message, type_ = details[0]
            self.assertEqual((name, type_), ('totp_code', 'char'))
            return message

    def key(self, login):
        "Return the key that the answer to a request without a code shows"
        key, = KEY_SHOWN.findall(self.request(login))
        return key

    def enter(self, login, key, steps=0):
        return self.request(
            login, totp_code=right_code(key, self.now, steps))

    def assertRefused(self, answer):
        "Check that the answer says how to go on, and shows no key"
        self.assertIsInstance(answer, str)
        self.assertNotRegex(answer, KEY_PART)
        self.assertRegex(answer, 'starts? again')

    def enabled(self, user_id):
        with self.transaction():
            return Pool().get('res.user')(user_id).totp_enabled

    def require(self, user_id):
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'totp_required': True})

    def test_setup(self):
        "Test that the login dialog shows a key and takes its first code"
        login, user_id = self.user()
        self.assertIsNone(self.dialogue(login, password=['x'])[0])
        self.assertEqual(self.events(user_id), [])
        message = self.request(login)
        key, = KEY_SHOWN.findall(message)
        self.assertIn(f"account {login}", message)
        self.assertIn("time-based", message)
        self.assertEqual(self.enter(login, key), user_id)
        self.assertEqual(self.events(user_id), ['set_up'])

        # From now on the dialog asks for a code, and the first one is used
        self.assertEqual(self.enter(login, key), USED)
        self.assertNotRegex(self.request(login), KEY_PART)
        self.now += 30
        self.assertEqual(self.enter(login, key), user_id)

    def test_fresh_key(self):
        "Test that each request without a code shows a new key"
        login, _ = self.user()
        keys = [self.key(login) for _ in range(3)]
        # Also with other parameters
        for parameters in [
                {'device_cookie': 'x'}, {'sms_code': 'x'},
                {'secret': keys[0]}]:
            keys += KEY_SHOWN.findall(self.request(login, **parameters))
        self.assertEqual(len(set(keys)), 6)

    def test_key_of_wizard(self):
        "Test that the dialog does not show the key of the user's wizard"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        # An attacker who knows the password
        key = self.key(login)
        self.assertNotEqual(key, shown['secret'])
        # Each start invalidates the earlier keys
        with self.assertRaises(Refused):
            rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now))
        self.assertRefused(self.enter(login, shown['secret']))
        rpc.start_setup()
        self.assertRefused(self.enter(login, key))
        self.assertFalse(self.enabled(user_id))

    def test_key_of_another(self):
        "Test that a key once shown to somebody else never sets up TOTP"
        login, user_id = self.user()
        seen = []
        for _ in range(3):
            seen.append(self.key(login))
            self.now += 180
        key = self.key(login)
        for other in seen:
            for steps in [-1, 0, 1]:
                self.assertRefused(self.enter(login, other, steps))
            self.forget_attempts()
        self.assertFalse(self.enabled(user_id))
        self.assertEqual(self.enter(login, key), user_id)
        self.now += 30
        for other in seen:
            self.assertNotEqual(self.enter(login, other), user_id)
        # Three wrong codes cause a delay
        self.now += 30
        self.assertEqual(self.enter(login, key), user_id)

    def test_wrong(self):
        "Test that a wrong code shows no key and can be corrected"
        self.lift_core_limit()
        login, user_id = self.user()
        key = self.key(login)
        for code in [
                right_code(key, self.now, 99), '000000x', 'x', 5, ['x'], True,
                {}]:
            with self.subTest(code=code):
                self.assertRefused(self.request(login, totp_code=code))
        self.assertEqual(self.request(login, totp_code=key), IS_KEY % 6)
        self.assertFalse(self.enabled(user_id))
        self.assertEqual(self.enter(login, key), user_id)

    def test_wrong_without_key(self):
        "Test that a code sent before any key was shown shows none either"
        login, user_id = self.user()
        self.assertRefused(self.request(login, totp_code='000000'))
        self.assertFalse(self.enabled(user_id))

    def test_expired(self):
        "Test that an expired key does not set up TOTP"
        login, user_id = self.user()
        key = self.key(login)
        self.now += 601
        self.assertRefused(self.enter(login, key))
        self.assertFalse(self.enabled(user_id))
        self.assertNotEqual(self.key(login), key)

    def test_blank(self):
        "Test that a blank code starts again or moves on"
        login, user_id = self.user()
        keys = {self.key(login)}
        for blank in ['', ' ', '\u200b', None]:
            with self.subTest(blank=blank):
                keys.update(KEY_SHOWN.findall(
                        self.request(login, totp_code=blank)))
        self.assertEqual(len(keys), 5)
        self.set_config(
            'session', 'authentications', self.authentications
            + ',password+sms')
        _, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[''])
        self.assertEqual(questions[-1][0], 'sms_code')
        self.assertFalse(self.enabled(user_id))

    def test_counted(self):
        "Test that wrong codes count as attempts"
        login, _ = self.user()
        self.key(login)
        for count, code in enumerate(['000000', 'x'], 1):
            self.request(login, totp_code=code)
            self.assertEqual(self.attempts(login), count)

    def test_chain(self):
        "Test that the key takes effect once all methods have passed"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp+sms')
        login, user_id = self.user()
        parameters = {
            'password': PASSWORD,
            'totp_code': right_code(self.key(login), self.now)}
        for sms_code in [None, 'x']:
            if sms_code:
                parameters['sms_code'] = sms_code
            with self.assertRaises(Refused) as context:
                RPC().login(login, **parameters)
            self.assertEqual(context.exception.args[1][0], 'sms_code')
            self.assertFalse(self.enabled(user_id))
        parameters['sms_code'] = self.sms_code(user_id)
        self.assertEqual(RPC().login(login, **parameters), user_id)
        self.assertTrue(self.enabled(user_id))

    def test_or_skip(self):
        "Test that users who must use TOTP set it up there, and others later"
        self.set_config(
            'session', 'authentications',
            'password+totp?no_totp_secret:setup_totp')
        login, user_id = self.user()
        self.assertEqual(self.request(login), user_id)
        self.assertFalse(self.enabled(user_id))
        self.require(user_id)
        self.assertEqual(self.enter(login, self.key(login)), user_id)
        self.assertTrue(self.enabled(user_id))

    def test_forged(self):
        "Test that no client is shown a key without the password"
        self.lift_core_limit()
        login, user_id = self.user()
        required, required_id = self.user()
        self.require(required_id)
        for authentications in [
                'totp?setup_totp', 'totp?setup_totp+password',
                'totp+password?setup_totp', 'password+totp?setup_totp',
                'totp,password+totp?setup_totp']:
            self.set_config('session', 'authentications', authentications)
            for name in [
                    'setup_totp', 'no_totp_secret', 'totp_setup', 'totp',
                    'user_id', 'options', 'totp_secret', 'totp_required',
                    'device_cookie', '<object object>', '']:
                for value in [True, 1, 'x', user_id, [login], {'a': 1}, None]:
                    for parameters in [
                            {name: value},
                            {name: value, 'totp_code': '000000'},
                            {name: value, 'totp_code': ''},
                            {name: value, 'password': 'x'},
                            {name: value, 'password': 'x',
                                'totp_code': '000000'}]:
                        response = RPC().post(
                            'common.db.login',
                            required if value == 'x' else login, parameters,
                            'en')
                        self.assertNotRegex(
                            response.data.decode(), '[A-Z2-7]{4} [A-Z2-7]{4}')
            self.forget_attempts()
        for id_ in [user_id, required_id]:
            self.assertFalse(self.enabled(id_))

    def test_not_logged(self):
        "Test that neither the log nor the text of the exception shows the key"
        login, _ = self.user()
        with self.assertLogs(level='INFO') as logs:
            shown = [self.key(login)]
            self.request(login, totp_code='000000')
            with self.assertRaises(LoginException) as context:
                security.login(
                    DB_NAME, login, {'password': PASSWORD}, cache=False)
            error = context.exception
            shown += KEY_SHOWN.findall(error.message)
            logging.getLogger().info('.')
        self.assertEqual(len(shown), 2)
        for text in [
                *logs.output, str(error), repr(error), f'{error}',
                '%r' % [error],
                ''.join(traceback.format_exception(error))]:
            self.assertNotRegex(text, KEY_PART)
