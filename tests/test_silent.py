# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging
import threading
import unittest
from unittest.mock import patch

from cryptography.fernet import Fernet

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import verification
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    KEY, OTHER_KEY, PASSWORD, RPC, Refused, TOTPTestCase, right_code,
    secret_from)

AUTHENTICATIONS = ['totp', 'totp+password', 'totp,password']
# It has the form of a recovery code
RECOVERY_CODE = '-'.join(['AAAAA'] * 5)


class SilentTestCase(TOTPTestCase):
    "Test that neither a client nor the log learns a secret (law 6)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.rpc = RPC()

    def log_in(self, login, **parameters):
        response = self.rpc.post('common.db.login', login, parameters, 'en')
        return response.status_code, response.data

    def test_answer(self):
        "Test that status and text do not tell which logins exist or have TOTP"
        with_totp, _ = self.user(KEY)
        without, _ = self.user()
        for authentications in AUTHENTICATIONS:
            self.set_config('session', 'authentications', authentications)
            answers = set()
            for login in [with_totp, without, f'{without} not']:
                answers.add(str([
                            (status, data.replace(login.encode(), b''))
                            for status, data in [
                                self.log_in(login),
                                *(self.log_in(login, totp_code=code)
                                    for code in [
                                        '', 'x', '000000', 0, self.code(95),
                                        self.code(96), self.code(97)])]]))
                self.forget_attempts()
            self.assertEqual(len(answers), 1)

    def test_nobody(self):
        "Test that the codes of the dummy secrets are wrong too"
        without, _ = self.user()
        with_totp, user_id = self.user(OTHER_KEY)
        dummies = [secret_from(KEY).values] * 10
        with patch.object(verification, '_DUMMIES', dummies):
            for authentications in ['totp', 'totp+password']:
                self.set_config('session', 'authentications', authentications)
                for login in [without, f'{without} not', with_totp]:
                    status, data = self.log_in(
                        login, password=PASSWORD, totp_code=self.code())
                    self.assertEqual(status, 200)
                    self.assertIn(b'The code is wrong', data)
        self.assertEqual(self.failures(user_id), 2)

    def test_same_as_nobody(self):
        "Test that a used code is called used even if a dummy has it too"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'totp')
        with patch.object(
                verification, '_DUMMIES', [secret_from(KEY).values] * 10):
            status, data = self.log_in(login, totp_code=self.code())
            self.assertEqual(status, 200)
            self.assertNotIn(b'The code', data)
            status, data = self.log_in(login, totp_code=self.code())
            self.assertIn(b'The code was already used', data)
        self.assertEqual(self.failures(user_id), 0)

    def test_log(self):
        "Test that no key and no code appears in the log or an exception"
        self.set_totp('setup_timeout', '60')
        records = []
        handler = logging.Handler(logging.INFO)
        handler.emit = records.append
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.INFO)
        self.addCleanup(logger.setLevel, level)
        logger.addHandler(handler)
        self.addCleanup(logger.removeHandler, handler)

        login, user_id = self.user()
        self.set_config('session', 'authentications', 'password')
        self.rpc.login(login, password=PASSWORD)
        session_id, shown = self.rpc.start_setup()
        key = shown['secret'].replace(' ', '')
        codes = {right_code(key, self.now, steps) for steps in range(99)}
        codes |= {'13579246', '97531'}
        for code in ['13579246', right_code(key, self.now)]:
            self.rpc.post(
                'wizard.res.user.setup_totp.execute', session_id,
                {'start': {**shown, 'code': code}}, 'confirm', {})
        self.rpc.session = None
        self.rpc.login(login, password=PASSWORD)
        with self.assertRaises(Refused):
            self.rpc.overview('add', code='97531')
        self.set_config('session', 'authentications', 'password+totp')
        for steps in [1, -1, 98]:
            try:
                security.login(DB_NAME, login, {
                        'password': PASSWORD,
                        'totp_code': right_code(key, self.now, steps)})
            except LoginException:
                pass
        self.send_emails()
        self.assertEqual(self.events(user_id), ['set_up', 'replayed'])
        formatter = logging.Formatter()
        log = '\n'.join(map(formatter.format, records))
        self.assertIn('setup_totp', log)
        for text in [key, shown['secret'], *codes]:
            self.assertNotIn(text, log)


