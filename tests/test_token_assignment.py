# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from cryptography.fernet import Fernet

from trytond.pool import Pool
from trytond.pyson import PYSONDecoder

from .mail import MailTestCase
from .token_tools import MODEL, SEEDS, TokensTestCase, code_of
from .tools import ADDRESS, KEY, USED, Refused


class AssignTestCase(TokensTestCase):
    "Test what administrators do to tokens"

    def test_states(self):
        "Test that a token can be assigned, taken back, lost and deleted"
        _, user_id = self.user()
        id_, other, *_ = self.import_()
        self.assertEqual(self.state(id_), ('free', None))
        self.assertEqual(self.act('assign', id_, user=user_id), 'reload')
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.assertActs(
            "The token T0 is not free.", 'assign', id_, user=self.admin_id)
        self.assertActs(
            "The token T0 belongs to a user.", 'discard', other, id_)
        self.act('take_back', id_)
        self.assertEqual(self.state(id_), ('free', None))
        self.act('lose', id_)
        self.assertEqual(self.state(id_), ('lost', None))
        self.assertActs(
            "The token T0 is not free.", 'assign', id_, other, user=user_id)
        self.assertEqual(self.state(other), ('free', None))
        self.act('take_back', id_)
        self.act('assign', id_, other, user=user_id)
        self.assertEqual(self.state(other), ('assigned', user_id))
        self.act('take_back', id_, other)
        self.act('discard', id_, other)
        self.assertEqual(self.rpc.model(MODEL, 'search_count', []), 2)
        # A deleted token can be imported again
        self.import_(f'T0,{SEEDS[0]}')

    def test_rules(self):
        "Test that managers cannot change tokens of users they may not write"
        _, user_id, id_ = self.owner()
        free, = self.import_(f'T1,{SEEDS[1]}')
        _, mine = self.user()
        manager, _ = self.manager(mine)
        rpc = self.client(manager)
        for name in ['take_back', 'lose']:
            with self.assertRaises(Refused):
                self.act(name, id_, rpc=rpc)
        with self.assertRaises(Refused):
            self.act('assign', free, user=user_id, rpc=rpc)
        with self.assertRaises(Refused) as context:
            self.act('assign', id_, user=mine, rpc=rpc)
        self.assertNotIn('T0', str(context.exception))
        self.act('assign', free, user=mine, rpc=rpc)
        self.act('lose', free, rpc=rpc)
        self.act('discard', free, rpc=rpc)
        # A lost token still belongs to its user
        self.act('lose', id_)
        for name in ['take_back', 'lose', 'discard']:
            with self.assertRaises(Refused):
                self.act(name, id_, rpc=rpc)
        self.assertEqual(self.state(id_), ('lost', user_id))

    def test_seen(self):
        "Test that managers cannot see tokens of users they may not write"
        _, user_id, id_ = self.owner()
        free, own = self.import_(*(
                f'T{i},{seed}' for i, seed in enumerate(SEEDS[1:3], 1)))
        _, mine = self.user()
        manager, _ = self.manager(mine)
        rpc = self.client(manager)
        self.act('assign', own, user=mine, rpc=rpc)
        event = 'res.user.totp_event'
        for model, of_mine, of_other in [
                (MODEL, own, id_), (event, *(
                        self.rpc.model(event, 'search', [('user', '=', i)])[0]
                        for i in [mine, user_id]))]:
            for client, seen in [(rpc, []), (self.rpc, [of_other])]:
                with self.subTest(model=model, seen=seen):
                    self.assertTrue(
                        client.model(model, 'read', [of_mine], ['user']))
                    self.assertEqual(
                        client.model(
                            model, 'search', [('id', '=', of_other)]),
                        seen)
            for method in ['read', 'export_data']:
                with self.assertRaises(Refused):
                    rpc.model(model, method, [of_other], ['user'])
        self.assertEqual(
            rpc.model(MODEL, 'search_count', [('state', '=', 'free')]), 1)
        self.act('lose', id_)
        with self.assertRaises(Refused):
            rpc.model(MODEL, 'read', [id_], ['user'])
        self.assertTrue(rpc.model(MODEL, 'read', [free], ['serial']))

    def test_most(self):
        "Test that a user has at most max_authenticators tokens"
        self.set_totp('max_authenticators', '2')
        login, user_id = self.user()
        ids = self.import_()
        most = f"{login} would have more than 2 tokens."
        self.assertActs(most, 'assign', *ids, user=user_id)
        self.act('assign', ids[0], user=user_id)
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        self.assertActs(most, 'assign', *ids[1:3], user=user_id)
        self.act('assign', ids[1], user=user_id)
        self.assertActs(most, 'assign', ids[2], user=user_id)
        self.act('lose', ids[1])
        self.act('assign', ids[2], user=user_id)
        self.assertEqual(
            [self.state(id_)[0] for id_ in ids],
            ['in_use', 'lost', 'assigned', 'free'])

    def test_lost(self):
        "Test that a lost token fails at once while the phone still works"
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        with self.transaction(user_id):
            Pool().get('res.user')(user_id).add_totp_token(
                't0 ', code_of(SEEDS[0], self.now), self.code())
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        session = self.client(login)
        self.act('lose', id_)
        self.assertEqual(self.state(id_), ('lost', user_id))
        with self.assertRaises(Refused):
            session.model('res.user', 'read', [user_id], ['login'])
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.now += 30
        self.assertEqual(self.log_in(login, self.code())[0], user_id)
        self.assertEqual(
            self.events(user_id),
            ['set_up', 'token_assigned', 'added', 'authenticator_removed'])

    def test_lost_only(self):
        "Test that the loss of the only authenticator resets TOTP"
        for name, state in [('lose', 'lost'), ('take_back', 'free')]:
            login, user_id, id_ = self.owner(f'{name},{SEEDS[0]}')
            self.assertEqual(
                self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
            self.now += 30
            self.act(name, id_)
            self.assertEqual(self.state(id_)[0], state)
            self.assertEqual(
                self.events(user_id), ['token_assigned', 'set_up', 'reset'])
            with self.transaction():
                self.assertFalse(
                    Pool().get('res.user')(user_id).totp_enabled)
            # The dialog no longer asks for the token
            self.assertIn(
                "authenticator on your phone",
                self.log_in(login)[1])

    def test_lost_unreadable(self):
        "Test that a lost token stops working even if no key decrypts secrets"
        key = Fernet.generate_key().decode()
        self.set_keys(key)
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        with self.transaction(user_id):
            Pool().get('res.user')(user_id).add_totp_token(
                'T0', code_of(SEEDS[0], self.now), self.code())
        self.set_keys(Fernet.generate_key().decode())
        with self.assertLogs('trytond.modules', 'ERROR'):
            self.act('lose', id_)
        self.set_keys(key)
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.now += 30
        self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_own(self):
        "Test that administrators cannot remove their own token in use"
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=self.admin_id)
        self.act('take_back', id_)
        self.act('assign', id_, user=self.admin_id)
        self.assertEqual(
            self.log_in(self.admin, code_of(SEEDS[0], self.now))[0],
            self.admin_id)
        self.rpc = self.client(self.admin)
        for name in ['lose', 'take_back']:
            self.assertActs("You cannot reset or unlock your own", name, id_)
        self.assertEqual(self.state(id_), ('in_use', self.admin_id))

    def test_reset(self):
        "Test that a token in use becomes assigned again when TOTP is reset"
        login, user_id, id_ = self.owner()
        code = code_of(SEEDS[0], self.now)
        self.assertEqual(self.log_in(login, code)[0], user_id)
        with self.transaction():
            User = Pool().get('res.user')
            User.reset_totp([User(user_id)])
        self.assertEqual(self.state(id_), ('assigned', user_id))
        # Even after a reset a used code is refused (law 1)
        self.assertEqual(self.log_in(login, code), (None, USED))
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))


