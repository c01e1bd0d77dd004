# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""What grows with the number of users and of their logins

The check of a code takes the same time among 10 users and among a million, and
for one authenticator and for five, except for the decryption and the match of
the further ones. Each user has an encrypted secret with one authenticator,
three counts of wrong codes, one recovery code and one event; ten recovery
codes take ten times the space of one. Nothing grows with the logins.
"""

import gc
import statistics
import time
from unittest.mock import patch

from benchmarks import tools
from benchmarks.results import figure
from trytond import security
from trytond.modules.authentication_totp import clock
from trytond.transaction import Transaction

USERS = [10, 10_000, 1_000_000]
LOGINS_OF_A_USER = [1, 100, 10_000]
ACTIVE = 10
LOGINS = 15
STEPS = 300
AUTHENTICATORS = range(1, 6)
MARGIN = 0.2
SPACE_GOAL = [0.9, 1.1]
LAST = 100
TABLES = [
    'res_user_totp_counter', 'res_user_totp_guess',
    'res_user_totp_recovery_code', 'res_user_totp_event']
METHODS = ['password', 'password+totp']


class Size:
    "A database with a number of users"

    def __init__(self, number):
        self.number = number
        self.name = f'growth{number}'
        tools.new_database(self.name)
        self.empty = self.sizes()
        self.users = tools.make_users(self.name, number, ACTIVE)
        self.times = {name: [] for name in ['step', *METHODS]}
        self.next = 0

    def sizes(self):
        "Return the bytes of each table, with its indexes."
        if tools.POSTGRESQL:
            return [
                tools.execute(
                    self.name, f"SELECT pg_total_relation_size('{table}')"
                    )[0][0] for table in TABLES]
        return [
            tools.execute(
                self.name,
                "SELECT SUM(pgsize) FROM dbstat WHERE name IN "
                "(SELECT name FROM sqlite_master "
                f"WHERE tbl_name = '{table}')")[0][0] for table in TABLES]

    def next_user(self):
        "Return the next user, in turns."
        self.next += 1
        return self.users[self.next % len(self.users)]

    def step(self, now):
        "Time the TOTP step of a login with its commit, without the password."
        user = self.next_user()
        code = user.code(now)
        with Transaction().start(self.name, 0) as transaction:
            started = time.perf_counter()
            tools.step(user, code)
            transaction.commit()
        self.times['step'].append(time.perf_counter() - started)

    def log_in(self, method, now):
        "Time a login."
        user = self.next_user()
        parameters = {
            'password': tools.PASSWORD, 'totp_code': user.code(now)}
        started = time.perf_counter()
        assert security.login(self.name, user.login, parameters)
        self.times[method].append(time.perf_counter() - started)


def in_turns(sizes, now):
    "Time the steps and the logins of all sizes in turns."
    gc.collect()
    for _ in range(tools.scaled(STEPS)):
        now[0] += tools.PERIOD
        for size in sizes:
            size.step(now[0])
    for _ in range(tools.scaled(LOGINS)):
        for method in METHODS:
            now[0] += tools.PERIOD
            tools.set_config('session', 'authentications', method)
            for size in sizes:
                size.log_in(method, now[0])


def in_ms(times):
    "Return the medians in milliseconds."
    return {
        key: statistics.median(values) * 1e3 for key, values in times.items()}


def bytes_of_users(size):
    "Return the bytes of each table for each user, without the empty table."
    return {
        name: (total - empty) / size.number
        for name, total, empty in zip(
            TABLES, size.sizes(), size.empty, strict=True)}


def by_authenticators(size, now):
    "Return the milliseconds of a step by the number of authenticators."
    users = dict(zip(AUTHENTICATORS, size.users, strict=False))
    for number, user in users.items():
        tools.add_authenticators(size.name, user, number, now)
    times = {number: [] for number in users}
    gc.collect()
    for _ in range(tools.scaled(STEPS)):
        now[0] += tools.PERIOD
        for number, user in users.items():
            size.users = [user]
            size.times['step'].clear()
            size.step(now[0])
            times[number] += size.times['step']
    return in_ms(times)


def by_logins(size, now):
    """Return the milliseconds of a step, and the rows and bytes of the tables,
    by the number of earlier logins of one user.
    """
    results = {}
    users, size.users = size.users, size.users[:1]
    done = 0
    for number in LOGINS_OF_A_USER:
        number = tools.scaled(number)
        size.times['step'].clear()
        while done < number:
            now[0] += tools.PERIOD
            size.step(now[0])
            done += 1
        results[number] = {
            'step_ms': statistics.median(size.times['step'][-LAST:]) * 1e3,
            'rows': tools.count_rows(size.name, *TABLES),
            'bytes': size.sizes(),
            }
    size.users = users
    return results


def measure():
    "Return the figures and the data of what grows."
    now = [2_000_000_000]
    with patch.object(clock, 'now', lambda: now[0]):
        sizes = [
            Size(max(10, tools.scaled(number))) for number in USERS]
        in_turns(sizes, now)
        times = {size.number: in_ms(size.times) for size in sizes}
        space = {size.number: bytes_of_users(size) for size in sizes}
        # This counts rows, so it comes before the authenticators add some
        logins = by_logins(sizes[0], now)
        authenticators = by_authenticators(sizes[0], now)
    first, *others = [size.number for size in sizes]
    last = others[-1]
    rows = [sum(result['rows']) for result in logins.values()]
    figures = [
        figure(f'check among {first} users, ms', times[first]['step']),
        *(figure(
                f'check among {number:,} users, ms more than among {first}',
                times[number]['step'] - times[first]['step'], 2, MARGIN)
            for number in others),
        *(figure(f'{method} among {number:,} users, ms', times[number][method])
            for method in METHODS for number in times),
        *(figure(
                f'check with {number} authenticators, ms more than with 1',
                authenticators[number] - authenticators[1], 2, MARGIN)
            for number in AUTHENTICATORS if number > 1),
        *(figure(
                f'last {LAST} checks, after {number:,} logins, ms',
                result['step_ms'])
            for number, result in logins.items()),
        figure('rows that logins add', max(rows) - min(rows), 0, 0),
        *(figure(
                f'bytes of a user in {name}', space[last][name], 0)
            for name in TABLES),
        figure(
            f'bytes of a user, {last:,} users / {others[0]:,} users',
            sum(space[last].values()) / sum(space[others[0]].values()), 2,
            SPACE_GOAL),
        ]
    return figures, {
        'steps': tools.scaled(STEPS),
        'logins': tools.scaled(LOGINS),
        'median_ms_by_users': times,
        'bytes_of_a_user_by_users': space,
        'by_logins_of_one_user': logins,
        'step_ms_by_authenticators': authenticators,
        }
