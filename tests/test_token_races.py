# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import unittest

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.tests.test_tryton import DB_NAME

from .test_concurrency import THREADS, at_once
from .token_tools import SEEDS, TokensTestCase, code_of
from .tools import PASSWORD


@unittest.skipUnless(
    backend.name == 'postgresql', "an SQLite in memory has one thread")
class TokenRacesTestCase(TokensTestCase):
    "Test what happens to tokens at the same time"

    def test_race(self):
        "Test that one of many simultaneous first codes is accepted"
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
        "Test that a burst of wrong first codes does not outrun the count"
        self.set_config('session', 'max_attempt', str(10**6))
        login, user_id, id_ = self.owner()
        results = at_once(
            lambda code: security.login(
                DB_NAME, login, {'password': PASSWORD, 'totp_code': code},
                cache=False),
            [f'{i:06}' for i in range(64)])
        self.assertTrue(all(isinstance(r, Exception) for r in results))
        self.assertEqual(self.failures(user_id), 3)
