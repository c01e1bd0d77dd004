# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from trytond import security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import clock
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    ADDRESS, KEY, PASSWORD, RPC, Refused, TOTPTestCase, right_code)

LOGGER = 'trytond.modules.authentication_totp'
DAY = 24 * 60 * 60
DEVICE = 'res.user.device'


class DevicesTestCase(TOTPTestCase):
    "Users whose devices are remembered"
    authentications = 'password+totp?totp_device'

    def log_in(self, login, cookie=None, password=PASSWORD, **answers):
        "Log in and return the client, or None if a code is asked for"
        rpc = RPC()
        if cookie:
            answers['device_cookie'] = cookie
        try:
            rpc.login(login, password=password, **answers)
        except Refused as refused:
            error, (name, *_) = refused.args
            self.assertEqual((error, name), ('LoginException', 'totp_code'))
            return None
        return rpc

    def renew(self, rpc, cookie=None):
        return rpc.model(DEVICE, 'renew', cookie)

    def log_in_with_code(self, login, cookie=None):
        self.now += 30
        rpc = self.log_in(login, cookie, totp_code=self.code())
        self.assertTrue(rpc)
        return rpc

    def remember(self, login, cookie=None):
        "Log in with a code and return the new cookie of the device"
        return self.renew(self.log_in_with_code(login, cookie), cookie)

    def skips(self, login, cookie, **kwargs):
        "Return whether the device skips the code"
        return bool(self.log_in(login, cookie, **kwargs))

    def devices(self, user_id, by=0):
        with self.transaction(by):
            return Pool().get('res.user')(user_id).totp_devices()

    def rows(self, login):
        "Return the ids and the module's fields of the rows of the login"
        with self.transaction():
            table = Pool().get(DEVICE).__table__()
        return self.sql(table.select(
                table.id, table.totp_accepted, table.totp_generation,
                table.totp_last_used, table.totp_address,
                where=table.login == login, order_by=table.id))

    def update(self, model, values, where):
        with self.transaction() as transaction:
            table = Pool().get(model).__table__()
            transaction.connection.cursor().execute(*table.update(
                    [getattr(table, name) for name in values],
                    list(values.values()), where=where(table)))


