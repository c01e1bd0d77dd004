# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Honest users who log in during an attack

The guesses come from many addresses, over a bounded number of connections,
from a process on the same machine, which takes its part of the CPU. With
password+totp, an attacker who guesses codes knows the password, and argon2
limits the rate; with totp+password the code comes first. An attack begins
either without counted failures, or in the state that it leads to: the attacked
users have to wait, and core has counted the attempts that the module reports.
For comparison, the attacks without the module show how core asks for the
password or refuses a wrong one. The value is the p95 of the honest logins
during the attack, divided by their p95 alone.
"""

import concurrent.futures
import multiprocessing
import random
import threading
import time
from collections import Counter, defaultdict

from benchmarks import tools
from benchmarks.results import figure
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'attack'
HONEST = 20
# Each honest login needs a user who has not logged in within the time step
USERS = 2000
ATTACKED = 1000
CONNECTIONS = 32
WORKERS = 2
QUIET_SECONDS = 2
SECONDS = 5
INTERVAL = 4
GOAL = 1.5
NOTHING, WRONG, WRONG_CODE = 'nothing', 'wrong password, code', 'wrong code'
SENT = {
    NOTHING: {},
    WRONG: {'password': 'wrong', 'totp_code': '000000'},
    WRONG_CODE: {'password': tools.PASSWORD, 'totp_code': '000000'},
    }
# The authentications, the number of attacked users, what is sent, whether the
# users already have to wait, and the number of guesses a second
ATTACKS = [
    ('password', 1, NOTHING, False, 50),
    ('password', 1, NOTHING, False, 500),
    ('password', ATTACKED, WRONG, False, 500),
    ('password+totp', 1, WRONG_CODE, False, 500),
    ('password+totp', ATTACKED, WRONG_CODE, False, 500),
    ('password+totp', 1, WRONG_CODE, True, 2),
    ('password+totp', 1, WRONG_CODE, True, 500),
    ('password+totp', ATTACKED, WRONG_CODE, True, 500),
    ('totp+password', 1, WRONG, False, 500),
    ('totp+password', ATTACKED, WRONG, False, 500),
    ('totp+password', ATTACKED, WRONG, True, 50),
    ('totp+password', 1, WRONG, True, 500),
    ('totp+password', ATTACKED, WRONG, True, 500),
    ]
# The attempts that core has counted when the module or core starts to refuse
ATTEMPTS = {'password+totp': 3, 'totp+password': 6}
COUNTED = [
    'res_user_login_attempt', 'res_user_totp_event', 'ir_queue']


class Flood:
    "A rate of guesses for some seconds, as far as the server is fast enough"

    def __init__(self, port, logins, parameters, rate, seconds):
        self.port = port
        self.logins = logins
        self.parameters = parameters
        self.rate = rate
        self.calls = rate * seconds
        self.lock = threading.Lock()
        self.next = 0
        self.answers = Counter()

    def run(self):
        "Return the number of answers of each kind, and the seconds it took."
        self.started = time.monotonic()
        self.end = self.started + self.calls / self.rate
        tools.in_threads(tools.scaled(CONNECTIONS), self.connection)
        return self.answers, time.monotonic() - self.started

    def connection(self, i):
        "Guess until the flood is over."
        while time.monotonic() < self.end:
            with self.lock:
                number = self.next
                self.next += 1
            if number >= self.calls:
                break
            due = self.started + number / self.rate
            time.sleep(max(0, due - time.monotonic()))
            address = '.'.join(str(random.randint(1, 254)) for _ in range(4))
            status, answer = tools.post(
                self.port, f'{DATABASE}/', 'common.db.login',
                self.logins[number % len(self.logins)], self.parameters, 'en',
                address=address)
            with self.lock:
                self.answers[status] += 1


def flood(*args):
    "Run a flood in a process of its own."
    return Flood(*args).run()


def prepare(attacked, authentications, waiting):
    "Forget failures and attempts, or count those that make the users wait."
    pool = Pool(DATABASE)
    with Transaction().start(DATABASE, 0) as transaction:
        Guess = pool.get('res.user.totp_guess')
        LoginAttempt = pool.get('res.user.login.attempt')
        cursor = transaction.connection.cursor()
        for name in COUNTED:
            cursor.execute(f'DELETE FROM {name}')
        ids = [u.id for u in attacked]
        Guess.unlock(ids)
        Guess.clean()
        if waiting:
            guess = Guess.__table__()
            cursor.execute(*guess.update(
                    [guess.failures, guess.consecutive, guess.failed,
                        guess.wait],
                    [20, 20, time.time(), 3600],
                    where=guess.user.in_(ids)))
            LoginAttempt.create([{
                        'login': user.login,
                        } for user in attacked
                    for _ in range(ATTEMPTS[authentications])])
        if tools.POSTGRESQL:
            # Report these writes now, so that the attack does not count them
            cursor.execute('SELECT pg_stat_force_next_flush()')


class Phase:
    "Honest logins, first alone and then during an attack"

    def __init__(self, honest, executor):
        self.honest = honest
        self.executor = executor

    def log_in(self, seconds):
        "Return the durations of the honest logins within this many seconds."
        times = []
        started = time.perf_counter()

        def log_in(i):
            "Log in at regular intervals."
            due = i * INTERVAL / HONEST
            while due < seconds:
                time.sleep(max(0, started + due - time.perf_counter()))
                times.append(tools.log_in(
                        self.port, DATABASE, self.honest.pop(),
                        address=f'198.51.100.{i + 1}'))
                due += INTERVAL
        tools.in_threads(HONEST, log_in)
        return times

    def run(self, authentications, *attack):
        """Return a dictionary of the results.

        attack: the logins, what is sent and the number of guesses a second
        """
        with tools.serve(
                DATABASE, authentications, WORKERS) as (self.port, process):
            tools.in_threads(
                2 * WORKERS, lambda i: tools.post(
                    self.port, f'{DATABASE}/', 'common.db.login', '', {}))
            quiet = self.log_in(tools.scaled(QUIET_SECONDS))
            before = database_statistics()
            cpu = tools.cpu_seconds(process)
            started = time.perf_counter()
            length = tools.scaled(SECONDS)
            guesses = self.executor.submit(flood, self.port, *attack, length)
            times = self.log_in(length)
            answers, seconds = guesses.result()
            cpu = tools.cpu_seconds(process) - cpu
            elapsed = time.perf_counter() - started
        # PostgreSQL has all statistics only after the server has ended
        after = database_statistics()
        return {
            'quiet': [t for t in quiet if t is not None],
            'times': [t for t in times if t is not None],
            'refused': times.count(None) + quiet.count(None),
            'rate': answers.total() / seconds,
            'answers': dict(sorted(answers.items())),
            'cpu': cpu / elapsed,
            'database': [
                (a - b) / elapsed for a, b in zip(after, before, strict=True)],
            'rows': dict(zip(
                    COUNTED, tools.count_rows(DATABASE, *COUNTED),
                    strict=True)),
            }


def database_statistics():
    """Return CPU seconds, commits and rows written of PostgreSQL.

    Return an empty list for SQLite, which is part of the server process.
    """
    if not tools.POSTGRESQL:
        return []
    numbers, = tools.execute_server(
        "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted "
        f"FROM pg_stat_database WHERE datname = '{DATABASE}'")
    return [tools.cpu_seconds(tools.database_process()), *numbers]


def measure():
    "Return the figures and the data of the attacks."
    tools.new_database(DATABASE)
    users = tools.make_users(DATABASE, USERS + ATTACKED)
    attacked, honest = users[:ATTACKED], users[ATTACKED:]
    results = []
    quiet = defaultdict(list)
    with concurrent.futures.ProcessPoolExecutor(
            1, multiprocessing.get_context('spawn')) as executor:
        # Start the process before the measurement
        executor.submit(time.time).result()
        phase = Phase(honest, executor)
        for authentications, count, sent, waiting, rate in ATTACKS:
            some = attacked[:count]
            prepare(some, authentications, waiting)
            result = phase.run(
                authentications, [u.login for u in some], SENT[sent], rate)
            results.append(result)
            quiet[authentications] += result['quiet']
    figures, rows = [], []
    for (authentications, count, sent, waiting, rate), result in zip(
            ATTACKS, results, strict=True):
        alone, during = (
            [tools.percentile(times, percent) * 1e3 for percent in [50, 95]]
            for times in [quiet[authentications], result['times']])
        figures.append(figure(
                f'{authentications}, {rate}/s, sent: {sent}, attacked: '
                f"{count:,}{', who have to wait' if waiting else ''}",
                during[1] / alone[1], 2, GOAL if waiting else None))
        row = {
            'authentications': authentications,
            'attacked': count,
            'waiting': waiting,
            'sent': sent,
            'guesses_per_second_wanted': rate,
            'guesses_per_second': result['rate'],
            'answers_by_status': result['answers'],
            'honest_logins': len(result['times']),
            'refused': result['refused'],
            'ms_p50_p95': during,
            'ms_p50_p95_alone': alone,
            'server_cpu': result['cpu'],
            'rows': result['rows'],
            }
        if result['database']:
            row['database_cpu_commits_and_rows_per_second'] = (
                result['database'])
        rows.append(row)
    return figures, {
        'workers': WORKERS,
        'threads of a worker': tools.THREADS,
        'honest users': HONEST,
        'seconds between two logins of a user': INTERVAL,
        'connections': CONNECTIONS,
        'attacks': rows,
        }
