# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import gc
import itertools
import json
import logging
import time
from functools import partial
from unittest.mock import patch

from cryptography.fernet import Fernet
from sql.conditionals import Coalesce

from trytond import security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, PASSWORD, REFUSED, RPC, TOTPTestCase, right_code


def auc(first, second):
    "The chance that one of first takes longer than one of second"
    ordered = sorted([(t, 1) for t in first] + [(t, 0) for t in second])
    ranks = sum(rank for rank, (_, is_first) in enumerate(ordered, 1)
        if is_first)
    count = len(first)
    return (ranks - count * (count + 1) / 2) / (count * len(second))


class SilentTestCase(TOTPTestCase):
    "Test that neither a client nor the log learns what is secret (law 6)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.rpc = RPC()

    def log_in(self, login, **parameters):
        response = self.rpc.post('common.db.login', login, parameters, 'en')
        return response.status_code, response.data

    def measure(self, logins, tries, reset):
        "How long each answer takes, in seconds, for each of the logins"
        times = {name: [] for name in logins}
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        for i in range(tries):
            names = list(logins)
            names = names[i % 3:] + names[:i % 3]
            # So that each follows each of the others as often
            for name in names if i % 2 else reversed(names):
                started = time.perf_counter()
                status, data = self.log_in(
                    logins[name], totp_code=self.code(95))
                times[name].append(time.perf_counter() - started)
                self.assertEqual(status, 200)
                self.assertEqual(json.loads(data)['error'], [
                        'LoginException', ['totp_code', REFUSED, 'char']])
            self.forget_attempts()
            reset()
        return times

    def forget_failures(self, but=0):
        "Let all users and decoys have so many"
        with self.transaction() as transaction:
            table = Pool().get('res.user.totp_counter').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.failures, table.wait], [but, 0],
                    where=Coalesce(table.failures, 0) != but))

    def assertSameTime(self, logins, reset=lambda: None):
        self.set_config('session', 'authentications', 'totp+password')
        reset()
        self.measure(logins, 5, reset)
        times = {name: [] for name in logins}
        # What is there stays with more tries, what is noise does not
        for _ in range(6):
            for name, more in self.measure(logins, 300, reset).items():
                times[name].extend(more)
            leaks = {
                (first, second): abs(auc(times[first], times[second]) - 0.5)
                for first, second in itertools.combinations(times, 2)}
            if max(leaks.values()) <= 0.06:
                break
        self.assertLessEqual(max(leaks.values()), 0.06, leaks)

    def test_time(self):
        "Test that the time does not tell who exists and who has TOTP"
        self.set_keys(Fernet.generate_key().decode())
        with_totp, _ = self.user(KEY)
        without, _ = self.user()
        self.assertSameTime({
                'unknown': without[:-1] + '9',
                'without': without,
                'with': with_totp,
                }, self.forget_failures)

    def test_time_failed(self):
        "Test that the time of the third wrong code tells no more"
        with_totp, user_id = self.user(KEY)
        without, _ = self.user()
        self.assertSameTime({
                'unknown': without[:-1] + '9',
                'without': without,
                'with': with_totp,
                }, partial(self.forget_failures, but=2))
        self.assertIn('failed', self.events(user_id))

    def test_time_waiting(self):
        "Test that the time does not tell who has to wait"
        waiting, user_id = self.user(KEY)
        without, _ = self.user()
        for _ in range(3):
            self.log_in(waiting, password=PASSWORD, totp_code=self.code(95))
        self.assertSameTime({
                'unknown': without[:-1] + '9',
                'without': without,
                'waiting': waiting,
                })
        self.assertEqual(self.failures(user_id), 3)

    def test_answer(self):
        "Test that status and text do not tell who exists and who has TOTP"
        with_totp, _ = self.user(KEY)
        without, _ = self.user()
        for authentications in ['totp', 'totp+password', 'totp,password']:
            self.set_config('session', 'authentications', authentications)
            answers = set()
            for login in [with_totp, without, without[:-1] + '9']:
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
        "Test that the code of the secret that is nobody's is wrong as well"
        without, user_id = self.user()
        stored = totp.Secret.from_key(KEY).dump(0)
        with patch.object(totp, 'stored_for_nobody', return_value=stored):
            for authentications in ['totp', 'totp+password']:
                self.set_config('session', 'authentications', authentications)
                for login in [without, without[:-1] + '9']:
                    status, data = self.log_in(
                        login, password=PASSWORD, totp_code=self.code())
                    self.assertEqual(status, 200)
                    self.assertIn(b'The code is wrong', data)

    def test_log(self):
        "Test that no key and no code comes into the log or an exception"
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
                {'start': {**shown, 'code': code, 'current_code': '97531'}},
                'confirm', {})
        self.set_config('session', 'authentications', 'password+totp')
        for steps in [1, 1, 98]:
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
