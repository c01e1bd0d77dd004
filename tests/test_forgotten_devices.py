# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.model.exceptions import AccessError
from trytond.pool import Pool

from .mail import MailTestCase
from .test_devices import DEVICE, DevicesTestCase
from .tools import KEY, PASSWORD, right_code

OTHER_PASSWORD = 'battery staple'


class ForgottenTestCase(DevicesTestCase):
    "Test what makes the server forget remembered devices"

    def setUp(self):
        super().setUp()
        admin, self.admin_id = self.user(administrator=True)
        self.admin = self.client(admin)
        self.neighbour, _ = self.user(KEY)
        self.neighbour_cookie = self.remember(self.neighbour)
        self.login, self.user_id = self.user(KEY)
        self.cookie = self.remember(self.login)
        self.second = self.remember(self.login)
        self.rpc = self.log_in(self.login, self.cookie)
        self.assertEqual(len(self.devices(self.user_id)), 2)

    def assertForgotten(self, login=None, password=PASSWORD):
        login = login or self.login
        self.assertEqual(self.devices(self.user_id), [])
        for cookie in [self.cookie, self.second]:
            self.assertFalse(self.skips(login, cookie, password=password))
        self.assertEqual(self.rows(login), [])
        self.assertTrue(self.skips(self.neighbour, self.neighbour_cookie))

    def write(self, **values):
        self.admin.model('res.user', 'write', [self.user_id], values)

    def test_password_by_administrator(self):
        "Test that devices are forgotten if an administrator sets a password"
        self.write(password=OTHER_PASSWORD)
        self.assertForgotten(password=OTHER_PASSWORD)

    def test_password_in_preferences(self):
        "Test that devices are forgotten if the user changes the password"
        self.rpc.model(
            'res.user', 'set_preferences', {'password': OTHER_PASSWORD})
        self.assertForgotten(password=OTHER_PASSWORD)

    def test_deactivated(self):
        "Test that a user who is reactivated has no remembered devices"
        self.write(active=False)
        self.write(active=True)
        self.assertForgotten()

    def test_renamed(self):
        "Test that neither a renamed user nor the login's next owner has them"
        self.write(login=f'{self.login}-renamed')
        self.assertForgotten(f'{self.login}-renamed')
        with self.transaction():
            user, = Pool().get('res.user').create([{
                        'name': self.login, 'login': self.login,
                        'password': PASSWORD}])
            user.set_totp_key(KEY)
        self.assertForgotten()

    def test_set_up(self):
        "Test that a new key makes the server forget devices"
        with self.transaction():
            Pool().get('res.user')(self.user_id).set_totp_key(KEY)
        self.assertForgotten()

    def test_added(self):
        "Test that another authenticator makes the server forget devices"
        self.now += 30
        self.add_authenticator(self.user_id)
        self.assertForgotten()

    def test_replaced(self):
        "Test that replacing authenticators makes the server forget devices"
        self.now += 30
        session_id, shown = self.rpc.start_setup(self.code())
        self.assertEqual(
            self.rpc.confirm_setup(
                session_id, shown,
                code=right_code(shown['secret'], self.now)),
            'done')
        self.assertForgotten()

    def test_authenticator_removed(self):
        "Test that removing one of two authenticators makes it forget devices"
        self.now += 30
        key = self.add_authenticator(self.user_id)
        self.cookie = self.remember(self.login)
        self.now += 30
        with self.transaction(self.user_id):
            Counter = Pool().get('res.user.totp_counter')
            number = max(c.number for c in Counter.search(
                    [('user', '=', self.user_id)]))
            Pool().get('res.user')(self.user_id).remove_totp_authenticator(
                number, right_code(key, self.now))
        self.assertForgotten()

    def test_removed(self):
        "Test that turning off TOTP makes the server forget devices"
        self.now += 30
        with self.transaction(self.user_id):
            Pool().get('res.user')(self.user_id).remove_totp(self.code())
        self.assertForgotten()
        with self.transaction():
            Pool().get('res.user')(self.user_id).set_totp_key(KEY)
        self.assertForgotten()

    def test_reset(self):
        "Test that a reset makes the server forget devices"
        with self.transaction(self.admin_id):
            User = Pool().get('res.user')
            User.reset_totp([User(self.user_id)])
        self.assertForgotten()
        with self.transaction():
            Pool().get('res.user')(self.user_id).set_totp_key(KEY)
        self.assertForgotten()

    def test_generation(self):
        "Test that marks of a simultaneous login with old secrets have no use"
        cookie = self.cookie
        (_, *marks), _ = self.rows(self.login)
        rpc = self.log_in_with_code(self.login)
        with self.transaction() as transaction:
            Session = Pool().get('ir.session')
            session, = Session.search([
                    ('create_uid', '=', self.user_id),
                    ('totp_accepted', '!=', None)])
            values = {
                'key': session.key,
                'ip_address': session.ip_address,
                'totp_accepted': session.totp_accepted,
                'totp_generation': session.totp_generation,
                }
            Pool().get('res.user')(self.user_id).set_totp_key(KEY)
            with transaction.set_user(self.user_id):
                Session.create([values])
                Pool().get(DEVICE).create([{
                            'login': self.login, 'cookie': cookie,
                            'totp_accepted': marks[0],
                            'totp_generation': marks[1],
                            }])
        self.assertFalse(self.skips(self.login, cookie))
        self.assertFalse(self.skips(self.login, self.renew(rpc)))
        self.assertEqual(self.devices(self.user_id), [])

    def test_resealed(self):
        "Test that new encryption, names and recovery codes forget no device"
        self.set_keys()
        self.now += 30
        with self.transaction(self.user_id):
            user = Pool().get('res.user')(self.user_id)
            user.rename_totp_authenticator(1, "Phone", self.code())
            self.now += 30
            user.renew_totp_recovery_codes(self.code())
        with self.transaction(self.admin_id):
            User = Pool().get('res.user')
            User.unlock_totp([User(self.user_id)])
            User.reseal_totp([User(self.user_id)])
        self.assertTrue(self.skips(self.login, self.cookie))

    def forget(self, by, ids=None, user_id=None):
        with self.transaction(by):
            Pool().get('res.user')(
                user_id or self.user_id).forget_totp_devices(ids)

    def test_by_owner(self):
        "Test that the owner forgets all devices, and is told"
        # A device that is known but not remembered is deleted too
        self.renew(self.rpc)
        self.forget(self.user_id)
        self.assertForgotten()
        self.assertEqual(self.events(self.user_id)[-1], 'devices_forgotten')
        # The session stays, as no authenticator has changed
        self.assertTrue(
            self.rpc.model('res.user', 'get_preferences', False)[
                'totp_enabled'])
        self.forget(self.user_id)
        self.assertEqual(
            self.events(self.user_id).count('devices_forgotten'), 1)

    def test_by_administrator(self):
        "Test that only users who may write the user forget the devices"
        stranger, stranger_id = self.user(KEY)
        manager, manager_id = self.manager(stranger_id)
        for by in [stranger_id, manager_id]:
            with self.assertRaises(AccessError):
                self.forget(by)
        self.assertTrue(self.skips(self.login, self.cookie))
        manager, manager_id = self.manager(self.user_id)
        self.forget(manager_id)
        self.assertForgotten()
        self.forget(self.admin_id, user_id=stranger_id)

    def test_one(self):
        "Test that a single device is forgotten only if it is the user's"
        first, second = sorted(self.devices(self.user_id))
        (neighbours, *_), = self.rows(self.neighbour)
        for ids in [[], [neighbours], [0], [10**9]]:
            self.forget(self.user_id, ids)
        self.assertEqual(
            sorted(self.devices(self.user_id)), [first, second])
        self.assertNotIn('devices_forgotten', self.events(self.user_id))
        self.forget(self.user_id, [second.id, neighbours])
        self.assertEqual(self.devices(self.user_id), [first])
        self.assertEqual(
            [self.skips(self.login, c) for c in [self.cookie, self.second]],
            [True, False])
        self.assertTrue(self.skips(self.neighbour, self.neighbour_cookie))

    def test_session(self):
        "Test that a pending session no longer makes a remembered device"
        rpc = self.log_in_with_code(self.login)
        self.forget(self.user_id)
        self.assertFalse(self.skips(self.login, self.renew(rpc)))


class ToldTestCase(MailTestCase):
    "Test what the owner is told about forgotten devices"

    def test_email(self):
        "Test that the owner gets an e-mail, even if an administrator did it"
        login, user_id = self.user(KEY)
        _, admin_id = self.user(administrator=True)
        for by in [admin_id, user_id]:
            self.received()
            self.now += 3600
            with self.transaction(user_id):
                Pool().get(DEVICE).renew(None)
            with self.transaction(by):
                Pool().get('res.user')(user_id).forget_totp_devices()
            self.assertEqual(
                self.received(),
                [f"Remembered devices were forgotten for {login}"])
            message, = self.messages
            self.assertIn(
                "ask for a code at the next login",
                message.get_body(['html']).get_content())
