# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Logins by HTTP: the number a second, and the duration of each

Each login uses a new connection, another user and a fresh code. The clients
run on the same machine and take their part of the CPU. argon2 limits the
number of logins; the cheap hash shows the rest. The table shows 2 workers and
16 clients.
"""

import collections
import statistics
import threading
import time
from contextlib import ExitStack

from benchmarks import tools
from benchmarks.results import figure
from tests.cheap_hash import CHEAP_HASH

DATABASE = 'throughput'
USERS = 6000
WORKERS = [1, 2, 4]
CLIENTS = [1, 4, 16, 64]
# The workers and the clients that RESULTS.md shows
SHOWN = [2, 16]
ARGON2, CHEAP = 'argon2', 'cheap hash'
METHODS = ['password', 'password+totp']
SECONDS = 1
# Only one round with argon2, where 64 clients wait for each other for long
ROUNDS = 2


class Clients:
    "Clients that log in repeatedly, with each user at most once a time step"

    def __init__(self, users):
        self.users = collections.deque(users)
        self.lock = threading.Lock()

    def next_user(self):
        "Return the user who has not logged in for the longest time."
        with self.lock:
            user = self.users.popleft()
            self.users.append(user)
        assert user.step < time.time() // tools.PERIOD, "too few users"
        return user

    def run(self, port, count, seconds):
        """Let this many clients log in until the seconds are over.

        Return the duration of each login, the number of refused logins and the
        number of logins a second.
        """
        times = []
        started = time.perf_counter()

        def log_in(i):
            "Log in repeatedly."
            # Log in at least once, as a busy machine may start a thread late
            while True:
                times.append(
                    tools.log_in(port, DATABASE, self.next_user()))
                if time.perf_counter() - started >= seconds:
                    break
        tools.in_threads(count, log_in)
        rate = len(times) / (time.perf_counter() - started)
        done = [t for t in times if t is not None]
        return done, len(times) - len(done), rate


def run(clients, cheap):
    "Return the results, with the cheap hash or that of core."
    rows = []
    seconds = 0.1 if tools.QUICK else SECONDS
    rounds = ROUNDS if cheap else 1
    for workers in WORKERS:
        with ExitStack() as stack:
            ports = {
                method: stack.enter_context(tools.serve(
                        DATABASE, method, workers, cheap=cheap))[0]
                for method in METHODS}
            for port in ports.values():
                clients.run(port, 4 * workers, 0.1)
            for count in CLIENTS:
                times = {method: [] for method in METHODS}
                rates = {method: [] for method in METHODS}
                refused = dict.fromkeys(METHODS, 0)
                for _ in range(rounds):
                    for method, port in ports.items():
                        done, failures, rate = clients.run(
                            port, count, seconds / rounds)
                        times[method] += done
                        refused[method] += failures
                        rates[method].append(rate)
                rates = {
                    method: statistics.mean(values)
                    for method, values in rates.items()}
                for method in METHODS:
                    rows.append({
                            'hash': CHEAP if cheap else ARGON2,
                            'workers': workers,
                            'clients': count,
                            'authentications': method,
                            'logins': len(times[method]),
                            'refused': refused[method],
                            'logins_per_second': rates[method],
                            'by_password': rates[method] / rates['password'],
                            'ms_p50_p95_p99': [
                                tools.percentile(times[method], p) * 1e3
                                for p in [50, 95, 99]],
                            })
    return rows


def measure():
    "Return the figures and the data of the throughput."
    tools.new_database(DATABASE)
    clients = Clients(tools.make_users(DATABASE, USERS))
    rows = run(clients, cheap=False)
    tools.set_passwords(DATABASE, CHEAP_HASH)
    rows += run(clients, cheap=True)
    figures = []
    for hash_ in [ARGON2, CHEAP]:
        password, totp = [
            next(row for row in rows if [
                    row['hash'], row['workers'], row['clients'],
                    row['authentications']] == [hash_, *SHOWN, method])
            for method in METHODS]
        figures += [
            figure(
                f'{hash_}: password, logins/s',
                password['logins_per_second'], 1),
            figure(
                f'{hash_}: password+totp, logins/s',
                totp['logins_per_second'], 1),
            figure(f'{hash_}: password+totp / password', totp['by_password']),
            figure(
                f'{hash_}: password+totp, p95 ms',
                totp['ms_p50_p95_p99'][1], 0)]
    figures.append(figure(
            'refused logins', sum(row['refused'] for row in rows), 0, 0))
    return figures, {'threads of a worker': tools.THREADS, 'runs': rows}
