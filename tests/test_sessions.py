# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from .tools import PASSWORD, RPC, Refused, TOTPTestCase, right_code


class SessionsTestCase(TOTPTestCase):
    "Test that a setup ends the sessions and forgets the devices (law 8)"
    authentications = 'password+totp?device_cookie'

    def setUp(self):
        super().setUp()
        self.login, self.user_id = self.user()
        # An attacker who knew the password while it was enough
        self.attacker = self.client(self.login)
        self.cookie = self.attacker.model(
            'res.user.device', 'renew', None)
        self.neighbour, self.neighbour_id = self.user()
        self.neighbour_rpc = self.client(self.neighbour)
        self.neighbour_cookie = self.neighbour_rpc.model(
            'res.user.device', 'renew', None)

    def assertEnded(self, rpc, user_id):
        for method, *params in [
                ('model.res.user.device.renew', None),
                ('model.res.user.device.renew', self.cookie),
                ('model.res.user.read', [user_id], ['login']),
                ('model.res.user.get_preferences', True),
                ('wizard.res.user.setup_totp.create',)]:
            with self.subTest(method=method):
                with self.assertRaises(Refused) as context:
                    rpc.call(method, *params, {})
                self.assertEqual(context.exception.args, (401,))

    def assertUnknownDevice(self, login, cookie):
        self.assertEqual(
            [name for name, _ in self.dialogue(
                    login, device_cookie=cookie, password=[PASSWORD])[1]],
            ['password', 'totp_code'])

    def assertNeighbour(self):
        "Check that another user has noticed nothing"
        self.assertEqual(
            self.neighbour_rpc.model(
                'res.user', 'read', [self.neighbour_id], ['login'])[0][
                'login'],
            self.neighbour)
        self.assertEqual(
            self.dialogue(
                self.neighbour, device_cookie=self.neighbour_cookie,
                password=[PASSWORD])[0],
            self.neighbour_id)

    def test_wizard(self):
        "Test that the first setup ends the other sessions of the user"
        rpc = self.client(self.login)
        session_id, start, _ = self.attacker.wizard('create')
        key, recovery_codes = rpc.set_up(self.now)
        self.assertEqual(len(set(recovery_codes)), 10)
        self.assertEnded(self.attacker, self.user_id)
        with self.assertRaises(Refused) as context:
            self.attacker.wizard('execute', session_id, {}, start)
        self.assertEqual(context.exception.args, (401,))
        self.assertUnknownDevice(self.login, self.cookie)
        self.assertNeighbour()
        # The key and the codes that the wizard has shown work
        self.now += 30
        for code in [recovery_codes[0], right_code(key, self.now)]:
            self.assertEqual(
                RPC().login(
                    self.login, password=PASSWORD, totp_code=code),
                self.user_id)

    def test_wizard_refused(self):
        "Test that a wrong code ends nothing"
        rpc = self.client(self.login)
        session_id, shown = rpc.start_setup()
        with self.assertRaises(Refused):
            rpc.confirm_setup(session_id, shown, code='000000x')
        self.assertEqual(
            self.dialogue(
                self.login, device_cookie=self.cookie,
                password=[PASSWORD])[0],
            self.user_id)
        self.assertTrue(
            self.attacker.model('res.user.device', 'renew', self.cookie))

    def test_dialog(self):
        "Test that a setup in the login dialog ends the other sessions"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        with self.assertRaises(Refused) as context:
            RPC().login(self.login, password=PASSWORD)
        message = context.exception.args[1][1]
        key = message.rpartition(': ')[2].partition('. ')[0]
        rpc = RPC()
        rpc.login(
            self.login, password=PASSWORD,
            totp_code=right_code(key, self.now))
        self.assertEnded(self.attacker, self.user_id)
        self.set_config('session', 'authentications', self.authentications)
        self.assertUnknownDevice(self.login, self.cookie)
        self.assertNeighbour()
        # The session of this login continues
        cookie = rpc.model('res.user.device', 'renew', None)
        self.assertEqual(
            self.dialogue(
                self.login, device_cookie=cookie, password=[PASSWORD])[0],
            self.user_id)
