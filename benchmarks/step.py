# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The check of the code alone: SQL statements, and the time for one code

Matching a code takes microseconds; the two SQL statements take most of the
rest. passlib tries the time steps of the window from the first one on, so a
wider window also slows a right code down.
"""

import base64
import cProfile
import dataclasses
import gc
import hmac
import pstats
import statistics
import struct
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pyotp
from passlib.exc import TokenError
from passlib.totp import TOTP

import trytond.config as config
from benchmarks import tools
from benchmarks.results import figure
from trytond import security
from trytond.modules.authentication_totp import clock, totp
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'step'
CALLS = 400
RUNS = 7
STEPS = 200
ROUNDS = 2
TOP = 25
NOW = 2_000_000_000
WINDOWS = {'tolerance': 1, 'tolerance + drift': 1 + totp.MAX_DRIFT}
AUTHENTICATORS = 5
GOAL = 2
MATCH = 'totp.py match'
ONE = 'decrypt a set of 1, verify'
FIVE = f'decrypt a set of {AUTHENTICATORS}, verify'


def in_turns(functions, calls):
    "Return the microseconds of a call of each function, by run."
    times = {name: [] for name in functions}
    gc.collect()
    for _ in range(RUNS):
        for name, function in functions.items():
            started = time.perf_counter()
            for _ in range(calls):
                function()
            seconds = time.perf_counter() - started
            times[name].append(seconds / calls * 1e6)
    return times


def sealed_set(user, count):
    "Return the stored secrets of a user with this many authenticators."
    secrets = {1: user.secret}
    for i in range(2, count + 1):
        # The other authenticators need keys, but no user
        secrets[i] = dataclasses.replace(user.secret, key=bytes([i] * 20))
    record = Pool().get('res.user')(user.id)
    return record._seal_totp_secrets(1, secrets)


def codes():
    """Compare totp.py with other implementations.

    Return a dictionary for each measured function.
    """
    user = tools.User(1, 'user1', b'12345678901234567890')
    code = user.code_at(NOW // tools.PERIOD)
    wrong = str((int(code) + 1) % 10 ** 6).zfill(6)
    secret = user.secret
    one, five = (sealed_set(user, n) for n in [1, AUTHENTICATORS])
    keys = config.get('authentication_totp', 'encryption_keys')
    config.set('authentication_totp', 'encryption_keys', '')
    clear = sealed_set(user, 1)
    config.set('authentication_totp', 'encryption_keys', keys)
    unseal = Pool().get('res.user').unseal_totp_secrets
    other = TOTP(user.key, format='raw')
    third = pyotp.TOTP(base64.b32encode(user.key).decode())
    counters = [
        struct.pack('>Q', NOW // tools.PERIOD + i) for i in range(-1, 2)]

    def passlib(code, window):
        "Match the code as passlib does."
        try:
            other.match(code, NOW, window=window * tools.PERIOD)
        except TokenError:
            pass

    def new_passlib(code, window):
        "Create the object of passlib and match the code."
        try:
            TOTP(user.key, format='raw').match(
                code, NOW, window=window * tools.PERIOD)
        except TokenError:
            pass

    def own(stored, code, window):
        "Decrypt the stored secrets and verify the code."
        secrets, _ = unseal(user.id, stored, 1)
        totp.verify(
            [(secret, totp.State()) for secret in secrets.values()], code, NOW,
            window)

    rows = []
    for kind, value in [('right', code), ('wrong', wrong)]:
        for name, window in WINDOWS.items():
            times = in_turns({
                    'passlib': lambda v=value, w=window: passlib(v, w),
                    'new passlib': lambda v=value, w=window: new_passlib(v, w),
                    'match': lambda v=value, w=window: secret.match(v, NOW, w),
                    'clear': lambda v=value, w=window: own(clear, v, w),
                    'one': lambda v=value, w=window: own(one, v, w),
                    'five': lambda v=value, w=window: own(five, v, w),
                    'pyotp': lambda v=value, w=window: third.verify(
                        v, for_time=NOW, valid_window=w),
                    'hmac': lambda: [
                        hmac.digest(user.key, counter, 'sha1')
                        for counter in counters],
                    }, tools.scaled(CALLS))
            ratios = {
                key: statistics.median(
                    a / b for a, b in zip(
                        values, times['passlib'], strict=True))
                for key, values in times.items()}
            for key, text in [
                    ('passlib', 'passlib TOTP.match'),
                    ('new passlib', 'passlib TOTP(…).match'),
                    ('match', MATCH),
                    ('clear', 'read an unencrypted set of 1, verify'),
                    ('one', ONE),
                    ('five', FIVE),
                    ('pyotp', 'pyotp TOTP.verify'),
                    ('hmac', 'three hmac.digest')]:
                rows.append({
                        'code': kind,
                        'window': f'{name} (±{window})',
                        'measured': text,
                        'us_by_run': times[key],
                        'by_passlib_match': ratios[key],
                        })
    return rows


@contextmanager
def statements():
    "Collect the SQL statements that run in this context in a list."
    with Transaction().start(DATABASE, 0) as transaction:
        Cursor = type(transaction.connection.cursor())
    execute = Cursor.execute
    result = []

    def counted(cursor, *args, **kwargs):
        "Record the statement and execute it."
        # Empty statements only test the connection
        if query := str(args[0]).strip():
            result.append(query)
        return execute(cursor, *args, **kwargs)
    with patch.object(Cursor, 'execute', counted):
        yield result


def kinds(queries):
    "Return how many statements read and how many write."
    reads = sum(
        q.lstrip('( ').startswith(('SELECT', 'WITH')) for q in queries)
    return [reads, len(queries) - reads]


def count_statements(users, now):
    """Return the reads and writes of logins, and the statements of one.

    users: the users by the number of their authenticators
    """
    counts = {}
    for method in ['password', 'totp', 'password+totp']:
        tools.set_config('session', 'authentications', method)
        for number, user in users.items():
            # The first login fills the caches
            for _ in range(2):
                now[0] += tools.PERIOD
                parameters = {
                    'password': tools.PASSWORD, 'totp_code': user.code(now[0])}
                with statements() as queries:
                    security.login(
                        DATABASE, user.login, parameters, cache=False)
            counts[method, number] = kinds(queries)
    return counts, [' '.join(query.split()) for query in queries]


def steps(user, now, profiler=None):
    "Return the seconds of each of many steps, without and with the commit."
    times = []
    for _ in range(tools.scaled(STEPS)):
        now[0] += tools.PERIOD
        code = user.code(now[0])
        with Transaction().start(DATABASE, 0) as transaction:
            # The time for connection and snapshot belongs to core
            transaction.connection.cursor().execute('SELECT 1')
            if profiler:
                profiler.enable()
            started = time.perf_counter()
            tools.step(user, code)
            done = time.perf_counter()
            if profiler:
                profiler.disable()
            transaction.commit()
            times.append((done - started, time.perf_counter() - started))
    return times


def steps_in_turns(users, now):
    """Return the milliseconds of a step of each user, without and with its
    commit.
    """
    times = {number: [] for number in users}
    for _ in range(ROUNDS):
        for number, user in users.items():
            times[number] += steps(user, now)
    return {
        number: [
            statistics.median(column) * 1e3
            for column in zip(*values, strict=True)]
        for number, values in times.items()}


def profile(user, now):
    "Return the lines of a profile of the steps of the user."
    profiler = cProfile.Profile()
    count = len(steps(user, now, profiler))
    stats = pstats.Stats(profiler)
    # The profiler slows calls down
    lines = [
        f'{stats.total_tt / count * 1e6:.0f} µs under the profiler',
        '   calls   own µs  with calls µs  function']
    entries = sorted(
        stats.stats.items(), key=lambda item: item[1][2], reverse=True)
    for (path, line, name), (_, calls, own, total, _) in entries[:TOP]:
        place = '/'.join(Path(path).parts[-2:])
        lines.append(
            f'{calls / count:8.1f} {own / count * 1e6:8.1f} '
            f'{total / count * 1e6:14.1f}  {name} ({place}:{line})')
    return lines


def count_text(number):
    "Return the number of authenticators as text."
    return f"{number} authenticator{'s' if number > 1 else ''}"


def measure():
    "Return the figures and the data of the check of the code."
    tools.new_database(DATABASE)
    one, five = tools.make_users(DATABASE, 2)
    users = {1: one, AUTHENTICATORS: five}
    now = [NOW]
    tools.add_authenticators(DATABASE, five, AUTHENTICATORS, now)
    with Transaction().start(DATABASE, 0):
        rows = codes()
    with patch.object(clock, 'now', lambda: now[0]):
        counts, queries = count_statements(users, now)
        steps_in_turns(users, now)
        times = steps_in_turns(users, now)
        profiles = {
            number: profile(user, now) for number, user in users.items()}

    def us(measured):
        "Return the microseconds for a right code within the tolerance."
        return next(
            statistics.median(row['us_by_run'])
            for row in rows if row['measured'] == measured)
    differences = {
        number: [a - b for a, b in zip(
                counts['password+totp', number], counts['password', number],
                strict=True)]
        for number in users}
    figures = [
        *(figure(
                f'statements that {verb}, {count_text(number)}',
                differences[number][i], 0, 1)
            for number in users
            for i, verb in enumerate(['read', 'write'])),
        *(figure(
                f'check and commit, {count_text(number)}, ms', with_commit)
            for number, (_, with_commit) in times.items()),
        figure(f'{MATCH}, µs', us(MATCH), 1),
        figure(f'{MATCH} / passlib, right and wrong codes', [
                row['by_passlib_match'] for row in rows
                if row['measured'] == MATCH], 2, GOAL),
        figure(f'{ONE}, µs', us(ONE), 0),
        figure(f'{FIVE}, µs', us(FIVE), 0),
        ]
    return figures, {
        'calls of a run': tools.scaled(CALLS),
        'codes': rows,
        'reads and writes of a login': {
            f'{method}, {count_text(number)}': count
            for (method, number), count in counts.items()},
        f'statements of password+totp, {AUTHENTICATORS} authenticators':
            queries,
        'steps': {
            count_text(number): {
                'ms_without_and_with_commit': times[number],
                'profile': lines}
            for number, lines in profiles.items()},
        }