class ToldTestCase(TokensTestCase, MailTestCase):
    "Test that the owner is told of each change to a token (law 7)"

    def test_assigned(self):
        "Test that the owner is told what to do with an assigned token"
        login, user_id, _ = self.owner()
        self.assertEqual(
            self.received(), [f"A TOTP token was assigned for {login}"])
        text = self.text()
        for part in ['open "Set up TOTP"', self.admin, ADDRESS]:
            self.assertIn(part, text)
        self.assertNotIn(SEEDS[0], text)
        with self.transaction():
            event, = Pool().get('res.user.totp_event').search(
                [('user', '=', user_id)])
            self.assertEqual(
                (event.kind, event.actor.id, event.address, event.told),
                ('token_assigned', self.admin_id, ADDRESS, True))

    def test_withdrawn(self):
        "Test that the owner is told of the loss of a token not in use yet"
        for name in ['take_back', 'lose']:
            login, user_id, id_ = self.owner(f'{name},{SEEDS[0]}')
            self.received()
            self.act(name, id_)
            self.assertEqual(
                self.received(), [f"A TOTP token was withdrawn for {login}"])
            text = self.text()
            self.assertIn("nothing else changes", text)
            self.assertIn(f"Authenticator {name} ", text)
            self.assertEqual(
                self.events(user_id), ['token_assigned', 'token_withdrawn'])
            # Taking back a lost token changes nothing for the user
            self.act('take_back', id_)
            self.assertEqual(self.received(), [])
            self.assertEqual(len(self.events(user_id)), 2)

    def test_several(self):
        "Test that each user gets one e-mail about several tokens"
        login, user_id = self.user()
        other, other_id = self.user()
        ids = self.import_()
        self.act('assign', *ids[:2], user=user_id)
        self.act('assign', *ids[2:], user=other_id)
        self.assertEqual(sorted(self.received()), [
                f"A TOTP token was assigned for {login}",
                f"A TOTP token was assigned for {other}"])
        self.log_in(other, code_of(SEEDS[3], self.now))
        self.received()
        self.act('take_back', *ids)
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            self.assertEqual({
                    (event.user.id, event.authenticator)
                    for event in Event.search([
                            ('kind', '=', 'token_withdrawn'),
                            ('user', 'in', [user_id, other_id])])
                    }, {(user_id, 'T0, T1'), (other_id, 'T2')})
        self.assertEqual(sorted(self.received()), [
                f"A TOTP token was withdrawn for {login}",
                f"A TOTP token was withdrawn for {other}",
                f"TOTP was reset for {other}"])

    def test_refused(self):
        "Test that the owner is not told of a refused change"
        login, user_id, id_ = self.owner()
        self.received()
        self.assertActs("is not free", 'assign', id_, user=user_id)
        # Without a selected token the wizard does nothing
        self.act('assign', user=user_id)
        self.assertEqual(self.events(user_id), ['token_assigned'])
        self.assertEqual(self.received(), [])

    def test_tab(self):
        "Test that the tab of the changes shows the events about tokens"
        _, user_id, id_ = self.owner()
        self.act('take_back', id_)
        with self.transaction():
            pool = Pool()
            tab = pool.get('ir.action.act_window.domain')(
                pool.get('ir.model.data').get_id(
                    'authentication_totp', 'act_event_list_domain_changes'))
            domain = PYSONDecoder().decode(tab.domain)
        self.assertEqual(self.rpc.model(
                'res.user.totp_event', 'search_count',
                [('user', '=', user_id), domain]), 2)
