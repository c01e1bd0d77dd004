# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import unittest

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.tests.test_tryton import DB_NAME

from .test_concurrency import THREADS, at_once
from .token_tools import MODEL, SEEDS, TokensTestCase, code_of
from .tools import PASSWORD, Refused

ADMINISTRATORS = 4
ROUNDS = 5


@unittest.skipUnless(
    backend.name == 'postgresql', "an SQLite in memory has one thread")
class TokenRacesTestCase(TokensTestCase):
    "Test simultaneous requests about tokens"

    def test_race(self):
        "Test that only one of many simultaneous first codes is accepted"
        self.set_config('session', 'max_attempt', str(10**6))
        for i in range(10):
            login, user_id, id_ = self.owner(f'race{i},{SEEDS[0]}')
            parameters = {
                'password': PASSWORD,
                'totp_code': code_of(SEEDS[0], self.now)}
            results = at_once(
                lambda parameters, login=login: security.login(
                    DB_NAME, login, parameters, cache=False),
                [parameters] * THREADS)
            winners = [r for r in results if not isinstance(r, Exception)]
            self.assertEqual(winners, [user_id])
            for result in results:
                if result != user_id:
                    self.assertIsInstance(result, LoginException)
            self.assertEqual(self.counters(user_id), [self.now // 30])
            self.assertEqual(self.state(id_), ('in_use', user_id))
            self.forget_attempts()

    def test_burst(self):
        "Test that only three of a burst of wrong first codes are checked"
        self.set_config('session', 'max_attempt', str(10**6))
        login, user_id, id_ = self.owner()
        results = at_once(
            lambda code: security.login(
                DB_NAME, login, {'password': PASSWORD, 'totp_code': code},
                cache=False),
            [f'{i:06}' for i in range(64)])
        self.assertTrue(all(isinstance(r, Exception) for r in results))
        self.assertEqual(self.failures(user_id), 3)

    def ready(self, name, id_, rpc, **values):
        "Start the wizard and return a function that takes its last step"
        wizard = f'res.user.{name}_totp_token'
        context = {'active_model': MODEL, 'active_ids': [id_]}
        session_id, start, _ = self.wizard(rpc, wizard, 'create', **context)
        return lambda: self.wizard(
            rpc, wizard, 'execute', session_id, {start: values}, name,
            **context)

    def entering(self, login, code):
        "Return a function that logs in with the code"
        parameters = {'password': PASSWORD, 'totp_code': code}
        return lambda: security.login(
            DB_NAME, login, parameters.copy(), cache=False)

    def together(self, *calls):
        """Call the functions simultaneously

        Return a list of the indices of those that were not refused.
        """
        results = at_once(lambda call: call(), calls)
        for result in results:
            if isinstance(result, Exception):
                self.assertIsInstance(result, (Refused, LoginException))
        return [
            i for i, result in enumerate(results)
            if not isinstance(result, Exception)]

    def administrators(self):
        return [
            self.client(self.user(administrator=True)[0])
            for _ in range(ADMINISTRATORS)]

    def test_assigned_at_once(self):
        "Test that of simultaneous assignments of a token only one succeeds"
        clients = self.administrators()
        users = [self.user()[1] for _ in clients]
        for i in range(ROUNDS):
            id_, = self.import_(f'T{i},{SEEDS[0]}')
            winner, = self.together(*(
                    self.ready('assign', id_, rpc, user=user_id)
                    for rpc, user_id in zip(clients, users, strict=True)))
            self.assertEqual(self.state(id_), ('assigned', users[winner]))
            self.assertEqual(
                sum(self.events(user_id).count('token_assigned')
                    for user_id in users), i + 1)

    def test_most_at_once(self):
        "Test that simultaneous assignments cannot exceed a user's limit"
        self.set_totp('max_authenticators', '2')
        clients = self.administrators()
        for i in range(ROUNDS):
            _, user_id = self.user()
            ids = self.import_(*(
                    f'T{i}-{j},{seed}' for j, seed in enumerate(SEEDS)))
            done = self.together(*(
                    self.ready('assign', id_, rpc, user=user_id)
                    for id_, rpc in zip(ids, clients, strict=True)))
            self.assertEqual(len(done), 2)
            self.assertEqual(self.rpc.model(
                    MODEL, 'search_count', [('user', '=', user_id)]), 2)

    def test_imported_at_once(self):
        "Test that simultaneous imports of a file import each token once"
        clients = self.administrators()
        for i in range(ROUNDS):
            rows = '\n'.join(
                f'T{i}-{j},{seed}' for j, seed in enumerate(SEEDS)).encode()
            sessions = [self.read_file(rows, rpc=rpc)[0] for rpc in clients]
            # Each administrator imports twice
            self.together(*(
                    lambda rpc=rpc, session_id=session_id: self.store(
                        session_id, rpc=rpc)
                    for rpc, session_id in zip(clients, sessions, strict=True)
                    for _ in range(2)))
            self.assertEqual(
                self.rpc.model(MODEL, 'search_count', []),
                len(SEEDS) * (i + 1))

    def test_lost_at_once(self):
        "Test that a token lost while it is confirmed does not work"
        # All logins fail if the token is lost before the first of them
        self.set_config('session', 'max_attempt', str(10**6))
        for i in range(ROUNDS):
            for name, state in [('lose', 'lost'), ('take_back', 'free')]:
                login, user_id, id_ = self.owner(f'{name}{i},{SEEDS[0]}')
                done = self.together(
                    self.ready(name, id_, self.rpc),
                    *[self.entering(login, code_of(SEEDS[0], self.now))] * 8)
                self.assertIn(0, done)
                self.assertEqual(self.state(id_)[0], state)
                self.assertEqual(self.counters(user_id), [])
                self.assertIsNone(self.stored_secret(user_id))
                self.now += 30
                self.assertIsNone(self.log_in(
                        login, code_of(SEEDS[0], self.now))[0])
                self.forget_attempts()

    def test_two_users(self):
        "Test that two users cannot share a token that both confirm at once"
        for i in range(ROUNDS):
            login, user_id, id_ = self.owner(f'T{i},{SEEDS[0]}')
            other, other_id = self.user()
            code = code_of(SEEDS[0], self.now)

            def move(id_=id_, other_id=other_id):
                self.act('take_back', id_)
                self.act('assign', id_, user=other_id)
            done = self.together(
                move, *[self.entering(login, code)] * 4,
                *[self.entering(other, code)] * 4)
            self.assertIn(0, done)
            self.assertEqual(self.state(id_)[1], other_id)
            self.assertIsNone(self.stored_secret(user_id))
            # The code is accepted once for all users
            self.assertLessEqual(len(done), 2)
            self.forget_attempts()
