# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from trytond import security
from trytond.exceptions import LoginException, RateLimitException
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    KEY, PASSWORD, UNREADABLE, USED, WITHOUT, WRONG, TOTPTestCase,
    right_code)

ASK = (
    "Enter the code from your authenticator for %s, or a recovery code.")


class LoginTestCase(TOTPTestCase):
    "Test the dialogue of a client, through security.login"

    def assertLogin(self, dialogue, user_id, *names):
        got_id, questions = dialogue
        self.assertEqual([name for name, _ in questions], list(names))
        self.assertEqual(got_id, user_id)

    def test_password_totp(self):
        "Test password+totp"
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            (user_id, [
                    ('password', "Password for %s" % login),
                    ('totp_code', ASK % login),
                    ]))
        self.assertEqual(self.counters(user_id), [self.now // 30])

    def test_password_totp_wrong_password(self):
        "Test that a wrong password is refused before a code is asked for"
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, password=['x'], totp_code=[self.code()]),
            None, 'password')
        self.assertEqual(self.counters(user_id), [])

    def test_password_totp_without_secret(self):
        "Test that a user without TOTP cannot log in, whatever is typed"
        login, user_id = self.user()
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code(), '']),
            (None, [
                    ('password', "Password for %s" % login),
                    ('totp_code', WITHOUT),
                    ('totp_code', WITHOUT),
                    ('totp_code', WITHOUT),
                    ]))

    def test_password_totp_blank(self):
        "Test that a blank code asks again where there is no alternative"
        login, user_id = self.user(KEY)
        for blank in ['', ' ', '\u200b \ufeff', None]:
            with self.subTest(blank=blank):
                self.assertLogin(
                    self.dialogue(
                        login, password=[PASSWORD], totp_code=[blank]),
                    None, 'password', 'totp_code', 'totp_code')
        self.assertEqual(self.failures(user_id), 0)

    def test_wrong(self):
        "Test that a wrong code asks for the code again and is counted"
        self.forget_attempts()
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD],
                totp_code=[self.code(-2), self.code(2)]),
            (None, [
                    ('password', "Password for %s" % login),
                    ('totp_code', ASK % login),
                    ('totp_code', WRONG),
                    ('totp_code', WRONG),
                    ]))
        self.assertEqual(self.network_attempts(), 2)
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'password', 'totp_code')

    def test_wrong_limited(self):
        "Test that core's limit for a network applies to wrong codes"
        self.forget_attempts()
        login, user_id = self.user(KEY)
        limit = 2
        self.set_config('session', 'max_attempt_ip_network', str(limit))
        with self.assertRaises(RateLimitException):
            self.dialogue(
                login, password=[PASSWORD],
                totp_code=[self.code(2)] * limit * 2)
        self.assertEqual(self.network_attempts(), limit + 1)

    def test_used(self):
        "Test that a code is accepted once, and then refused as used"
        self.forget_attempts()
        login, user_id = self.user(KEY)
        for code in [self.code(), self.code()[:3] + ' ' + self.code()[3:]]:
            got_id, questions = self.dialogue(
                login, password=[PASSWORD], totp_code=[code])
        self.assertIsNone(got_id)
        self.assertEqual(questions[-1], ('totp_code', USED))
        self.assertEqual(self.network_attempts(), 0)
        self.assertEqual(self.counters(user_id), [self.now // 30])

    def test_earlier(self):
        "Test that a code for an earlier step than the last one is refused"
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code(1)]),
            user_id, 'password', 'totp_code')
        for steps in [-1, 0, 1]:
            with self.subTest(steps=steps):
                got_id, questions = self.dialogue(
                    login, password=[PASSWORD], totp_code=[self.code(steps)])
                self.assertIsNone(got_id)
                self.assertEqual(questions[-1], ('totp_code', USED))

    def test_clock_backwards(self):
        "Test that setting the clock back makes no used code valid again"
        login, user_id = self.user(KEY)
        codes = []
        for _ in range(3):
            codes.append(self.code())
            self.assertLogin(
                self.dialogue(
                    login, password=[PASSWORD], totp_code=codes[-1:]),
                user_id, 'password', 'totp_code')
            self.now += 30
        last = self.counters(user_id)
        for _ in range(4):
            self.now -= 30
            self.forget_attempts()
            for code in codes:
                got_id, _ = self.dialogue(
                    login, password=[PASSWORD], totp_code=[code])
                self.assertIsNone(got_id)
        self.assertEqual(self.counters(user_id), last)

    def test_one_row(self):
        "Test that a user has one row after many logins"
        login, user_id = self.user(KEY)
        for _ in range(20):
            self.assertLogin(
                self.dialogue(
                    login, password=[PASSWORD], totp_code=[self.code()]),
                user_id, 'password', 'totp_code')
            self.now += 30
        self.assertEqual(len(self.counters(user_id)), 1)

    def test_update(self):
        "Test that an update of the module keeps keys, used codes and decoys"
        login, user_id = self.user(KEY)
        answers = {'password': [PASSWORD], 'totp_code': [self.code()]}
        self.assertEqual(self.dialogue(login, **answers)[0], user_id)
        with self.transaction():
            tables = [
                Pool().get(name).__table__() for name in [
                    'res.user.totp_counter', 'res.user.totp_guess',
                    'res.user.totp_decoy_key']]
        _, guess, _ = tables
        queries = [table.select(order_by=table.id) for table in tables]
        before = [self.sql(query) for query in queries]
        Pool(DB_NAME).init(update=['authentication_totp'], lang=['en'])
        self.assertEqual([self.sql(query) for query in queries], before)
        decoys = self.sql(guess.select(
                guess.user, guess.kind, where=guess.user < 0))
        # A thousand for each of the three kinds
        self.assertEqual(len(set(decoys)), 3000)
        self.assertEqual(len(decoys), 3000)
        self.assertIsNone(self.dialogue(login, **answers)[0])
        self.now += 30
        answers['totp_code'] = [self.code()]
        self.assertEqual(self.dialogue(login, **answers)[0], user_id)

    def test_after_2038(self):
        "Test that times of more than 32 bits work (RFC 6238 4.2)"
        login, user_id = self.user(KEY)
        for now in [2 ** 31, 2 ** 32, 20_000_000_000]:
            with self.subTest(now=now):
                self.now = now
                for expected in [user_id, None]:
                    self.assertEqual(
                        self.dialogue(
                            login, password=[PASSWORD],
                            totp_code=[self.code()])[0],
                        expected)
                self.assertEqual(self.counters(user_id), [now // 30])

    def test_typed(self):
        "Test the forms in which a code may be typed"
        login, user_id = self.user(KEY)
        for form in [
                '{0}{1}', '{0} {1}', ' {0}{1}\n', '{0}-{1}', '{0}\xa0{1}',
                '{0}\u2013{1}', '\t{0} - {1}']:
            with self.subTest(form=form):
                code = self.code()
                self.assertLogin(
                    self.dialogue(
                        login, password=[PASSWORD],
                        totp_code=[form.format(code[:3], code[3:])]),
                    user_id, 'password', 'totp_code')
                self.now += 30

    def test_settings_changed(self):
        "Test that an enrolled user logs in after every setting has changed"
        login, user_id = self.user(KEY)
        for option, value in [
                ('algorithm', 'sha512'), ('digits', '8'), ('period', '60'),
                ('key_length', '512')]:
            self.set_totp(option, value)
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'password', 'totp_code')

    def test_unreadable_secret(self):
        "Test that a damaged secret fails closed and is logged"
        login, user_id = self.user(KEY)
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            cursor = transaction.connection.cursor()
            cursor.execute(*table.update(
                    [table.totp_secret], ['damaged'],
                    where=table.id == user_id))
        with self.assertLogs('trytond.modules.authentication_totp') as logs:
            got_id, questions = self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])
        self.assertIsNone(got_id)
        self.assertEqual(questions[-1], ('totp_code', UNREADABLE))
        self.assertEqual(len(logs.output), 1)
        self.assertNotIn('damaged', logs.output[0])

    def test_inactive(self):
        "Test that an inactive user cannot log in"
        self.set_config('session', 'authentications', 'totp')
        login, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'active': False})
        self.assertLogin(
            self.dialogue(login, totp_code=[self.code()]),
            None, 'totp_code', 'totp_code')

    def test_unknown(self):
        "Test that an unknown login gets the same prompts as a known one"
        self.set_config('session', 'authentications', 'totp')
        known, _ = self.user(KEY)
        without, _ = self.user()
        texts = {
            str(self.dialogue(login, totp_code=['000000'])).replace(
                login, 'LOGIN')
            for login in [known, without, 'nobody']}
        self.assertEqual(len(texts), 1)

    def test_totp_password(self):
        "Test totp+password, where the same code arrives twice"
        self.set_config('session', 'authentications', 'totp+password')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'totp_code', 'password')
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            None, 'totp_code', 'totp_code')

    def test_totp_password_wrong_password(self):
        "Test that a login that fails does not use up a code"
        self.set_config('session', 'authentications', 'totp+password')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, password=['x'], totp_code=[self.code()]),
            None, 'totp_code', 'password')
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'totp_code', 'password')

    def test_password_totp_sms(self):
        "Test password+totp+sms, where the same code arrives twice"
        self.set_config('session', 'authentications', 'password+totp+sms')
        login, user_id = self.user(KEY)
        sms_code = self.sms_code(user_id)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()],
                sms_code=[sms_code]),
            user_id, 'password', 'totp_code', 'sms_code')
        sms_code = self.sms_code(user_id)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()],
                sms_code=[sms_code]),
            None, 'password', 'totp_code', 'totp_code')

    def test_password_totp_sms_wrong(self):
        "Test that a wrong code by SMS does not use up the TOTP code"
        self.set_config('session', 'authentications', 'password+totp+sms')
        login, user_id = self.user(KEY)
        sms_code = self.sms_code(user_id)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()],
                sms_code=['x', sms_code]),
            user_id, 'password', 'totp_code', 'sms_code', 'sms_code')

    def test_totp_or_password(self):
        "Test totp,password, where a blank code moves on"
        self.set_config('session', 'authentications', 'totp,password')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, totp_code=[self.code()]),
            user_id, 'totp_code')
        self.assertLogin(
            self.dialogue(login, totp_code=[self.code()]),
            None, 'totp_code', 'totp_code')
        self.assertLogin(
            self.dialogue(login, totp_code=[''], password=[PASSWORD]),
            user_id, 'totp_code', 'password')
        self.assertLogin(
            self.dialogue(login, totp_code=[''], password=['x']),
            None, 'totp_code', 'password')

    def test_password_totp_or_password(self):
        "Test password+totp,password, where a blank code moves on"
        self.set_config('session', 'authentications', 'password+totp,password')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'password', 'totp_code')
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            None, 'password', 'totp_code', 'totp_code')
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=['']),
            user_id, 'password', 'totp_code')
        self.assertLogin(
            self.dialogue(login, password=['x'], totp_code=['']),
            None, 'password')

    def test_password_totp_or_password_sms(self):
        "Test password+totp,password+sms, where a blank code moves on"
        self.set_config(
            'session', 'authentications', 'password+totp,password+sms')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()]),
            user_id, 'password', 'totp_code')
        sms_code = self.sms_code(user_id)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[''],
                sms_code=[sms_code]),
            user_id, 'password', 'totp_code', 'sms_code')
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[''], sms_code=['']),
            None, 'password', 'totp_code', 'sms_code')

    def test_first_alternative_fails_later(self):
        "Test that whichever alternative succeeds uses up the code"
        self.set_config(
            'session', 'authentications', 'password+totp+sms,password+totp')
        login, user_id = self.user(KEY)
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()],
                sms_code=['']),
            user_id, 'password', 'totp_code', 'sms_code')
        self.assertLogin(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()],
                sms_code=['']),
            None, 'password', 'totp_code', 'totp_code')

    def test_device_cookie(self):
        "Test password+totp?device_cookie"
        self.set_config(
            'session', 'authentications', 'password+totp?device_cookie')
        login, user_id = self.user(KEY)
        other, other_id = self.user(KEY)
        with self.transaction(user_id):
            cookie = Pool().get('res.user.device').renew(None)
        self.assertLogin(
            self.dialogue(login, device_cookie=cookie, password=[PASSWORD]),
            user_id, 'password')
        for user, device_cookie in [
                (login, None), (login, 'x'), (other, cookie)]:
            with self.subTest(user=user, device_cookie=device_cookie):
                self.assertLogin(
                    self.dialogue(
                        user, device_cookie=device_cookie,
                        password=[PASSWORD]),
                    None, 'password', 'totp_code')

    def test_ip_address(self):
        "Test password+totp?device_cookie:ip_address"
        self.set_config(
            'session', 'authentications',
            'password+totp?device_cookie:ip_address')
        self.set_config(
            'session', 'authentication_ip_network', '192.0.2.0/24')
        login, user_id = self.user(KEY)
        for address, known in [('192.0.2.7', True), ('198.51.100.7', False)]:
            with self.subTest(address=address):
                context = {'_request': {'remote_addr': address}}
                parameters = {'password': PASSWORD}
                if known:
                    self.assertEqual(
                        security.login(
                            DB_NAME, login, parameters, cache=False,
                            context=context), user_id)
                else:
                    with self.assertRaises(LoginException) as question:
                        security.login(
                            DB_NAME, login, parameters, cache=False,
                            context=context)
                    self.assertEqual(question.exception.name, 'totp_code')

    def test_password_reset(self):
        "Test that a user who has reset the password is asked for the code"
        login, user_id = self.user(KEY)
        with self.transaction(), patch('trytond.res.user._send_email'):
            User = Pool().get('res.user')
            user = User(user_id)
            User.reset_password([user])
            password = user.password_reset
        for code, expected in [(self.code(95), None), (self.code(), user_id)]:
            self.assertLogin(
                self.dialogue(login, password=[password], totp_code=[code]),
                expected, 'password', 'totp_code',
                *(() if expected else ['totp_code']))

    def test_ldap_totp(self):
        "Test ldap+totp, where the database has no password of the user"
        self.set_config('session', 'authentications', 'ldap+totp')
        login, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'password': None})

        def login_ldap(login, parameters):
            if parameters.get('password') == 'of the directory':
                return user_id
        parameters = {'password': 'of the directory'}
        with patch.object(User, '_login_ldap', login_ldap, create=True):
            with self.assertRaises(LoginException):
                security.login(DB_NAME, login, parameters, cache=False)
            parameters['totp_code'] = self.code()
            self.assertIsNone(security.login(
                    DB_NAME, login, {**parameters, 'password': 'x'},
                    cache=False))
            self.assertEqual(
                security.login(DB_NAME, login, parameters, cache=False),
                user_id)

    def test_called_alone(self):
        "Test that the method accepts a code once when it is called alone"
        login, user_id = self.user(KEY)
        parameters = {'totp_code': self.code()}
        with self.transaction():
            User = Pool().get('res.user')
            self.assertEqual(User._login_totp(login, parameters), user_id)
        self.assertEqual(self.counters(user_id), [self.now // 30])

    def test_statements(self):
        "Test how many more statements a login with a code needs"
        login, user_id = self.user(KEY)
        parameters = {'password': PASSWORD, 'totp_code': self.code()}
        counts = []
        for authentications in ['password', 'password+totp']:
            self.set_config('session', 'authentications', authentications)
            with self.count_statements() as statements:
                self.assertEqual(
                    security.login(DB_NAME, login, parameters, cache=False),
                    user_id)
            counts.append(len(statements))
        password, password_totp = counts
        self.assertGreater(password, 0)
        # A read and a write
        self.assertLessEqual(password_totp - password, 2)
        # With four more authenticators, and a code of the last one
        for _ in range(4):
            self.now += 30
            key = self.add_authenticator(user_id)
        self.now += 30
        parameters['totp_code'] = right_code(key, self.now)
        with self.count_statements() as statements:
            self.assertEqual(
                security.login(DB_NAME, login, parameters, cache=False),
                user_id)
        self.assertEqual(len(statements), password_totp)
