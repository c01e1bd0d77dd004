# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .tools import KEY, PASSWORD, Refused, TOTPTestCase


class ManagersTestCase(TOTPTestCase):
    "Test that users without write access cannot change the TOTP of a user"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()

    def guess(self, login):
        "Enter wrong codes until the user has to wait"
        self.dialogue(
            login, password=[PASSWORD], totp_code=[self.code(95)] * 3)

    def wizard(self, rpc, name, state, *user_ids, then=None):
        """Run the wizard on the users

        then: the users that the last request names instead, if any
        """
        prefix = f'wizard.res.user.{name}'
        context = {
            'active_model': 'res.user', 'active_id': user_ids[0],
            'active_ids': user_ids}
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        if then:
            context.update(active_id=then[0], active_ids=then)
        rpc.call(f'{prefix}.execute', session_id, {
                'start': {'users': context['active_ids']}}, state, context)

    def assertRefused(self, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        # A user error, not an unexpected one, reaches the client
        self.assertEqual(context.exception.args[0], 'UserError')

    def assertUnchanged(self, login, user_id, rpc, *events):
        "Check that codes, sessions and events have not changed"
        self.assertEqual(self.events(user_id), list(events))
        self.assertTrue(rpc.model('res.user', 'read', [user_id], ['login']))
        self.now += 3600
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0],
            user_id)

    def enrolled(self, count):
        users = [self.user(KEY) for _ in range(count)]
        return users, [self.client(login) for login, _ in users]

    def staff(self):
        """Return three users and an administrator, the client of each, and the
        client of a manager who may write the first and the third
        """
        users, clients = self.enrolled(3)
        admin = self.user(KEY, administrator=True)
        users.append(admin)
        clients.append(self.client(admin[0]))
        (_, clerk), _, (_, third), _ = users
        manager, _ = self.manager(clerk, third)
        return users, clients, self.client(manager)

    def test_reset(self):
        "Test that a manager resets only users whom a rule allows"
        users, clients, rpc = self.staff()
        clerk, other, third, admin_id = (id_ for _, id_ in users)
        for ids in [
                [other], [admin_id], [clerk, other], [other, clerk],
                [admin_id, other]]:
            with self.subTest(ids=ids):
                self.assertRefused(
                    self.wizard, rpc, 'reset_totp', 'reset', *ids)
                self.assertRefused(
                    self.wizard, rpc, 'reset_totp', 'reset', clerk, then=ids)
        for (login, user_id), client in zip(users, clients, strict=True):
            self.assertUnchanged(login, user_id, client, 'set_up')
        self.wizard(rpc, 'reset_totp', 'reset', clerk, third)
        for user_id in [clerk, third]:
            self.assertIsNone(self.stored_secret(user_id))
            self.assertEqual(self.events(user_id), ['set_up', 'reset'])

    def test_reset_themselves(self):
        "Test that managers outside their own rule cannot reset their own TOTP"
        (clerk, clerk_id), = self.enrolled(1)[0]
        manager, manager_id = self.manager(clerk_id)
        self.client(manager).set_up(self.now)
        rpc = self.client(manager)
        self.assertRefused(
            self.wizard, rpc, 'reset_totp', 'reset', manager_id)
        self.assertTrue(self.stored_secret(manager_id))

    def test_unlock(self):
        "Test that a manager unlocks only users whom a rule allows"
        users, clients, rpc = self.staff()
        clerk, other, third, admin_id = (id_ for _, id_ in users)
        for login, _ in users:
            self.guess(login)
        for ids in [
                [other], [admin_id], [clerk, other], [other, clerk],
                [clerk, third, admin_id]]:
            with self.subTest(ids=ids):
                self.assertRefused(
                    rpc.model, 'res.user', 'unlock_totp', ids)
        for login, user_id in users:
            # All of them still have to wait
            self.assertIsNone(self.dialogue(
                    login, password=[PASSWORD], totp_code=[self.code()])[0])
            self.assertEqual(self.events(user_id), ['set_up', 'failed'])
        rpc.model('res.user', 'unlock_totp', [clerk, third])
        for login, user_id in [users[0], users[2]]:
            self.assertEqual(
                self.events(user_id), ['set_up', 'failed', 'unlocked'])
            self.assertEqual(
                self.dialogue(
                    login, password=[PASSWORD], totp_code=[self.code()])[0],
                user_id)
        for (login, user_id), client in list(
                zip(users, clients, strict=True))[1::2]:
            self.assertUnchanged(login, user_id, client, 'set_up', 'failed')

    def test_invite(self):
        "Test that a manager invites only users whom a rule allows"
        clerk, other, third = (self.user()[1] for _ in range(3))
        admin, admin_id = self.user(administrator=True)
        manager, manager_id = self.manager(clerk, third)
        rpc = self.client(manager)
        for ids in [[other], [admin_id], [clerk, other], [other, clerk]]:
            with self.subTest(ids=ids):
                self.assertRefused(
                    self.wizard, rpc, 'invite_totp', 'send', *ids)
                self.assertRefused(
                    self.wizard, rpc, 'invite_totp', 'send', clerk, then=ids)
        for user_id in [clerk, other, third, admin_id]:
            self.assertEqual(self.events(user_id), [])
        self.wizard(rpc, 'invite_totp', 'send', clerk, third)
        for user_id in [clerk, third]:
            self.assertEqual(self.events(user_id), ['invited'])

    def test_not_shown(self):
        "Test that the wizards do not show the users outside the rule"
        (clerk, clerk_id), (other, other_id) = self.enrolled(2)[0]
        manager, _ = self.manager(clerk_id)
        rpc = self.client(manager)
        for name in ['reset_totp', 'invite_totp']:
            prefix = f'wizard.res.user.{name}'
            context = {
                'active_model': 'res.user', 'active_id': other_id,
                'active_ids': [other_id]}
            # The wizard for invitations would reveal users without TOTP
            with self.assertRaises(Refused):
                session_id, start, _ = rpc.call(f'{prefix}.create', context)
                rpc.call(f'{prefix}.execute', session_id, {}, start, context)

    def test_administrator(self):
        "Test that administrators may do all this, and ordinary users nothing"
        users, _ = self.enrolled(2)
        (clerk, clerk_id), (other, other_id) = users
        without = [self.user()[1] for _ in range(2)]
        admin, _ = self.user(administrator=True)
        manager, manager_id = self.manager(clerk_id)
        user, _ = self.user()
        for login in [clerk, other]:
            self.guess(login)
        for login in [user, admin]:
            rpc = self.client(login)
            for function, *args in [
                    (self.wizard, rpc, 'invite_totp', 'send', *without),
                    (rpc.model, 'res.user', 'unlock_totp',
                        [clerk_id, other_id]),
                    (self.wizard, rpc, 'reset_totp', 'reset',
                        clerk_id, other_id)]:
                if login == admin:
                    function(*args)
                else:
                    self.assertRefused(function, *args)
        for id_ in without:
            self.assertEqual(self.events(id_), ['invited'])
        for id_ in [clerk_id, other_id]:
            self.assertEqual(
                self.events(id_), ['set_up', 'failed', 'unlocked', 'reset'])

    def test_rule_taken_away(self):
        "Test that a rule that changes during a wizard takes effect at once"
        (clerk, clerk_id), = self.enrolled(1)[0]
        manager, manager_id = self.manager(clerk_id)
        rpc = self.client(manager)
        prefix = 'wizard.res.user.reset_totp'
        context = {
            'active_model': 'res.user', 'active_id': clerk_id,
            'active_ids': [clerk_id]}
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        with self.transaction():
            RuleGroup = Pool().get('ir.rule.group')
            group, = RuleGroup.search([('name', '=', manager)])
            Rule = Pool().get('ir.rule')
            Rule.write(list(group.rules), {'domain': '[["id", "=", -1]]'})
        self.assertRefused(
            rpc.call, f'{prefix}.execute', session_id, {}, 'reset', context)
        self.assertTrue(self.stored_secret(clerk_id))

    def test_no_user(self):
        "Test that the wizards for one user are refused without a user"
        (clerk, clerk_id), = self.enrolled(1)[0]
        manager, _ = self.manager(clerk_id)
        rpc = self.client(manager)
        for name, state, values in [
                ('forget_totp_devices', 'forget', {'device': 'all'}),
                ('remove_totp_authenticator', 'remove', {
                        'authenticator': '1'})]:
            prefix = f'wizard.res.user.{name}'
            for context in [{}, {'active_id': None}]:
                session_id, *_ = rpc.call(f'{prefix}.create', context)
                for data in [{}, {'start': {'user': clerk_id, **values}}]:
                    with self.subTest(name=name, context=context, data=data):
                        self.assertRefused(
                            rpc.call, f'{prefix}.execute', session_id, data,
                            state, context)
        self.assertTrue(self.stored_secret(clerk_id))
