# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The TOTP step alone: microseconds, SQL statements and a profile

The code is that of the current time step. passlib tries the time steps of the
window from the first one on, so a wider window also slows a right code down.
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
from trytond import security
from trytond.modules.authentication_totp import clock, totp
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'step'
CALLS = 400
RUNS = 7
STEPS = 400
TOP = 25
NOW = 2_000_000_000
WINDOWS = {'tolerance': 1, 'tolerance + drift': 1 + totp.MAX_DRIFT}
AUTHENTICATORS = 5
GOAL = 2


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
    "Return the table that compares totp.py with other implementations."
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
            for key, text, goal in [
                    ('passlib', 'passlib TOTP.match', ''),
                    ('new passlib', 'passlib TOTP(…).match', ''),
                    ('match', 'totp.py match', f'≤ {GOAL}'),
                    ('clear', 'read an unencrypted set of 1, verify', ''),
                    ('one', 'decrypt a set of 1, verify', ''),
                    ('five', f'decrypt a set of {AUTHENTICATORS}, verify',
                        ''),
                    ('pyotp', 'pyotp TOTP.verify', ''),
                    ('hmac', 'three hmac.digest', '')]:
                rows.append([
                        kind, f'{name} (±{window})', text,
                        tools.spread(times[key], '{:.1f}'),
                        f'{ratios[key]:.2f}', goal])
    return tools.table([
            'code', 'window', 'measured', 'µs (lowest to highest run)',
            '/ passlib match', 'goal'], rows)


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
    "Return as text how many statements read and how many write."
    reads = sum(
        q.lstrip('( ').startswith(('SELECT', 'WITH')) for q in queries)
    return reads, len(queries) - reads


def count_statements(one, five, now):
    "Return the table of the numbers and the list of the statements."
    counts, listed = {}, {}
    several = f'{AUTHENTICATORS} authenticators'
    users = {
        'password': one, 'totp': one, 'password+totp': one,
        f'totp, {several}': five, f'password+totp, {several}': five}
    for name, user in users.items():
        tools.set_config(
            'session', 'authentications', name.partition(',')[0])
        # The first login fills the caches
        for _ in range(2):
            now[0] += tools.PERIOD
            parameters = {
                'password': tools.PASSWORD, 'totp_code': user.code(now[0])}
            with statements() as queries:
                security.login(DATABASE, user.login, parameters, cache=False)
        counts[name], listed[name] = kinds(queries), queries
    rows = [[name, *numbers, ''] for name, numbers in counts.items()]
    for name in ['password+totp', f'password+totp, {several}']:
        difference = [
            a - b for a, b in zip(
                counts[name], counts['password'], strict=True)]
        rows.append([
                f'the step: {name} minus password', *difference,
                '≤ 1 read, ≤ 1 write'])
    text = '\n'.join(
        f'{i}. `{" ".join(query.split())}`'
        for i, query in enumerate(listed['password+totp'], 1))
    return (
        tools.table(['login', 'reads', 'writes', 'goal'], rows)
        + f'\nThe statements of `password+totp`:\n\n{text}\n')


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


def profile(user, authenticators, now):
    """Return the table of the functions in which a step spends its time.

    authenticators: a text about the authenticators of the user
    """
    steps(user, now)
    times = [
        statistics.median(values) * 1e6
        for values in zip(*steps(user, now), strict=True)]
    profiler = cProfile.Profile()
    count = len(steps(user, now, profiler))
    stats = pstats.Stats(profiler)
    rows = []
    entries = sorted(
        stats.stats.items(), key=lambda item: item[1][2], reverse=True)
    for (path, line, name), (_, calls, own, total, _) in entries[:TOP]:
        place = '/'.join(Path(path).parts[-2:]) if line else ''
        rows.append([
                f'`{name}`', f'{place}:{line}' if place else 'built in',
                f'{calls / count:.1f}', f'{own / count * 1e6:.1f}',
                f'{total / count * 1e6:.1f}'])
    total = stats.total_tt / count * 1e6
    return (
        'A step (`Counter.verify`, `Counter.consume`) with '
        f'{authenticators} takes '
        f'{times[0]:.0f} µs, or {times[1]:.0f} µs with its commit. Under the '
        f'profiler, which slows calls down, it takes {total:.0f} µs:\n\n'
        + tools.table([
                'function', 'where', 'calls', 'own µs', 'cumulative µs'],
            rows))


def measure():
    "Return the tables of the TOTP step."
    tools.new_database(DATABASE)
    one, five = tools.make_users(DATABASE, 2)
    now = [NOW]
    tools.add_authenticators(DATABASE, five, AUTHENTICATORS, now)
    with Transaction().start(DATABASE, 0):
        table = codes()
    with patch.object(clock, 'now', lambda: now[0]):
        return [
            f'Medians of {RUNS} runs of {tools.scaled(CALLS)} calls.\n',
            table, count_statements(one, five, now),
            profile(one, 'one authenticator', now),
            profile(five, f'{AUTHENTICATORS} authenticators', now)]
