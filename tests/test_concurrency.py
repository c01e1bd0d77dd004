# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
from contextlib import suppress
from unittest.mock import patch

from proteus import Model
from proteus.config import set_xmlrpc_session
from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import totp
from trytond.modules.authentication_totp.exceptions import (
    TOTPCodeError, TOTPSetupError)
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction

from .tools import (
    KEY, PASSWORD, REFUSED, USED, WAIT, WRONG, TOTPTestCase, free_port,
    right_code)

THREADS = 32
ROUNDS = 3
# The server is killed once it has accepted this many codes
ACCEPTED = 8
# The command trytond without core's delay after failed logins, with a password
# hash that costs nothing, and with a clock that stands still
SERVER = """
import sys
from unittest.mock import patch

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

import trytond.res.user
from trytond.cli import main

cheap = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)
now = float(sys.argv.pop())
with (patch('trytond.res.user.time'),
        patch('trytond.res.user.PASSWORD_HASH', PasswordHash([cheap])),
        patch(
            'trytond.modules.authentication_totp.clock.now', lambda: now)):
    main()
"""

# Prints the decoy of a login
DECOY = """
import sys

from trytond.pool import Pool
from trytond.transaction import Transaction

database_name, login = sys.argv[1:]
Pool.start()
Pool(database_name).init()
with Transaction().start(database_name, 0):
    print(Pool().get('res.user.totp_decoy_key').choose(login))
"""