class WorkTestCase(TOTPTestCase):
    "Test that the work does not depend on the login (law 6)"
    maxDiff = None

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        # No attempt may expire during a test
        self.set_config('session', 'timeout', str(10 ** 9))
        self.key, self.old_key = [
            Fernet.generate_key().decode() for _ in range(2)]
        self.set_keys(self.key)
        self.rpc = RPC()

    def post(self, login, **parameters):
        return self.rpc.post('common.db.login', login, parameters, 'en')

    def logins(self):
        "Return a new login of each kind"
        self.set_config('session', 'authentications', 'totp')
        without, _ = self.user()
        with_totp, _ = self.user(KEY)
        used, _ = self.user(KEY)
        RPC().login(used, totp_code=self.code(1))
        inactive, inactive_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(inactive_id)], {'active': False})
        five, five_id = self.user(KEY)
        for _ in range(4):
            self.add_authenticator(five_id)
            self.now += 30
        self.now -= 4 * 30
        return {
            'unknown': f'{without} not',
            'without TOTP': without,
            'with five authenticators': five,
            'with TOTP': with_totp,
            'with TOTP that was used': used,
            'inactive': inactive,
            }

    def play(self, login, requests):
        "Return for each of the requests the work that it causes"
        # Another login may have the same decoy
        with self.transaction():
            Pool().get('res.user').clean_totp()
        self.forget_attempts()
        played = []
        for parameters in requests:
            with self.record_work() as work:
                self.post(login, **parameters)
            played.append(work)
        return played

    def assertSameWork(self, *requests, logins=None):
        "Check that each of the requests causes the same work for all logins"
        logins = logins or self.logins
        rounds = {}
        # The first time fills the caches
        for authentications in AUTHENTICATIONS * 2:
            kinds = logins()
            self.set_config('session', 'authentications', authentications)
            rounds[authentications] = {
                kind: self.play(login, requests)
                for kind, login in kinds.items()}
        for authentications, played in rounds.items():
            for kind in played:
                for i, parameters in enumerate(requests):
                    with self.subTest(
                            kind, i=i, authentications=authentications,
                            **parameters):
                        self.assertEqual(
                            played[kind][i], played['unknown'][i])
        return played['unknown']

    def test_asked(self):
        "Test a request without a code and one with a blank code"
        self.assertSameWork({}, {'totp_code': ''})

    def test_wrong(self):
        "Test wrong codes, one that records an event and one during a delay"
        played = self.assertSameWork(*[{'totp_code': self.code(95)}] * 4)
        for work in played:
            self.assertEqual(work.count('decrypt'), 1)
            self.assertIn('_generate', work)
        self.assertGreater(len(played[2]), len(played[1]))

    def test_unsealed_once(self):
        "Test that a login without TOTP opens a secret like one with TOTP"
        logins = self.logins()
        with self.transaction():
            User = Pool().get('res.user')
        for kind, login in logins.items():
            with self.subTest(kind), patch.object(
                    User, '_totp_place', autospec=True,
                    side_effect=User._totp_place) as place:
                self.play(login, [{'totp_code': self.code(95)}])
                self.assertEqual(place.call_count, 1)

    def test_malformed(self):
        "Test codes that no authenticator shows"
        played = self.assertSameWork(*[{'totp_code': 'x'}] * 4)
        for work in played:
            self.assertEqual(work.count('decrypt'), 1)

    def test_recovery_code(self):
        "Test codes that look like recovery codes"
        self.assertSameWork(*[{'totp_code': RECOVERY_CODE}] * 4)

    def test_waiting(self):
        "Test codes while the login has to wait because of wrong ones"
        wait = [{'totp_code': self.code(95)}] * 3
        played = self.assertSameWork(*wait, *({'totp_code': code} for code in [
                    self.code(95), self.code(), 'x', RECOVERY_CODE]))
        # Nothing was counted
        for work in played[3:6]:
            self.assertFalse([
                    query for query, *_ in work
                    if query.startswith('INSERT INTO "res_user_totp_event"')])

    def unsealed(self):
        self.set_keys()
        clear, _ = self.user(KEY)
        self.set_keys(self.old_key)
        old, _ = self.user(KEY)
        self.set_keys(self.key, self.old_key)
        return {'unknown': f'{clear} not', 'in clear': clear, 'old key': old}

    def test_unsealed(self):
        "Test secrets that are not yet sealed with the first key"
        self.assertSameWork({'totp_code': self.code(95)}, logins=self.unsealed)

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_lock(self):
        "Test that a wrong code waits for the row that counts it"
        for authentications in AUTHENTICATIONS:
            self.set_config('session', 'authentications', authentications)
            with_totp, user_id = self.user(KEY)
            without, _ = self.user()
            for login, locked, waits in [
                    (with_totp, user_id, True),
                    (with_totp, None, False),
                    (without, user_id, False),
                    (without, None, True),
                    (f'{without} not', user_id, False),
                    (f'{without} not', None, True)]:
                with self.subTest(
                        login=login, locked=locked,
                        authentications=authentications):
                    self.play(login, [])
                    self.assertEqual(self.waits(login, locked), waits)

    def waits(self, login, locked):
        "Return whether a wrong code of the login waits for the locked rows"
        answers = []

        def guess():
            answers.append(self.post(login, totp_code=self.code(95)))
        request = threading.Thread(target=guess)
        with self.transaction() as transaction:
            cursor = transaction.connection.cursor()
            self.lock_guesses(cursor, locked)
            request.start()
            blocked = False
            while request.is_alive() and not blocked:
                cursor.execute(
                    'SELECT count(*) > 0 FROM pg_locks WHERE NOT granted '
                    'AND pg_backend_pid() = ANY(pg_blocking_pids(pid))')
                blocked, = cursor.fetchone()
        request.join()
        answer, = answers
        self.assertEqual(answer.status_code, 200)
        return blocked
