# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Logins while the e-mails of 1,000 invited users leave

An administrator invites the users with one click, again and again until enough
honest users have logged in. The mail server is another process, which accepts
all e-mails at once. Server, worker, mail server and clients share the machine.
trytond-worker does not run with SQLite.
"""

import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from benchmarks import tools
from benchmarks.results import figure
from demo.demo import free_port
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'mail'
INVITED = 1000
HONEST = 300
WORKERS = 2
# The seconds between two logins
INTERVAL = 0.5
LOGINS = 40
GOAL = 1.2
WIZARD = 'wizard.res.user.invite_totp'


@contextmanager
def running(*command):
    "Run the command of Python's environment in this context."
    program, *arguments = command
    with tools.LOG.open('a') as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name(program), *arguments],
            stdout=log, stderr=log)
    try:
        yield
    finally:
        # A worker leaves its own processes behind
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()
        process.terminate()
        process.wait()


class Logins(threading.Thread):
    "Honest users who log in at regular intervals, each in its own thread"

    def __init__(self, port, users):
        super().__init__()
        self.port = port
        self.users = users
        # The time at which each login began, and its duration
        self.done = []
        self.stopped = threading.Event()

    def run(self):
        "Log in until the thread is told to stop."
        threads = []
        while not self.stopped.wait(INTERVAL):
            threads.append(threading.Thread(target=self.log_in))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def log_in(self):
        "Log the next user in."
        user = self.users.pop(0)
        self.users.append(user)
        started = time.monotonic()
        seconds = tools.log_in(self.port, DATABASE, user)
        self.done.append((started, seconds))

    def wait(self, count):
        "Return the durations of the next logins, this many at least."
        started = time.monotonic()
        while len(times := self.since(started)) < count:
            time.sleep(INTERVAL)
        return times

    def since(self, started):
        "Return the durations of the logins that began after this time."
        times = [seconds for time_, seconds in self.done if time_ >= started]
        assert None not in times, "a login was refused"
        return times

    def stop(self):
        "Stop and wait for the last login."
        self.stopped.set()
        self.join()


class Administrator:
    "The administrator who invites the users"

    def __init__(self, port, invited):
        self.port = port
        pool = Pool(DATABASE)
        with Transaction().start(DATABASE, 0):
            User = pool.get('res.user')
            admin, = User.search([('login', '=', 'admin')])
            # Before Tryton 8.2, a group holds the administrators
            if hasattr(User, 'administrator'):
                User.write([admin], {'administrator': True})
        # Tryton binds the session to the client's address
        request = {'remote_addr': '127.0.0.1'}
        with Transaction().start(
                DATABASE, admin.id, context={'_request': request}):
            key = pool.get('ir.session').new()
        session = b64encode(f'admin:{admin.id}:{key}'.encode()).decode()
        self.headers = {'Authorization': f'Session {session}'}
        ids = [user.id for user in invited]
        self.context = {
            'active_model': 'res.user', 'active_id': ids[0], 'active_ids': ids}

    def call(self, method, *params):
        "Call the method of the wizard and return its result."
        status, answer = tools.post(
            self.port, f'{DATABASE}/', f'{WIZARD}.{method}', *params,
            self.context, headers=self.headers)
        assert status == 200 and 'result' in answer, (status, answer)
        return answer['result']

    def invite(self):
        """Invite the users again, and wait until all e-mails have left.

        Return the seconds of the request, and those until the mail server had
        accepted all e-mails.
        """
        # Users get no second invitation within an hour
        tools.execute(DATABASE, 'DELETE FROM res_user_totp_event')
        session_id, state, _ = self.call('create')
        self.call('execute', session_id, {}, state)
        started = time.monotonic()
        self.call('execute', session_id, {state: {}}, 'send')
        answered = time.monotonic() - started
        while True:
            (told, left), = tools.execute(
                DATABASE, 'SELECT SUM(CASE WHEN told THEN 1 ELSE 0 END), '
                'COUNT(telling) FROM res_user_totp_event')
            if not left:
                break
            time.sleep(0.1)
        assert told == len(self.context['active_ids']), told
        return answered, time.monotonic() - started


def run(honest, invited, worker):
    """Return the measured times.

    worker: whether a worker sends the e-mails, not the server
    """
    port = free_port()
    tools.set_config('email', 'uri', f'smtp://127.0.0.1:{port}')
    tools.set_config('email', 'from', 'tryton@example.com')
    tools.set_config('queue', 'worker', str(worker))
    with ExitStack() as stack:
        stack.enter_context(running(
                'aiosmtpd', '--nosetuid', '--listen', f'127.0.0.1:{port}',
                '--class', 'aiosmtpd.handlers.Sink'))
        if worker:
            stack.enter_context(running(
                    'trytond-worker', '--database', DATABASE, '-n', '1'))
        port, _ = stack.enter_context(
            tools.serve(DATABASE, 'password+totp', WORKERS))
        administrator = Administrator(port, invited)
        # The first e-mails and logins load what the next ones need
        administrator.invite()
        logins = Logins(port, honest)
        logins.start()
        stack.callback(logins.stop)
        count = tools.scaled(LOGINS)
        logins.wait(4)
        alone = logins.wait(count)
        during, requests, seconds = [], [], []
        while len(during) < count:
            started = time.monotonic()
            answered, left = administrator.invite()
            requests.append(answered)
            seconds.append(left)
            during += logins.since(started)
    return {
        'request_seconds': requests,
        'seconds_until_all_left': seconds,
        'login_ms_alone': [t * 1e3 for t in alone],
        'login_ms_during': [t * 1e3 for t in during],
        }


def measure():
    "Return the figures and the data of the e-mails."
    tools.new_database(DATABASE)
    count = tools.scaled(INVITED)
    users = tools.make_users(DATABASE, HONEST + count)
    honest, invited = users[:HONEST], users[HONEST:]
    tools.forget_totp(DATABASE, invited)
    figures, data = [], {}
    for name, worker in [('without a worker', False), ('with a worker', True)]:
        if worker and not tools.POSTGRESQL:
            continue
        result = data[name] = run(honest, invited, worker)
        alone, during = (
            [tools.percentile(result[key], p) for p in [50, 95]]
            for key in ['login_ms_alone', 'login_ms_during'])
        figures += [
            figure(
                f'{name}: seconds until {count:,} e-mails left',
                statistics.median(result['seconds_until_all_left']), 1),
            figure(f'{name}: login alone, p50 ms', alone[0], 0),
            figure(f'{name}: login alone, p95 ms', alone[1], 0),
            figure(f'{name}: login meanwhile, p50 ms', during[0], 0),
            figure(f'{name}: login meanwhile, p95 ms', during[1], 0),
            figure(
                f'{name}: login meanwhile / alone, p50', during[0] / alone[0],
                2, GOAL),
            ]
    return figures, {
        'workers': WORKERS,
        'threads of a worker': tools.THREADS,
        'seconds between two logins': INTERVAL,
        **data}