def at_once(function, arguments):
    "Call the function in a thread for each argument, and return the results"
    results = [None] * len(arguments)
    barrier = threading.Barrier(len(arguments))

    def run(i, argument):
        barrier.wait()
        try:
            results[i] = function(argument)
        except Exception as error:
            results[i] = error
    threads = [
        threading.Thread(target=run, args=item)
        for item in enumerate(arguments)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


class LosersMixin:
    "Check the answers to codes that come too late"

    def assertLosers(self, messages):
        # They come from the network that used the code, so none is counted
        self.assertEqual(messages, [USED] * len(messages))


@unittest.skipUnless(
    backend.name == 'postgresql', "an SQLite in memory has one thread")
class ConcurrencyTestCase(LosersMixin, TOTPTestCase):
    "Test that a code is accepted once, whatever happens at the same time"

    def assertOneWinner(self, results, user_id):
        winners = [r for r in results if not isinstance(r, Exception)]
        self.assertEqual(winners, [user_id])
        for result in results:
            if result != user_id:
                self.assertIsInstance(result, LoginException)
                self.assertEqual(result.name, 'totp_code')
        self.assertLosers(
            [r.message for r in results if isinstance(r, Exception)])

    def race(self, authentications, parameters, rounds=30, second=False):
        self.set_config('session', 'authentications', authentications)
        # Core's limit must not refuse the threads that come late
        self.set_config('session', 'max_attempt', str(THREADS))
        login, user_id = self.user(KEY)
        key = self.add_authenticator(user_id) if second else KEY
        for _ in range(rounds):
            self.now += 30
            parameters['totp_code'] = right_code(key, self.now)
            results = at_once(
                lambda parameters: security.login(
                    DB_NAME, login, parameters, cache=False),
                [parameters] * THREADS)
            self.assertOneWinner(results, user_id)
            self.assertEqual(max(self.counters(user_id)), self.now // 30)
            self.forget_attempts()

    def test_once(self):
        "Test 30 rounds of 32 threads with the same right code"
        self.race('totp', {})

    def test_once_second(self):
        "Test 30 rounds of 32 threads with a code of the second authenticator"
        self.race('totp', {}, second=True)

    def test_wrong_recovery_codes(self):
        "Test that a flood of wrong recovery codes is counted and harmless"
        self.set_config('session', 'authentications', 'password+totp')
        self.lift_core_limit()
        login, user_id = self.user(KEY)
        with self.transaction():
            codes = Pool().get('res.user.totp_recovery_code').renew(user_id)

        def log_in(code):
            return security.login(
                DB_NAME, login, {'password': PASSWORD, 'totp_code': code},
                cache=False)
        for right in [False, True]:
            wrong = [
                totp.new_recovery_code() for _ in range(THREADS - right)]
            results = at_once(log_in, wrong + codes[:right])
            for result in results[:len(wrong)]:
                self.assertIsInstance(result, LoginException)
            if not right:
                self.assertEqual(self.failures(user_id, 'recovery'), THREADS)
        self.assertEqual(results[-1], user_id)
        self.assertEqual(
            self.events(user_id)[:2], ['set_up', 'recovery_failed'])
        self.assertIn('recovered', self.events(user_id))
        self.assertIsInstance(log_in(self.code()), int)

    def test_decoy(self):
        "Test that each server chooses the same decoy for a login"
        with self.transaction():
            expected = Pool().get(
                'res.user.totp_decoy_key').choose('nobody')
        for seed in ['1', '2']:
            run = subprocess.run(
                [sys.executable, '-c', DECOY, DB_NAME, 'nobody'],
                env={**os.environ, 'PYTHONHASHSEED': seed},
                stdin=subprocess.DEVNULL, capture_output=True, text=True)
            self.assertEqual(run.stdout.strip(), str(expected), run.stderr)

    def test_once_password(self):
        "Test that the time that the password takes does not matter"
        self.race('password+totp', {'password': PASSWORD}, rounds=3)

    def test_once_with_attempts(self):
        "Test that earlier attempts, which every winner removes, do no harm"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'totp')
        # Core's limit must not refuse the threads that come late
        self.set_config('session', 'max_attempt', str(THREADS))
        for _ in range(5):
            with self.transaction():
                LoginAttempt = Pool().get('res.user.login.attempt')
                for _ in range(3):
                    LoginAttempt.add(login)
            results = at_once(
                lambda parameters: security.login(
                    DB_NAME, login, parameters, cache=False),
                [{'totp_code': self.code()}] * 8)
            self.assertOneWinner(results, user_id)
            self.forget_attempts()
            self.now += 30

    def test_burst(self):
        "Test 200 wrong codes from 40 connections and 200 addresses"
        self.set_config('session', 'max_attempt', '1000')
        login, user_id = self.user(KEY)
        # Attempts so old that each request deletes them
        with self.transaction():
            LoginAttempt = Pool().get('res.user.login.attempt')
            for _ in range(3):
                LoginAttempt.add(login)
            table = LoginAttempt.__table__()
            Transaction().connection.cursor().execute(*table.update(
                    [table.create_date], [dt.datetime(2000, 1, 1)]))
        verify = totp.verify
        evaluated = []

        def counted(secrets, code, *args, **kwargs):
            evaluated.append(code)
            return verify(secrets, code, *args, **kwargs)

        def guess(connection):
            answers = []
            for i in range(5):
                context = {
                    '_request': {'remote_addr': f'10.{connection}.{i}.1'}}
                try:
                    security.login(
                        DB_NAME, login,
                        {'password': PASSWORD, 'totp_code': self.code(95)},
                        cache=False, context=context)
                except LoginException as question:
                    answers.append(question.message)
            return answers

        with patch.object(totp, 'verify', counted):
            results = at_once(guess, range(40))
        self.assertEqual([len(answers) for answers in results], [5] * 40)
        answers = sum(results, [])
        self.assertEqual(len(evaluated), 3)
        self.assertEqual(answers.count(WRONG), 2)
        self.assertEqual(answers.count(WAIT % '30 seconds'), 198)
        self.assertEqual(self.failures(user_id), 3)

    def test_burst_without(self):
        "Test that a burst makes the same work for a login without TOTP"
        self.set_config('session', 'authentications', 'totp+password')
        self.lift_core_limit()
        with_totp, user_id = self.user(KEY)
        without, _ = self.user()

        def guess(login):
            try:
                security.login(
                    DB_NAME, login, {'totp_code': self.code(95)}, cache=False)
            except LoginException as question:
                return question.message
        with self.transaction():
            pool = Pool()
            Event = pool.get('res.user.totp_event')
            Guess = pool.get('res.user.totp_guess')
            Guess.clean()
            table = Guess.__table__()
            before = Event.search([], count=True)
        counted = table.select(table.user, table.failures, where=(
                ((table.user == user_id) | (table.user < 0))
                & (table.failures > 0)))
        users = []
        for login in [with_totp, without, f'{without} not']:
            self.assertEqual(
                set(at_once(guess, [login] * THREADS)), {REFUSED})
            (user, failures), = self.sql(counted)
            self.assertEqual(failures, 3)
            users.append(user)
            with self.transaction():
                Guess.unlock([user_id])
                Guess.clean()
            self.assertEqual(self.sql(counted), [])
        self.assertEqual(users[0], user_id)
        self.assertLess(max(users[1:]), 0)
        with self.transaction():
            events = Event.search([], order=[('id', 'ASC')])[before:]
            self.assertEqual(
                [(e.user and e.user.id, e.kind, e.told) for e in events], [
                    (user_id, 'failed', False),
                    (None, 'failed', False),
                    (None, 'failed', False)])

    def call(self, user_id, method, *args, **kwargs):
        # The dispatcher repeats calls like this
        for _ in range(6):
            try:
                with self.transaction():
                    user = Pool().get('res.user')(user_id)
                    return getattr(user, method)(*args, **kwargs)
            except backend.DatabaseOperationalError:
                continue
        raise AssertionError("too many tries")

    def test_set_up_once(self):
        "Test that simultaneous threads confirm a new key once"
        login, user_id = self.user()
        code = None
        for _ in range(5):
            secret = self.call(
                user_id, 'start_totp_setup', code, replaces=True)
            results = at_once(
                lambda code: self.call(user_id, 'finish_totp_setup', code),
                [right_code(secret.text, self.now)] * 16)
            self.assertEqual(
                sum(isinstance(r, list) for r in results), 1)
            self.assertEqual(
                sum(isinstance(r, TOTPSetupError) for r in results), 15)
            self.assertEqual(self.counters(user_id), [self.now // 30])
            self.now += 60
            code = right_code(secret.text, self.now)

    def test_start_once(self):
        "Test that a code shows one new key to simultaneous threads"
        login, user_id = self.user(KEY)
        for replaces in [False, True]:
            results = at_once(
                lambda args: self.call(user_id, 'start_totp_setup', *args),
                [(self.code(), replaces)] * 16)
            self.assertEqual(
                sum(isinstance(r, totp.Secret) for r in results), 1)
            self.assertEqual(
                sum(isinstance(r, TOTPCodeError) for r in results), 15)
            self.now += 60

    def test_log_in_or_replace(self):
        "Test that a code either logs in or shows a key to replace it"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'totp')

        def run(codes):
            code, replaces = codes
            if replaces:
                secrets.append(self.call(
                        user_id, 'start_totp_setup', code, replaces=True))
            else:
                security.login(
                    DB_NAME, login, {'totp_code': code}, cache=False)

        key = KEY
        for _ in range(20):
            secrets = []
            code = right_code(key, self.now)
            errors = at_once(run, [(code, False), (code, True)])
            # One of them succeeds, and the other one is told the reason
            self.assertEqual(errors.count(None), 1)
            self.assertEqual(len(secrets), errors[1] is None)
            for secret in secrets:
                key = secret.text
                self.call(
                    user_id, 'finish_totp_setup',
                    right_code(key, self.now, -1))
            self.forget_attempts()
            self.now += 60

    def test_killed(self):
        "Test that a login that dies before its commit leaves no trace"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'totp')
        parameters = {'totp_code': self.code()}
        with patch.object(Transaction, 'commit', side_effect=SystemExit):
            with self.assertRaises(SystemExit):
                security.login(DB_NAME, login, parameters, cache=False)
        self.assertEqual(
            security.login(DB_NAME, login, parameters, cache=False), user_id)
        with self.assertRaises(LoginException) as context:
            security.login(DB_NAME, login, parameters, cache=False)
        self.assertEqual(context.exception.message, USED)

    def test_few_connections(self):
        "Test that simultaneous logins do not wait for each other"
        self.set_config('database', 'maxconn', '4')
        self.set_config('session', 'authentications', 'totp')
        users = [self.user(KEY) for _ in range(16)]
        results = at_once(
            lambda login: security.login(
                DB_NAME, login, {'totp_code': self.code()}, cache=False),
            [login for login, _ in users])
        self.assertEqual(results, [user_id for _, user_id in users])


@unittest.skipUnless(
    backend.name == 'postgresql', "an SQLite in memory has one process")
class ServersTestCase(LosersMixin, TOTPTestCase):
    "Test two server processes on the same database"

    def start_server(self, authentications='password+totp'):
        "Return the port of a server, once it listens, and its process"
        port = free_port(self)
        log = tempfile.TemporaryFile('w+')
        server = subprocess.Popen(
            [sys.executable, '-c', SERVER, '--database', DB_NAME,
                str(self.now)],
            env={
                **os.environ,
                'TRYTOND_WEB__LISTEN': f'127.0.0.1:{port}',
                'TRYTOND_SESSION__AUTHENTICATIONS': authentications,
                'TRYTOND_SESSION__MAX_ATTEMPT': '100000',
                'TRYTOND_SESSION__MAX_ATTEMPT_IP_NETWORK': '100000',
                'TRYTOND_AUTHENTICATION_TOTP__TOLERANCE': '5',
                },
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.addCleanup(self.stop_server, server, log)
        while server.poll() is None:
            with suppress(OSError):
                socket.create_connection(('127.0.0.1', port)).close()
                break
            time.sleep(0.1)
        return port, server

    def stop_server(self, server, log):
        server.terminate()
        server.wait()
        log.seek(0)
        # trytond 8.2 logs each question as an exception
        for error in re.findall(
                r'^[\w.]+(?:Error|Exception)\b', log.read(), re.M):
            self.assertEqual(error, 'trytond.exceptions.LoginException')
        log.close()

    def call(self, port, method, *params):
        request = urllib.request.Request(
            f'http://127.0.0.1:{port}/{DB_NAME}/rpc/',
            json.dumps(
                {'id': 1, 'method': method, 'params': params}).encode(),
            {'Content-Type': 'application/json'})
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return error.code

    def test_once(self):
        "Test that one of 32 requests to two servers is accepted"
        ports = [self.start_server()[0] for _ in range(2)]
        login, user_id = self.user(KEY, email=False)
        for port in ports:
            answer = self.call(port, 'common.db.login', login, {}, 'en')
            self.assertEqual(answer['error'][1][0], 'password')
        for steps in range(-2, 3):
            parameters = {
                'password': PASSWORD,
                'totp_code': self.code(steps),
                }
            answers = at_once(
                lambda arguments: self.call(*arguments), [
                    (ports[i % 2], 'common.db.login', login, parameters,
                        'en')
                    for i in range(THREADS)])
            winners = [a for a in answers if a.get('result')]
            self.assertEqual(len(winners), 1, answers)
            self.assertEqual(winners[0]['result'][0], user_id)
            messages = []
            for answer in answers:
                if answer not in winners:
                    name, (parameter, message, _) = answer['error']
                    self.assertEqual(name, 'LoginException')
                    self.assertEqual(parameter, 'totp_code')
                    messages.append(message)
            self.assertLosers(messages)
            self.forget_attempts()
            with self.transaction():
                Pool().get('res.user')(user_id).unlock_totp()
        self.assertEqual(len(self.counters(user_id)), 1)

    def test_proteus(self):
        "Test a script that passes proteus the code along with the password"
        port, _ = self.start_server()
        login, user_id = self.user(KEY, email=False)
        with set_xmlrpc_session(
                f'http://127.0.0.1:{port}/{DB_NAME}/rpc/', login, PASSWORD,
                {'totp_code': self.code()}) as config:
            user, = Model.get('res.user', config).find(
                [('login', '=', login)])
            self.assertEqual(user.id, user_id)
            self.assertTrue(user.totp_enabled)

    def storm(self, port, server, users):
        """Log in with codes of the users, and kill the server meanwhile

        Return the parameters of the logins that were answered with success.
        """
        accepted = []

        def log_in(login):
            for steps in range(-4, 5):
                parameters = {'totp_code': self.code(steps)}
                try:
                    answer = self.call(
                        port, 'common.db.login', login, parameters, 'en')
                except (OSError, http.client.HTTPException):
                    return
                self.assertTrue(answer.get('result'), answer)
                accepted.append((login, parameters))
                # Other logins are under way, each at its own stage
                if len(accepted) >= ACCEPTED:
                    server.kill()

        for error in at_once(log_in, users):
            if error:
                raise error
        return accepted

    def test_killed(self):
        "Test that killing a server makes no used code valid again"
        port, server = self.start_server('totp')
        for _ in range(ROUNDS):
            users = [self.user(KEY, email=False)[0] for _ in range(8)]
            accepted = self.storm(port, server, users)
            self.assertGreaterEqual(len(accepted), ACCEPTED)
            port, server = self.start_server('totp')
            for login, parameters in accepted:
                answer = self.call(
                    port, 'common.db.login', login, parameters, 'en')
                self.assertEqual(answer['error'][0], 'LoginException')
