# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .tools import (
    KEY, OTHER_KEY, PASSWORD, RPC, USED, Refused, TOTPTestCase, right_code)

REQUIRED = (
    "You cannot turn TOTP off, because it is required for you or for one of "
    "your groups. To use another authenticator, replace yours.")
KEY_SHOWN = '(?:[A-Z2-7]{4} ){7}[A-Z2-7]{4}'
SETUP_WRONG = (
    "The code is wrong. Enter the code that your authenticator shows now for "
    "the new entry. If the entry is wrong, delete it, leave the code blank "
    "and start again.")


class EnrolmentTestCase(TOTPTestCase):
    "Test which users may go without TOTP, and how it is turned off"
    authentications = 'password+totp?no_totp_secret'

    def setUp(self):
        super().setUp()
        with self.transaction():
            Group = Pool().get('res.group')
            name = self.id().rpartition('.')[2]
            self.required, self.other = map(int, Group.create([
                        {'name': f'{name} required', 'totp_required': True},
                        {'name': f'{name} other'}]))
            subgroup, = Group.create([
                    {'name': f'{name} subgroup', 'parent': self.required}])
            self.subgroup = subgroup.id
        # A requirement of the group may reach all administrators
        self.addCleanup(self.require_nothing)

    def require_nothing(self):
        with self.transaction():
            Group = Pool().get('res.group')
            Group.write([Group(self.required)], {'totp_required': False})

    def member(self, *groups, key=None, **values):
        login, user_id = self.user(key)
        self.write(user_id, {'groups': [('add', groups)], **values})
        return login, user_id

    def write(self, user_id, values):
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], values)

    def client(self, login):
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        return rpc

    def actions(self, rpc):
        return rpc.model('res.user', 'get_preferences', False)['actions']

    def action(self, name):
        with self.transaction():
            pool = Pool()
            Action = pool.get('ir.action')
            ModelData = pool.get('ir.model.data')
            return Action.get_action_id(
                ModelData.get_id('authentication_totp', name))

    def test_optional(self):
        "Test that users without TOTP skip the code, and that the wizard opens"
        login, user_id = self.member(self.other)
        self.assertEqual(
            self.dialogue(login, password=[PASSWORD])[0], user_id)
        self.assertIsNone(self.dialogue(login, password=['x'])[0])
        rpc = self.client(login)
        wizard = self.action('wizard_setup_totp')
        # At each login
        for _ in range(2):
            self.assertEqual(self.actions(rpc), [wizard])
        self.set_config('session', 'authentications', 'password+totp')
        self.assertEqual(self.actions(rpc), [])
        self.set_config('session', 'authentications', self.authentications)

        session_id, shown = rpc.start_setup()
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        # The setup has ended the session
        with self.assertRaises(Refused) as context:
            self.actions(rpc)
        self.assertEqual(context.exception.args, (401,))
        self.now += 30
        rpc = RPC()
        rpc.login(
            login, password=PASSWORD,
            totp_code=right_code(shown['secret'], self.now))
        self.assertEqual(self.actions(rpc), [])
        self.now += 30
        self.assertIsNone(self.dialogue(login, password=[PASSWORD])[0])
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD],
                totp_code=[right_code(shown['secret'], self.now)])[0],
            user_id)

    def test_required(self):
        "Test that a user who must use TOTP does not skip the code"
        for groups, values, mandatory in [
                ([], {}, False),
                ([self.other], {}, False),
                ([], {'totp_required': True}, True),
                ([self.other], {'totp_required': True}, True),
                ([self.required], {}, True),
                ([self.subgroup], {}, True),
                ([self.other, self.subgroup], {}, True),
                ]:
            with self.subTest(groups=groups, values=values):
                login, user_id = self.member(*groups, **values)
                got_id, questions = self.dialogue(
                    login, password=[PASSWORD], totp_code=[self.code()])
                self.assertEqual(got_id, None if mandatory else user_id)
                self.assertEqual(
                    [name for name, _ in questions],
                    ['password', *['totp_code'] * 2] if mandatory
                    else ['password'])
                with self.transaction():
                    User = Pool().get('res.user')
                    self.assertEqual(User(user_id).totp_mandatory, mandatory)
                    for value in [True, False]:
                        self.assertEqual(
                            bool(User.search([
                                        ('id', '=', user_id),
                                        ('totp_mandatory', '=', value)])),
                            value == mandatory)

    def test_inactive_group(self):
        "Test that an inactive group requires nothing"
        login, user_id = self.member(self.required)
        self.assertIsNone(self.dialogue(login, password=[PASSWORD])[0])
        with self.transaction():
            Group = Pool().get('res.group')
            Group.write([Group(self.required)], {'active': False})
        self.assertEqual(
            self.dialogue(login, password=[PASSWORD])[0], user_id)

    def test_forged(self):
        "Test that no client can claim that it may skip the code"
        login, user_id = self.member(self.required)
        enrolled, _ = self.member(key=KEY)
        for name, value in [
                ('no_totp_secret', True), ('totp_required', False),
                ('totp_mandatory', False), ('totp_enabled', False),
                ('totp', True), ('user_ids', [user_id]), ('login', 'admin'),
                ('_PASSED', True), ('<object object>', True)]:
            for authentications in [
                    self.authentications, 'totp+password?no_totp_secret',
                    'totp']:
                self.set_config('session', 'authentications', authentications)
                for user in [login, enrolled]:
                    with self.subTest(
                            user=user, name=name,
                            authentications=authentications):
                        self.forget_attempts()
                        with self.assertRaises(Refused) as context:
                            RPC().call('common.db.login', user, {
                                    'password': PASSWORD, name: value}, 'en')
                        error, (asked, *_) = context.exception.args
                        self.assertEqual(error, 'LoginException')
                        self.assertEqual(asked, 'totp_code')

    def test_not_self(self):
        "Test that users cannot lift the requirement from themselves"
        login, user_id = self.member(self.required, totp_required=True)
        self.set_config('session', 'authentications', 'password')
        rpc = self.client(login)
        with self.assertRaises(Refused):
            rpc.model(
                'res.user', 'write', [user_id], {'totp_required': False})
        with self.assertRaises(Refused):
            rpc.model('res.group', 'write', [self.required],
                {'totp_required': False})
        rpc.model('res.user', 'set_preferences', {'totp_required': False})
        with self.transaction():
            self.assertTrue(Pool().get('res.user')(user_id).totp_required)

    def remove(self, rpc, code):
        rpc.turn_off(code)

    def recovery_codes(self, user_id):
        with self.transaction():
            return Pool().get('res.user.totp_recovery_code').renew(user_id)

    def assertWithoutTOTP(self, login, user_id, codes):
        "Check that old codes are refused, and that sessions have ended"
        self.assertIsNone(self.stored_secret(user_id))
        with self.transaction():
            pool = Pool()
            user = pool.get('res.user')(user_id)
            self.assertFalse(user.totp_enabled)
            self.assertIsNone(user.totp_since)
            self.assertEqual(user.totp_recovery_codes, 0)
            self.assertEqual(user.totp_failures, 0)
            self.assertEqual(user.sessions, 0)
            self.assertEqual(
                pool.get('res.user.device').search(
                    [('login', '=', login)]), [])
        self.set_config('session', 'authentications', 'password+totp')
        self.now += 30
        for code in [self.code(), codes[-1]]:
            self.assertIsNone(self.dialogue(
                    login, password=[PASSWORD], totp_code=[code])[0])

    def test_remove(self):
        "Test that turning off TOTP takes a code, and removes everything"
        for use_recovery_code in [False, True]:
            with self.subTest(use_recovery_code=use_recovery_code):
                self.set_config('session', 'authentications', 'password')
                login, user_id = self.user(KEY)
                codes = self.recovery_codes(user_id)
                rpc = self.client(login)
                rpc.model('res.user.device', 'renew', None)
                for code in [self.code(95), '', None]:
                    with self.assertRaises(Refused):
                        self.remove(rpc, code)
                self.assertTrue(self.stored_secret(user_id))
                self.now += 30
                self.remove(
                    rpc, codes[0] if use_recovery_code else self.code())
                self.assertWithoutTOTP(login, user_id, codes)
                self.assertEqual(self.events(user_id)[-1], 'removed')

    def test_remove_required(self):
        "Test that a user who must use TOTP cannot turn it off"
        self.set_config('session', 'authentications', 'password')
        login, user_id = self.member(self.subgroup, key=KEY)
        rpc = self.client(login)
        with self.assertRaises(Refused) as context:
            self.remove(rpc, self.code())
        self.assertEqual(context.exception.args[1][0], REQUIRED)
        self.assertTrue(self.stored_secret(user_id))
        # The refusal does not use up the code
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0],
            user_id)

    def test_again(self):
        "Test that TOTP can be set up again, and that a used code stays used"
        self.set_config('session', 'authentications', 'password')
        login, user_id = self.user(KEY)
        self.remove(self.client(login), self.code())
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        code = right_code(shown['secret'], self.now)
        rpc.confirm_setup(session_id, shown, code=code)
        self.set_config('session', 'authentications', 'password+totp')
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[code])[1][-1],
            ('totp_code', USED))

    def reset(self, rpc, *user_ids, **context):
        prefix = 'wizard.res.user.reset_totp'
        context = {
            'active_model': 'res.user', 'active_id': user_ids[0],
            'active_ids': list(user_ids), **context}
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        rpc.call(f'{prefix}.execute', session_id, {}, 'reset', context)

    def test_reset(self):
        "Test that an administrator resets the TOTP of the selected users"
        self.set_config('session', 'authentications', 'password')
        admin, _ = self.user(administrator=True)
        users = [self.user(KEY) for _ in range(3)]
        codes = [self.recovery_codes(id_) for _, id_ in users]
        for login, _ in users:
            rpc = self.client(login)
            rpc.model('res.user.device', 'renew', None)
            rpc.start_setup()
        self.dialogue(
            users[0][0], password=[PASSWORD], totp_code=['000000'])
        self.reset(self.client(admin), *(id_ for _, id_ in users[:2]))
        for (login, user_id), codes_ in zip(
                users[:2], codes[:2], strict=True):
            self.assertWithoutTOTP(login, user_id, codes_)
            self.assertEqual(self.events(user_id)[-1], 'reset')
        login, user_id = users[2]
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0],
            user_id)
        self.assertEqual(self.events(user_id), ['set_up'])

    def test_reset_by_others(self):
        "Test that only administrators can reset, whatever the context says"
        self.set_config('session', 'authentications', 'password')
        login, user_id = self.user(KEY)
        other, other_id = self.user(OTHER_KEY)
        rpc = self.client(other)
        for context in [
                {}, {'active_model': None}, {'active_model': 'ir.ui.menu'},
                {'active_model': 'res.user.warning'},
                {'_check_access': False}, {'user': 1}]:
            for ids in [[user_id], [other_id]]:
                with self.subTest(context=context, ids=ids):
                    with self.assertRaises(Refused):
                        self.reset(rpc, *ids, **context)
        for id_ in [user_id, other_id]:
            self.assertTrue(self.stored_secret(id_))

    def test_invite(self):
        "Test that an administrator invites users without TOTP by e-mail"
        self.set_config('session', 'authentications', 'password')
        admin, admin_id = self.user(administrator=True)
        users = [self.user(), self.user(email=False), self.user(KEY)]
        ids = [id_ for _, id_ in users]
        prefix = 'wizard.res.user.invite_totp'
        context = {
            'active_model': 'res.user', 'active_id': ids[0],
            'active_ids': ids}
        for login in [users[0][0], admin]:
            rpc = self.client(login)
            if login != admin:
                with self.assertRaises(Refused):
                    rpc.call(f'{prefix}.create', context)
                continue
            session_id, start, _ = rpc.call(f'{prefix}.create', context)
            result = rpc.call(
                f'{prefix}.execute', session_id, {}, start, context)
            self.assertEqual(result['view']['defaults']['users'], ids[:1])
            self.assertEqual(
                result['view']['defaults']['without_email'], ids[1:2])
            rpc.call(f'{prefix}.execute', session_id, {}, 'send', context)
        self.assertEqual(
            [self.events(id_) for id_ in ids],
            [['invited'], [], ['set_up']])
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            event, = Event.search([('user', '=', ids[0])])
            self.assertTrue(event.telling)
            self.assertEqual(event.actor.id, admin_id)

    def test_methods_by_rpc(self):
        "Test that clients cannot call the methods behind the wizards"
        self.set_config('session', 'authentications', 'password')
        admin, admin_id = self.user(KEY, administrator=True)
        rpc = self.client(admin)
        for method in [
                'reset_totp', 'remove_totp', 'set_totp_key',
                'start_totp_setup', 'finish_totp_setup', 'clean_totp',
                'renew_totp_recovery_codes', '_clear_totp', 'totp_owners',
                'reseal_totp', 'totp_devices', 'forget_totp_devices']:
            with self.subTest(method=method):
                with self.assertRaises(Refused):
                    rpc.model('res.user', method, [admin_id])
        self.assertTrue(self.stored_secret(admin_id))

    def test_many(self):
        "Test that the number of users does not change that of the statements"
        names = [
            'totp_enabled', 'totp_since', 'totp_last_used', 'totp_mandatory',
            'totp_recovery_codes', 'totp_locked', 'totp_waiting_until',
            'totp_failures']
        ids = [self.user(KEY)[1] for _ in range(30)]
        counts = []
        for count in [2, 30]:
            with self.count_statements() as statements, self.transaction():
                Pool().get('res.user').read(ids[:count], names)
            counts.append(len(statements))
        self.assertEqual(*counts)
        self.assertLessEqual(counts[0], 10)

    def test_locked_filter(self):
        "Test that administrators can search for locked users"
        self.set_totp('max_failures', '3')
        self.set_config('session', 'authentications', 'password+totp')
        locked, locked_id = self.user(KEY)
        other, other_id = self.user(KEY)
        self.dialogue(
            locked, password=[PASSWORD], totp_code=[self.code(95)] * 3)
        with self.transaction():
            User = Pool().get('res.user')
            for value, id_ in [(True, locked_id), (False, other_id)]:
                self.assertEqual(
                    [u.id for u in User.search([
                                ('id', 'in', [locked_id, other_id]),
                                ('totp_locked', '=', value)])],
                    [id_])
