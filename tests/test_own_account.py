# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import io
from contextlib import redirect_stdout

from trytond.modules.authentication_totp import command
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, OTHER_KEY, PASSWORD, Refused, TOTPTestCase

OWN = (
    "You cannot reset or unlock your own TOTP. Replace your authenticator "
    'with "Set up TOTP", use a recovery code, or ask another administrator.')


class OwnAccountTestCase(TOTPTestCase):
    "Test that no user resets or unlocks their own TOTP without a code (law 2)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()

    def administrator(self, key=KEY):
        "Return login, id and client of an administrator with the key"
        login, user_id = self.user(key, administrator=True)
        return login, user_id, self.client(login)

    def wait(self, login):
        "Enter wrong codes until the user has to wait"
        self.dialogue(
            login, password=[PASSWORD], totp_code=[self.code(95)] * 3)

    def unlock(self, rpc, *user_ids):
        rpc.model('res.user', 'unlock_totp', list(user_ids))

    def reset(self, rpc, *user_ids, first=None):
        """Run the wizard

        first: the users of the first request, by default those of the last
        """
        prefix = 'wizard.res.user.reset_totp'
        ids = list(first or user_ids)
        context = {
            'active_model': 'res.user', 'active_id': ids[0],
            'active_ids': ids}
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        context.update(active_id=user_ids[0], active_ids=list(user_ids))
        rpc.call(
            f'{prefix}.execute', session_id,
            {'start': {'users': list(user_ids)}}, 'reset', context)

    def assertRefused(self, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        error, (message, *_) = context.exception.args
        self.assertEqual((error, message), ('UserError', OWN))

    def assertUnchanged(self, *user_ids):
        "Check that the users still have to wait, and keep their authenticator"
        for user_id in user_ids:
            self.assertTrue(self.stored_secret(user_id))
            self.assertEqual(self.failures(user_id), 3)
            self.assertEqual(self.events(user_id), ['set_up', 'failed'])

    def test_refused(self):
        "Test that administrators are refused, alone or together with others"
        login, user_id, rpc = self.administrator()
        other, other_id = self.user(KEY)
        for name in [login, other]:
            self.wait(name)
        for function in [self.unlock, self.reset]:
            for ids in [
                    [user_id], [user_id, other_id], [other_id, user_id]]:
                with self.subTest(function=function.__name__, ids=ids):
                    self.assertRefused(function, rpc, *ids)
        self.assertUnchanged(user_id, other_id)

    def test_wizard_other_users(self):
        "Test that the last request cannot name the user's own account either"
        login, user_id, rpc = self.administrator()
        other, other_id = self.user(KEY)
        for name in [login, other]:
            self.wait(name)
        self.assertRefused(self.reset, rpc, user_id, first=[other_id])
        self.assertRefused(
            self.reset, rpc, other_id, user_id, first=[other_id])
        self.assertUnchanged(user_id, other_id)

    def test_manager(self):
        "Test a manager whose rule includes the manager's own account"
        other, other_id = self.user(KEY)
        login, user_id = self.manager(other_id)
        with self.transaction():
            pool = Pool()
            RuleGroup = pool.get('ir.rule.group')
            group, = RuleGroup.search([('name', '=', login)])
            pool.get('ir.rule').write(
                list(group.rules),
                {'domain': f'[["id", "in", [{other_id}, {user_id}]]]'})
            pool.get('res.user')(user_id).set_totp_key(KEY)
        rpc = self.client(login)
        for name in [login, other]:
            self.wait(name)
        for function in [self.unlock, self.reset]:
            self.assertRefused(function, rpc, user_id)
            self.assertRefused(function, rpc, other_id, user_id)
        self.assertUnchanged(user_id, other_id)
        self.unlock(rpc, other_id)
        self.reset(rpc, other_id)
        self.assertIsNone(self.stored_secret(other_id))

    def test_another(self):
        "Test that another administrator may reset and unlock"
        login, user_id, _ = self.administrator()
        _, _, rpc = self.administrator(OTHER_KEY)
        self.wait(login)
        self.unlock(rpc, user_id)
        self.assertEqual(self.failures(user_id), 0)
        self.reset(rpc, user_id)
        self.assertIsNone(self.stored_secret(user_id))
        self.assertEqual(
            self.events(user_id), ['set_up', 'failed', 'unlocked', 'reset'])

    def test_without_totp(self):
        "Test that administrators without TOTP reset others and themselves"
        login, user_id, rpc = self.administrator(None)
        other, other_id = self.user(KEY)
        self.reset(rpc, other_id, user_id)
        self.assertIsNone(self.stored_secret(other_id))

    def test_command(self):
        "Test that the command on the server may reset and unlock"
        login, user_id, _ = self.administrator()
        self.wait(login)
        with redirect_stdout(io.StringIO()):
            command.main(['-d', DB_NAME, 'unlock', login])
            self.assertEqual(self.failures(user_id), 0)
            command.main(['-d', DB_NAME, 'reset', login])
        self.assertIsNone(self.stored_secret(user_id))

    def test_server(self):
        "Test server code that runs as the user, and as the server"
        login, user_id, _ = self.administrator()
        self.wait(login)
        for name in ['unlock_totp', 'reset_totp']:
            with self.transaction(user_id):
                User = Pool().get('res.user')
                with self.assertRaises(Exception) as context:
                    getattr(User, name)([User(user_id)])
                self.assertEqual(context.exception.message, OWN)
        self.assertUnchanged(user_id)
        with self.transaction():
            User = Pool().get('res.user')
            User.reset_totp([User(user_id)])
        self.assertIsNone(self.stored_secret(user_id))