class RememberTestCase(DevicesTestCase):
    "Test which devices skip the code and for how long"

    def test_remembered(self):
        "Test that a device skips the code after a login with one"
        login, user_id = self.user(KEY)
        other, _ = self.user(KEY)
        cookie = self.remember(login)
        others = self.remember(other)
        self.assertTrue(self.skips(login, cookie))
        for who, value in [
                (login, None), (login, 'x'), (login, others),
                (other, cookie), (login, cookie.upper())]:
            with self.subTest(who=who, value=value):
                self.assertFalse(self.skips(who, value))
        got_id, questions = self.dialogue(login, cookie, password=[PASSWORD])
        self.assertEqual(got_id, user_id)
        self.assertEqual([name for name, _ in questions], ['password'])

    def test_expires(self):
        "Test that a device is asked for a code again after device_days"
        login, _ = self.user(KEY)
        for days in [30, 1, 365]:
            with self.subTest(days=days):
                self.set_totp('device_days', str(days))
                cookie = self.remember(login)
                self.now += days * DAY - 1
                self.assertTrue(self.skips(login, cookie))
                self.now += 1
                self.assertFalse(self.skips(login, cookie))
                # A new code on the device starts the period again
                cookie = self.remember(login, cookie)
                self.now += days * DAY - 1
                self.assertTrue(self.skips(login, cookie))
                self.now += 1

    def test_clock_set_back(self):
        "Test that a wrong clock does not prolong a remembered device"
        login, _ = self.user(KEY)
        cookie = self.remember(login)
        self.now -= DAY
        self.assertFalse(self.skips(login, cookie))
        self.now += DAY
        self.assertTrue(self.skips(login, cookie))

    def test_not_prolonged(self):
        "Test that a login without a code does not prolong a remembered device"
        login, _ = self.user(KEY)
        cookie = self.remember(login)
        start = self.now
        for day in [10, 20, 29]:
            self.now = start + day * DAY
            rpc = self.log_in(login, cookie)
            cookie = self.renew(rpc, cookie)
            # Such a login does not let another device skip the code either
            self.assertFalse(self.skips(login, self.renew(rpc)))
        self.now = start + 30 * DAY
        self.assertFalse(self.skips(login, cookie))

    def test_rotates(self):
        "Test that only the latest cookie of a device skips the code"
        login, user_id = self.user(KEY)
        cookies = [self.remember(login)]
        for _ in range(3):
            rpc = self.log_in(login, cookies[-1])
            cookies.append(self.renew(rpc, cookies[-1]))
        self.assertEqual(len(set(cookies)), 4)
        self.assertEqual(
            [self.skips(login, c) for c in cookies], [False] * 3 + [True])
        self.assertEqual(len(self.devices(user_id)), 1)

    def test_copied_before(self):
        "Test that a copy of the cookie is worthless after the next login"
        login, _ = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            user, = User.search([('login', '=', login)])
        with self.transaction(user.id):
            copied = Pool().get(DEVICE).renew(None)
        rpc = self.log_in_with_code(login, copied)
        self.assertFalse(self.skips(login, copied))
        cookie = self.renew(rpc, copied)
        self.assertFalse(self.skips(login, copied))
        self.assertTrue(self.skips(login, cookie))

    def test_without_password(self):
        "Test that the cookie is worthless without the password"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        for answers in [{}, {'totp_code': self.code(1)}]:
            self.assertEqual(
                self.dialogue(
                    login, cookie, password=['x'],
                    **{k: [v] for k, v in answers.items()})[0], None)
            with self.assertRaises(Refused) as context:
                RPC().login(
                    login, password='x', device_cookie=cookie, **answers)
            self.assertEqual(context.exception.args, (401,))
        with self.assertRaises(LoginException) as context:
            security.login(
                DB_NAME, login, {'device_cookie': cookie}, cache=False)
        self.assertEqual(context.exception.name, 'password')
        self.assertEqual(self.counters(user_id), [self.now // 30])

    def test_without_totp(self):
        "Test that the cookie has no effect for users without TOTP"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        (_, *marks), = self.rows(login)
        without, without_id = self.user()
        with self.transaction(without_id):
            others = Pool().get(DEVICE).renew(None)
        self.update(DEVICE, {
                'totp_accepted': marks[0], 'totp_generation': 0,
                }, lambda table: table.login == without)
        self.assertFalse(self.skips(without, others))
        self.put_secret(user_id, None)
        self.assertFalse(self.skips(login, cookie))
        self.assertEqual(self.devices(user_id), [])
        self.assertEqual(self.devices(without_id), [])

    def test_skipping_users(self):
        "Test that devices of users who set up TOTP later are remembered too"
        self.set_config(
            'session', 'authentications',
            'password+totp?no_totp_secret:totp_device')
        login, user_id = self.user()
        rpc = self.log_in(login)
        cookie = self.renew(rpc)
        key, _ = rpc.set_up(self.now)
        self.assertFalse(self.skips(login, cookie))
        self.now += 30
        rpc = self.log_in(login, totp_code=right_code(key, self.now))
        self.assertTrue(self.skips(login, self.renew(rpc)))

    def test_set_up_in_dialog(self):
        "Test that the code of a setup in the dialog counts"
        self.set_config(
            'session', 'authentications',
            'password+totp?setup_totp:totp_device')
        login, user_id = self.user()
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD)
        message = context.exception.args[1][1]
        key = message.rpartition(': ')[2].partition('. ')[0]
        rpc = self.log_in(login, totp_code=right_code(key, self.now))
        self.assertTrue(self.skips(login, self.renew(rpc)))

    def test_recovery_code(self):
        "Test that a recovery code neither marks a device nor prolongs it"
        login, user_id = self.user(KEY)
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(user_id)
        rpc = self.log_in(login, totp_code=codes.pop())
        self.assertFalse(self.skips(login, self.renew(rpc)))
        cookie = self.remember(login)
        self.now += 30 * DAY - 60
        rpc = self.log_in(login, cookie, totp_code=codes.pop())
        cookie = self.renew(rpc, cookie)
        self.now += 60
        rpc = self.log_in(login, cookie, totp_code=codes.pop())
        self.assertTrue(rpc)
        self.assertFalse(self.skips(login, self.renew(rpc, cookie)))

    def test_code_in_wizard(self):
        "Test that a code in the wizard marks no device"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        rpc = self.log_in(login, cookie)
        self.now += 30
        with self.transaction(user_id):
            Pool().get('res.user')(user_id).verify_totp_code(self.code())
        self.assertFalse(self.skips(login, self.renew(rpc)))

    def test_two_factors_after(self):
        "Test that a code counts only once the whole chain has passed"
        self.set_config(
            'session', 'authentications', 'password+totp?totp_device+sms')
        login, user_id = self.user(KEY)
        rpc = RPC()
        code = self.code()
        with self.assertRaises(Refused):
            rpc.login(login, password=PASSWORD, totp_code=code)
        rpc.login(
            login, password=PASSWORD, totp_code=code,
            sms_code=self.sms_code(user_id))
        cookie = self.renew(rpc)
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD, device_cookie=cookie)
        self.assertEqual(context.exception.args[1][0], 'sms_code')

    def test_other_alternative(self):
        "Test that a login by another chain marks no device"
        self.set_config(
            'session', 'authentications',
            'password+totp?totp_device,password+sms')
        login, user_id = self.user(KEY)
        rpc = self.log_in(
            login, totp_code='', sms_code=self.sms_code(user_id))
        self.assertFalse(self.skips(login, self.renew(rpc)))

    def test_capitals(self):
        "Test a directory that accepts the login in another case"
        self.set_config(
            'session', 'authentications', 'ldap+totp?totp_device')
        login, user_id = self.user(KEY)
        other, other_id = self.user(KEY)

        def login_ldap(login, parameters):
            return user_id
        with self.transaction():
            User = Pool().get('res.user')
        with patch.object(User, '_login_ldap', login_ldap, create=True):
            cookie = self.remember(login.upper())
            self.assertTrue(self.skips(login, cookie))
            # Core compares the login of a cookie as it was typed
            self.assertFalse(self.skips(login.upper(), cookie))
        with patch.object(
                User, '_login_ldap', lambda *args: other_id, create=True):
            self.assertFalse(self.skips(login, cookie))

    def test_device_cookie(self):
        "Test that core's own option never expires"
        self.set_config(
            'session', 'authentications',
            'password+totp?totp_device:device_cookie')
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.now += 365 * DAY
        self.assertTrue(self.skips(login, cookie))
        self.assertEqual(self.devices(user_id), [])

    def test_without_option(self):
        "Test that no device is marked unless the option is in use"
        self.set_config('session', 'authentications', 'password+totp')
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.assertEqual(
            [row[1:] for row in self.rows(login)], [(None,) * 4])
        self.set_config('session', 'authentications', self.authentications)
        self.assertFalse(self.skips(login, cookie))

    def test_option_known(self):
        "Test that the check at start knows the option"
        with self.transaction(), self.assertNoLogs(LOGGER, 'ERROR'):
            Pool().get('res.user').check_authentications()

    def test_wrong_codes(self):
        "Test that wrong codes from an expired device are counted separately"
        self.lift_core_limit()
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.assertTrue(self.skips(login, cookie))
        self.now += 30 * DAY
        self.dialogue(
            login, cookie, password=[PASSWORD],
            totp_code=[self.code(95)] * 3)
        self.assertEqual(self.failures(user_id, 'known_device'), 3)
        self.assertEqual(self.failures(user_id), 0)
        # Logins from elsewhere can still use a code
        self.assertTrue(self.remember(login))

    def test_clean(self):
        "Test that the scheduled task clears expired marks"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.now += 10 * DAY
        later = self.remember(login)
        (first, *_), (second, *marks) = self.rows(login)
        self.now += 20 * DAY - 92
        for first_marks in [False, True]:
            self.now += 31
            with self.transaction():
                Pool().get('res.user').clean_totp()
            (id_, *found), other = self.rows(login)
            self.assertEqual(id_, first)
            self.assertEqual(found == [None] * 4, first_marks)
            self.assertEqual(other, (second, *marks))
        self.assertTrue(self.skips(login, later))
        # Core still knows the cookie
        with self.transaction():
            self.assertEqual(
                Pool().get(DEVICE).get_valid_cookie(login, cookie), cookie)

    def test_statements(self):
        "Test that the option costs one SELECT statement"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.update(DEVICE, {'totp_last_used': None}, lambda t: t.id > 0)

        def count(authentications):
            self.set_config('session', 'authentications', authentications)
            # The first login fills the caches
            for _ in range(2):
                with self.count_statements() as statements:
                    self.assertEqual(
                        security.login(
                            DB_NAME, login, {
                                'password': PASSWORD,
                                'device_cookie': cookie},
                            cache=False), user_id)
            # PostgreSQL begins each transaction with an empty statement
            return [query for query, _ in statements if query]
        known = count('password+totp?device_cookie')
        device = count('password+totp?totp_device')
        self.assertEqual(len(device), len(known) + 2)
        self.assertTrue(device[-1].startswith('UPDATE'))
        self.assertTrue(all(
                q.startswith('SELECT') for q in device[:-1]
                if q not in known))

    def test_silent(self):
        "Test that the option costs nothing before a first factor has passed"
        login, _ = self.user(KEY)
        without, _ = self.user()
        cookie = self.remember(login)
        work = {}
        for authentications in ['password+totp', self.authentications]:
            self.set_config('session', 'authentications', authentications)
            for name in [login, without, 'nobody']:
                for _ in range(2):
                    self.forget_attempts()
                    with self.count_statements() as statements:
                        self.assertIsNone(security.login(
                                DB_NAME, name, {
                                    'password': 'x', 'device_cookie': cookie},
                                cache=False))
                work.setdefault(name, []).append(
                    [query for query, _ in statements])
        for name, (without_option, with_option) in work.items():
            with self.subTest(name=name):
                self.assertEqual(without_option, with_option)


