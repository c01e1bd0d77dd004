# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.modules.authentication_totp import clock
from trytond.pool import Pool

from .test_devices import DAY, DevicesTestCase
from .tools import KEY, Refused, TOTPTestCase, right_code


class DefaultsTestCase(DevicesTestCase):
    "Test that a client's context cannot set values by defaults"

    def test_device(self):
        "Test that a default cannot make a remembered device"
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        for generation in range(5):
            cookie = rpc.call(
                'model.res.user.device.renew', None, {
                    'default_totp_accepted': self.later(),
                    'default_totp_generation': generation,
                    'default_totp_last_used': self.later(),
                    'default_totp_address': '192.0.2.1'})
            self.assertFalse(self.skips(login, cookie))
        self.assertEqual(self.devices(user_id), [])

    def later(self):
        return clock.second(self.now - DAY)

    def test_secret(self):
        "Test that a default cannot become the secret of a new user"
        admin, _ = self.user(administrator=True)
        rpc = self.client(admin)
        user_id, = rpc.call('model.res.user.create', [{
                    'name': 'planted', 'login': 'planted'}], {
                'default_totp_secret': '{"planted": 1}',
                'default_totp_pending_secret': '{"planted": 1}',
                'default_totp_generation': 7})
        self.assertIsNone(self.stored_secret(user_id))
        with self.transaction():
            table = Pool().get('res.user').__table__()
        self.assertEqual(
            self.sql(table.select(
                    table.totp_generation, table.totp_pending_secret,
                    where=table.id == user_id)),
            [(None, None)])


class PagesTestCase(TOTPTestCase):
    "Test which data a wizard accepts besides the fields of its pages"
    authentications = 'password'

    def test_refused(self):
        "Test that other data are refused, and change no class"
        login, _ = self.user(KEY)
        rpc = self.client(login)
        with self.transaction():
            Wizard = Pool().get('res.user.setup_totp', type='wizard')
        before = dict(vars(Wizard))
        session_id, start, _ = rpc.wizard('create')
        for data in [
                {'__class__': {'_recovery_codes': ['fake']}},
                {'overview': {'__class__': {}}},
                {'overview': {'_secret': 'x'}},
                {'model': {'x': 1}}, {'nothing': {}}, {'confirm': {}},
                {'overview': []}, [1], 'x', None, 5]:
            with self.subTest(data=data):
                with self.assertRaises(Refused) as context:
                    rpc.wizard('execute', session_id, data, start)
                # The JSON decoder itself refuses such objects
                self.assertIn(context.exception.args[0], {'UserError', 400})
        self.assertEqual(dict(vars(Wizard)), before)
        rpc.wizard('execute', session_id, {'overview': {'id': -1}}, start)

    def test_guesses(self):
        "Test that a new key expires after ten codes, right or wrong"
        for wrong in [9, 10]:
            with self.subTest(wrong=wrong):
                login, user_id = self.user()
                rpc = self.client(login)
                session_id, shown = rpc.start_setup()
                for _ in range(wrong):
                    with self.assertRaises(Refused):
                        rpc.confirm_setup(
                            session_id, shown,
                            code=right_code(shown['secret'], self.now, 99))
                try:
                    rpc.confirm_setup(
                        session_id, shown,
                        code=right_code(shown['secret'], self.now))
                except Refused as refused:
                    self.assertIn("no longer valid", refused.args[1][0])
                self.assertEqual(
                    bool(self.stored_secret(user_id)), wrong == 9)

    def test_numbers(self):
        "Test that odd numbers of authenticators are refused"
        login, _ = self.user(KEY)
        rpc = self.client(login)
        for number in [10 ** 30, -1, 1.5, True, [], {}, 'x', None]:
            with self.subTest(number=number):
                with self.assertRaises(Refused) as context:
                    rpc.overview(
                        'rename', code=self.code(), authenticator=number,
                        name='x')
                self.assertEqual(context.exception.args[0], 'UserError')
                self.now += 60

    def test_preferences(self):
        "Test that the status in the preferences cannot be set"
        login, _ = self.user(KEY)
        rpc = self.client(login)
        for name in ['totp_enabled', 'totp_since', 'totp_recovery_codes']:
            with self.assertRaises(Refused) as context:
                rpc.model('res.user', 'set_preferences', {name: 5})
            self.assertEqual(context.exception.args[0], 'UserError')
