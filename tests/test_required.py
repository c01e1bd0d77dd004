# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .tools import KEY, PASSWORD, RPC, Refused, TOTPTestCase


class AdministratorsTestCase(TOTPTestCase):
    """Test which administrators the requirement of a group concerns

    In Tryton 8.0, administrators are the members of a group. In Tryton 8.2,
    they have the rights of all groups, so the requirement of any group applies
    to them.
    """
    authentications = 'password+totp?no_totp_secret'

    def setUp(self):
        super().setUp()
        with self.transaction():
            pool = Pool()
            self.boolean = hasattr(pool.get('res.user'), 'administrator')
            Group = pool.get('res.group')
            group, = Group.create([{'name': self.id()}])
            self.group = group.id
        # The group would also require TOTP for administrators of other tests
        self.addCleanup(self.require, self.group, False)

    def require(self, group, required=True, active=True):
        with self.transaction():
            Group = Pool().get('res.group')
            Group.write([Group(group)], {
                    'totp_required': required, 'active': active})

    def assertRequired(self, login, user_id, required):
        self.forget_attempts()
        got_id, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[self.code(), ''])
        self.assertEqual(got_id, None if required else user_id)
        self.assertEqual(
            'totp_code' in [name for name, _ in questions], required)
        with self.transaction():
            User = Pool().get('res.user')
            self.assertEqual(User(user_id).totp_mandatory, required)
            for clause, expected in [
                    (('totp_mandatory', '=', True), required),
                    (('totp_mandatory', '=', False), not required),
                    (('totp_mandatory', '!=', True), not required),
                    (('totp_mandatory', 'in', [True]), required),
                    ]:
                self.assertEqual(
                    bool(User.search([('id', '=', user_id), clause])),
                    expected, clause)

    def test_group(self):
        "Test that the requirement of any group applies to administrators"
        admin = self.user(administrator=True)
        user = self.user()
        self.assertRequired(*admin, False)
        self.require(self.group)
        self.assertRequired(*admin, self.boolean)
        self.assertRequired(*user, False)
        self.require(self.group, active=False)
        self.assertRequired(*admin, False)
        self.require(self.group)
        self.assertRequired(*admin, self.boolean)
        self.require(self.group, required=False)
        self.assertRequired(*admin, False)

    def test_group_of_administrators(self):
        "Test the requirement of the group of administrators"
        if self.boolean:
            self.skipTest("a boolean tells who is an administrator")
        with self.transaction():
            group = Pool().get('ir.model.data').get_id('res', 'group_admin')
        self.addCleanup(self.require, group, False)
        admin = self.user(administrator=True)
        user = self.user()
        self.require(group)
        self.assertRequired(*admin, True)
        self.assertRequired(*user, False)

    def test_become(self):
        "Test that the requirement follows changes of administrators"
        login, user_id = self.user()
        self.require(self.group)
        self.assertRequired(login, user_id, False)
        if not self.boolean:
            return
        for administrator in [True, False]:
            with self.transaction():
                User = Pool().get('res.user')
                User.write(
                    [User(user_id)], {'administrator': administrator})
            self.assertRequired(login, user_id, administrator)

    def test_with_authenticator(self):
        "Test that administrators with an authenticator log in with it"
        login, user_id = self.user(KEY, administrator=True)
        self.require(self.group)
        self.assertIsNone(self.dialogue(login, password=[PASSWORD])[0])
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0],
            user_id)

    def test_shown(self):
        "Test that administrators see that TOTP is required for them"
        login, user_id = self.user(KEY, administrator=True)
        self.require(self.group)
        values, = self.client(login).model(
            'res.user', 'read', [user_id],
            ['totp_mandatory', 'totp_enabled'])
        self.assertEqual(
            (values['totp_mandatory'], values['totp_enabled']),
            (self.boolean, True))

    def test_set_up_in_dialog(self):
        "Test that administrators set up TOTP in the dialog if it is required"
        self.set_config(
            'session', 'authentications',
            'password+totp?no_totp_secret:setup_totp')
        login, user_id = self.user(administrator=True)
        self.assertEqual(RPC().login(login, password=PASSWORD), user_id)
        self.require(self.group)
        if not self.boolean:
            self.assertEqual(RPC().login(login, password=PASSWORD), user_id)
            return
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD)
        self.assertRegex(
            context.exception.args[1][1], '([A-Z2-7]{4} ){7}[A-Z2-7]{4}')