class ListTestCase(DevicesTestCase):
    "Test the list of remembered devices"

    def test_devices(self):
        "Test when and from where the devices were used"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.renew(self.client(login))
        device, = self.devices(user_id)
        with self.transaction():
            Device = Pool().get(DEVICE)
            self.assertEqual(
                device.first_seen,
                Device(device.id).create_date.replace(microsecond=0))
        self.assertEqual(device.last_used, clock.second(self.now))
        self.assertEqual(device.address, ADDRESS)
        # A client that does not renew the cookie is recorded too
        self.now += 60
        self.assertEqual(
            security.login(
                DB_NAME, login,
                {'password': PASSWORD, 'device_cookie': cookie}, cache=False,
                context={'_request': {'remote_addr': '198.51.100.9'}}),
            user_id)
        device, = self.devices(user_id)
        self.assertEqual(device.last_used, clock.second(self.now))
        self.assertEqual(device.address, '198.51.100.9')
        self.now += 60
        self.remember(login)
        second, first = self.devices(user_id)
        self.assertEqual(first, device)
        self.assertEqual(second.last_used, clock.second(self.now))
        self.now += 30 * DAY
        self.assertEqual(self.devices(user_id), [])

    def test_visible(self):
        "Test that the owner and users who may write the user see the devices"
        login, user_id = self.user(KEY)
        _, other_id = self.user(KEY)
        _, manager_id = self.manager(user_id)
        _, other_manager_id = self.manager(other_id)
        _, admin_id = self.user(administrator=True)
        self.remember(login)
        for by, expected in [
                (0, 1), (user_id, 1), (manager_id, 1), (admin_id, 1),
                (other_id, 0), (other_manager_id, 0)]:
            with self.subTest(by=by):
                self.assertEqual(
                    len(self.devices(user_id, by=by)), expected)
