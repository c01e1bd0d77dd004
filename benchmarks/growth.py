# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""What grows with the number of users and of their logins

Each size is a database of its own; the measurements alternate between them.
Each user has an encrypted secret with one authenticator, three counts of wrong
codes, one recovery code and one event; ten recovery codes take ten times the
space of one. Most secrets only have the right length.
"""

import gc
import statistics
import time
from unittest.mock import patch

from benchmarks import tools
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


def users_table(sizes):
    "Return the table by the number of users."
    rows = []
    first = sizes[0]
    for size in sizes:
        row = [f'{size.number:,}']
        for name, times in size.times.items():
            row += [
                tools.milliseconds(statistics.median(times)),
                '{:.2f}'.format(
                    statistics.median(times)
                    / statistics.median(first.times[name]))]
        rows.append([*row, 'flat'])
    return tools.table([
            'users', 'step ms', '/ 10', 'password ms', '/ 10',
            'password+totp ms', '/ 10', 'goal'], rows)


def sizes_table(sizes):
    "Return the table of rows and bytes."
    rows = []
    for i, name in enumerate(TABLES):
        for size in sizes:
            count, = tools.count_rows(size.name, name)
            total = size.sizes()[i]
            rows.append([
                    name, f'{size.number:,}', f'{count:,}', f'{total:,}',
                    f'{(total - size.empty[i]) / size.number:.0f}',
                    'constant'])
    return tools.table([
            'table', 'users', 'rows', 'bytes with indexes',
            'bytes per user above empty', 'goal'], rows)


def authenticators_table(size, now):
    "Return the table by the number of authenticators of the user."
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
    medians = {
        number: statistics.median(values) for number, values in times.items()}
    return tools.table(
        ['authenticators', 'step ms', 'ms above 1', 'goal'], [
            [number, tools.milliseconds(median),
                tools.milliseconds(median - medians[1]), f'≤ {MARGIN}']
            for number, median in medians.items()])


def logins_table(size, now):
    "Return the table by the number of earlier logins of one user."
    rows = []
    users, size.users = size.users, size.users[:1]
    done = 0
    for number in LOGINS_OF_A_USER:
        number = tools.scaled(number)
        size.times['step'].clear()
        while done < number:
            now[0] += tools.PERIOD
            size.step(now[0])
            done += 1
        times = size.times['step'][-100:]
        counts = tools.count_rows(size.name, *TABLES)
        rows.append([
                f'{number:,}', tools.milliseconds(statistics.median(times)),
                *map('{:,}'.format, counts),
                *map('{:,}'.format, size.sizes()), 'flat'])
    size.users = users
    return tools.table([
            'logins of one user', 'step ms (last 100)',
            *(f'rows of {name}' for name in TABLES),
            *(f'bytes of {name}' for name in TABLES), 'goal'], rows)


def measure():
    "Return all tables of the topic."
    now = [2_000_000_000]
    with patch.object(clock, 'now', lambda: now[0]):
        sizes = [
            Size(max(10, tools.scaled(number))) for number in USERS]
        in_turns(sizes, now)
        tables = [users_table(sizes), sizes_table(sizes)]
        # logins_table counts rows, so it comes before the table that adds some
        tables.append(logins_table(sizes[0], now))
        tables.append(authenticators_table(sizes[0], now))
    return [
        f'Medians of {tools.scaled(STEPS)} steps with their commit, and '
        f'of {tools.scaled(LOGINS)} logins of each kind.\n', *tables]
