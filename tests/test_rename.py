# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .tools import KEY, PASSWORD, RPC, Refused, TOTPTestCase


class RenameTestCase(TOTPTestCase):
    "Test that the devices of a login do not pass to its next owner"
    authentications = 'password+totp?device_cookie'

    def device(self, login):
        "Return the cookie of a new device of the user"
        return self.client(login).model('res.user.device', 'renew', None)

    def rename(self, user_id, login):
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'login': login})

    def assertKnown(self, login, user_id, cookie):
        self.assertEqual(
            RPC().login(login, password=PASSWORD, device_cookie=cookie),
            user_id)

    def assertUnknown(self, login, cookie):
        "Check that a login with the cookie needs a code"
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD, device_cookie=cookie)
        error, (name, *_) = context.exception.args
        self.assertEqual((error, name), ('LoginException', 'totp_code'))

    def rows(self, login):
        with self.transaction():
            table = Pool().get('res.user.device').__table__()
        return len(self.sql(table.select(
                    table.id, where=table.login == login)))

    def test_forgotten(self):
        "Test that a renamed user's devices are forgotten"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        self.assertKnown(login, user_id, cookie)
        self.rename(user_id, f'{login} new')
        self.assertUnknown(f'{login} new', cookie)
        self.assertEqual(self.rows(login), 0)
        self.rename(user_id, login)
        self.assertUnknown(login, cookie)

    def test_next_owner(self):
        "Test that the next owner of the login does not inherit devices"
        login, user_id = self.user(KEY)
        cookies = [self.device(login) for _ in range(2)]
        self.rename(user_id, f'{login} old')
        next_login, next_id = self.user(KEY)
        self.rename(next_id, login)
        for cookie in cookies:
            self.assertUnknown(login, cookie)
            self.assertUnknown(f'{login} old', cookie)

    def test_created(self):
        "Test that a new user with the login does not inherit devices"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        self.rename(user_id, 'renamed')
        # Logins of a test are numbered, so this one is the same again
        next_login, next_id = self.user(KEY)
        self.assertEqual(next_login, login)
        self.assertUnknown(login, cookie)
        self.rename(user_id, f'{login} renamed')

    def test_left_behind(self):
        "Test that old devices of the new login are forgotten"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        # Rename with SQL, as another program or an older release would
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.login], [f'{login} old'],
                    where=table.id == user_id))
        next_login, next_id = self.user(KEY)
        self.rename(next_id, login)
        self.assertUnknown(login, cookie)

    def test_others(self):
        "Test that other users keep their devices"
        login, user_id = self.user(KEY)
        self.device(login)
        other, other_id = self.user(KEY)
        cookie = self.device(other)
        self.rename(user_id, f'{login} new')
        self.assertKnown(other, other_id, cookie)

    def test_other_fields(self):
        "Test that other changes of the user keep the devices"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {
                    'name': "Alice", 'email': 'alice@example.net',
                    'signature': "A"})
        self.assertKnown(login, user_id, cookie)

    def test_same(self):
        "Test that an import that writes the same login keeps the devices"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        self.rename(user_id, login)
        self.assertKnown(login, user_id, cookie)

    def test_swap(self):
        "Test two users who swap their logins in one request"
        users = [self.user(KEY) for _ in range(2)]
        (alice, alice_id), (bob, bob_id) = users
        cookies = [self.device(login) for login, _ in users]
        admin, _ = self.user(administrator=True)
        rpc = self.client(admin)
        for user_id, login in [
                (alice_id, f'{alice} x'), (bob_id, alice), (alice_id, bob)]:
            rpc.model('res.user', 'write', [user_id], {'login': login})
        for login in [alice, bob]:
            for cookie in cookies:
                self.assertUnknown(login, cookie)

    def test_several(self):
        "Test several users renamed by one call"
        users = [self.user(KEY) for _ in range(2)]
        cookies = [self.device(login) for login, _ in users]
        other, other_id = self.user(KEY)
        other_cookie = self.device(other)
        with self.transaction():
            User = Pool().get('res.user')
            (alice, alice_id), (bob, bob_id) = users
            User.write(
                [User(alice_id)], {'login': f'{alice} x'},
                [User(bob_id)], {'login': alice},
                [User(other_id)], {'name': "Other"})
        self.assertUnknown(f'{alice} x', cookies[0])
        for cookie in cookies:
            self.assertUnknown(alice, cookie)
        self.assertEqual(self.rows(bob), 0)
        self.assertKnown(other, other_id, other_cookie)

    def test_save(self):
        "Test a record that is changed by save"
        login, user_id = self.user(KEY)
        cookie = self.device(login)
        with self.transaction():
            user = Pool().get('res.user')(user_id)
            user.login = f'{login} new'
            user.save()
        self.assertUnknown(f'{login} new', cookie)
        self.assertEqual(self.rows(login), 0)

    def test_session(self):
        "Test that a device from after the renaming is remembered"
        login, user_id = self.user(KEY)
        self.rename(user_id, f'{login} new')
        cookie = self.device(f'{login} new')
        self.assertKnown(f'{login} new', user_id, cookie)
