# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""A life of users on two servers that are killed now and then

Two servers, a worker and a scheduler share a PostgreSQL database. Users log
in, mistype, set up TOTP and change it, attackers guess, and an administrator
helps, while processes are killed, the mail server comes and goes, and the
encryption key is replaced.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from aiosmtpd.controller import Controller
from cryptography.fernet import Fernet

import trytond.config as config
from benchmarks import tools
from benchmarks.run import FOLDER
from benchmarks.soak_person import Person, World, attack
from demo.demo import ROOT, free_port
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'soak'
PERSONS = 80
ATTACKED = 6
THREADS = 10
GUESSES = 12
AUTHENTICATIONS = 'password+totp?no_totp_secret:totp_device'
TABLES = [
    'res_user', 'res_user_totp_counter', 'res_user_totp_guess',
    'res_user_totp_recovery_code', 'res_user_totp_event', 'res_user_device',
    'ir_session', 'ir_session_wizard', 'res_user_login_attempt', 'ir_queue']


class Process:
    "A process that is started again after it is killed"

    def __init__(self, name, folder, *command, **environ):
        self.name = name
        self.log = Path(folder, f'{name}.log')
        self.command = [
            Path(sys.executable).with_name(command[0]), '-d', DATABASE,
            *command[1:]]
        self.environ = {**os.environ, **environ}

    def start(self):
        with self.log.open('a') as log:
            self.process = subprocess.Popen(
                self.command, env=self.environ, stdout=log, stderr=log)

    def kill(self):
        "Kill the process and its children as a lack of memory does."
        process = psutil.Process(self.process.pid)
        # A worker replaces the processes that end before it
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()

    @property
    def memory(self):
        "Return the resident memory, in MiB."
        return psutil.Process(self.process.pid).memory_info().rss / 2 ** 20


class Mails:
    "A mail server that comes and goes"

    def __init__(self):
        self.port = free_port()
        self.subjects = Counter()
        self.controller = None

    async def handle_DATA(self, server, session, envelope):
        subject = re.search(
            rb'^Subject: (.*(?:\r\n[ \t].*)*)', envelope.content, re.M)[1]
        text = ' '.join(subject.decode().split())
        self.subjects[re.sub(' for .*', '', text)] += 1
        return '250 OK'

    def start(self):
        self.controller = Controller(
            self, hostname='127.0.0.1', port=self.port, ready_timeout=60)
        self.controller.start()

    def stop(self):
        if self.controller:
            self.controller.stop()
            self.controller = None


class Soak:

    def __init__(self, minutes, folder):
        self.seconds = minutes * 60
        self.keys = Path(config.get('authentication_totp', 'encryption_keys'))
        self.mails = Mails()
        environ = {
            'TRYTOND_DATABASE_NAMES': DATABASE,
            'TRYTOND_SESSION__AUTHENTICATIONS': AUTHENTICATIONS,
            'TRYTOND_WEB__NUM_PROXIES': '1',
            'TRYTOND_QUEUE__WORKER': 'true',
            'TRYTOND_EMAIL__URI': f'smtp://127.0.0.1:{self.mails.port}',
            'TRYTOND_EMAIL__FROM': 'tryton@example.com',
            }
        self.ports = [free_port(), free_port()]
        self.environ = environ
        self.servers = [
            Process(
                f'server{i}', folder, 'trytond', **environ,
                TRYTOND_WEB__LISTEN=f'127.0.0.1:{port}')
            for i, port in enumerate(self.ports)]
        self.worker = Process('worker', folder, 'trytond-worker', **environ)
        self.cron = Process('cron', folder, 'trytond-cron', **environ)
        self.processes = [*self.servers, self.worker, self.cron]
        self.world = World(DATABASE, self.ports)
        self.stopped = threading.Event()
        self.memory = []
        self.happened = []

    def note(self, text):
        "Note what happened, with its time."
        line = f'{time.strftime("%H:%M:%S")} {text}'
        self.happened.append(line)
        print(line, flush=True)

    def prepare(self):
        tools.new_database(DATABASE)
        with Transaction().start(DATABASE, 0):
            User = Pool().get('res.user')
            users = User.create([{
                        'name': f"User {i}",
                        'login': f'user{i}',
                        'password': tools.PASSWORD,
                        'email': f'user{i}@example.com',
                        } for i in range(PERSONS)])
            ids = [u.id for u in users]
        self.persons = [
            Person(self.world, i, id_, attacked=i < ATTACKED)
            for i, id_ in enumerate(ids)]
        for process in self.processes:
            process.start()
        self.mails.start()
        for port in self.ports:
            self.wait_for(port)

    def wait_for(self, port):
        deadline = time.monotonic() + 60
        while True:
            try:
                tools.post(port, '', 'common.server.version')
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(.2)

    def live(self):
        "Let persons act until the soak ends."
        while not self.stopped.is_set():
            person = random.choice(self.persons)
            if time.time() < person.sleeping or not person.lock.acquire(
                    blocking=False):
                continue
            try:
                person.act()
            except Exception as error:
                person.violate(f"the soak failed: {error!r}")
            finally:
                person.lock.release()
            self.stopped.wait(random.random())

    def attacks(self):
        "Attack some persons now and then."
        while not self.stopped.wait(random.uniform(10, 30)):
            person = random.choice(self.persons[:ATTACKED])
            if person.authenticators:
                attack(person, GUESSES)

    def chaos(self):
        "Kill processes and end connections now and then."
        # The second server lives to the end, so that its memory can be
        # measured
        victims = [self.servers[0], self.worker, self.cron, None]
        i = 0
        while not self.stopped.wait(self.seconds / 20):
            victim = victims[i % len(victims)]
            i += 1
            if victim:
                victim.kill()
                self.note(f"killed {victim.name}")
                self.stopped.wait(2)
                victim.start()
                if victim in self.servers:
                    self.wait_for(self.ports[0])
            else:
                rows = tools.execute_server(
                    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity '
                    f"WHERE datname = '{DATABASE}' "
                    'ORDER BY random() LIMIT 1')
                self.note(f"ended {len(rows)} database connection")

    def come_and_go(self):
        "Stop the mail server for a third of the time."
        while not self.stopped.wait(self.seconds / 15):
            self.mails.stop()
            self.note("stopped the mail server")
            self.stopped.wait(self.seconds / 30)
            self.mails.start()
            self.note("started the mail server")

    def rotate(self):
        "Replace the encryption key as the manual says."
        if self.stopped.wait(self.seconds * .4):
            return
        old = self.keys.read_text()
        new = Fernet.generate_key().decode()
        self.write_keys(f'{new}\n{old}')
        self.note("added a new encryption key")
        if self.stopped.wait(self.seconds * .05):
            return
        command = [
            Path(sys.executable).with_name('trytond_totp'), '-d', DATABASE,
            'reseal']
        environ = {**os.environ, **self.environ}
        # Kill the first try while it runs
        process = subprocess.Popen(command, env=environ)
        self.stopped.wait(3)
        process.kill()
        process.wait()
        self.note("killed reseal")
        result = subprocess.run(
            command, env=environ, capture_output=True, text=True)
        self.note(
            f"reseal ended with {result.returncode}: "
            f"{' '.join(f'{result.stdout} {result.stderr}'.split())}")
        if self.stopped.wait(self.seconds * .05):
            return
        self.write_keys(new)
        self.note("removed the old encryption key")

    def write_keys(self, text):
        path = self.keys.with_name(f'{self.keys.name}.new')
        path.touch(mode=0o600)
        path.write_text(text)
        path.replace(self.keys)

    def measure(self):
        """Measure the memory of the server that lives to the end.

        Only the lowest values tell whether it grows, because argon2 takes 64
        MiB for each login at the same time.
        """
        while not self.stopped.is_set():
            values = []
            end = time.monotonic() + self.seconds / 20
            while time.monotonic() < end and not self.stopped.wait(.5):
                values.append(self.servers[1].memory)
            if values:
                self.memory.append(min(values))

    def run(self):
        self.prepare()
        self.note("started")
        threads = [threading.Thread(target=f) for f in [
                *[self.live] * THREADS, self.attacks, self.chaos,
                self.come_and_go, self.rotate, self.measure]]
        for thread in threads:
            thread.start()
        time.sleep(self.seconds)
        self.stopped.set()
        for thread in threads:
            thread.join()
        self.note("checking")
        self.check()
        tools.in_threads(THREADS, self.check_persons)
        self.check_rows()
        for process in self.processes:
            process.kill()
        self.mails.stop()
        self.note("ended")

    def check(self):
        "Prepare the last check."
        self.mails.stop()
        self.mails.start()
        for person in self.persons:
            person.unlock()
        self.left = list(self.persons)

    def check_persons(self, _):
        "Check that exactly the authenticators of each person work."
        while self.left:
            person = self.left.pop()
            person.attacked = False
            if person.remembered is None:
                person.forget_device()
            for authenticator in person.authenticators:
                if not person.works(authenticator):
                    person.violate(
                        f"{authenticator.name} does not work at the end")
            # Three wrong codes would cause a delay
            for authenticator in person.dead[-2:]:
                if person.authenticators and person.works(authenticator):
                    person.violate(f"{authenticator.name} still works")

    def check_rows(self):
        "Check the rows of the persons."
        for person in self.persons:
            (secrets, authenticators, codes), = tools.execute(
                DATABASE,
                'SELECT CASE WHEN totp_secret IS NULL THEN 0 ELSE 1 END, '
                '(SELECT COUNT(*) FROM res_user_totp_counter c '
                'WHERE c."user" = u.id), '
                '(SELECT COUNT(*) FROM res_user_totp_recovery_code c '
                'WHERE c."user" = u.id) '
                f'FROM res_user u WHERE id = {person.id}')
            if authenticators != len(person.authenticators) or (
                    bool(secrets) != bool(authenticators)):
                person.violate(
                    f"{authenticators} rows of authenticators for "
                    f"{len(person.authenticators)}, {secrets} secrets")
            known = len(person.recovery)
            if not known <= codes <= known + person.unsure:
                person.violate(f"{codes} rows of recovery codes for {known}")
        for name, query in STRAY.items():
            (number,), = tools.execute(DATABASE, query)
            if number:
                self.world.violations.append(f"{number} {name}")

    def tracebacks(self):
        """Return how often each traceback is in the logs.

        The key is a tuple of the process, the innermost file, if possible of
        the module, and the error.
        """
        result = Counter()
        for process in self.processes:
            _, *blocks = re.split(
                r'^Traceback \(most recent call last\):\n',
                process.log.read_text(errors='replace'), flags=re.M)
            for block in blocks:
                lines = block.splitlines()
                end = next(
                    (i for i, line in enumerate(lines)
                        if line and not line.startswith(' ')), 0)
                files = re.findall(
                    '^  File "(.*?)"', '\n'.join(lines[:end]), re.M)
                own = [
                    file for file in files
                    if str(ROOT) in file and str(FOLDER) not in file]
                file = Path((own or files or ['?'])[-1])
                result[
                    process.name, '/'.join(file.parts[-2:]),
                    lines[end][:160]] += 1
        return result

    def log_lines(self):
        "Return how often each process has logged which kind of error."
        result = Counter()
        for process in self.processes:
            for line in process.log.read_text(errors='replace').splitlines():
                # The time, the level, the logger and the beginning of the line
                if match := re.search(r'\] (ERROR|CRITICAL) (.*)', line):
                    text = re.sub(r"\d+|'[^']*'", '…', match[2])
                    result[process.name, text[:80]] += 1
        return result

    def summary(self):
        "Return the summary as Markdown."
        world = self.world
        outcomes = {}
        for (name, outcome), number in world.counts.most_common():
            outcomes.setdefault(name, {})[outcome] = number
        accepted = world.accepted.values()
        return '\n'.join([
                f'{self.seconds / 60:.0f} minutes, {PERSONS} users, '
                f'{world.counts.total():,} actions, {len(accepted):,} codes '
                f'accepted, {sum(n > 1 for n in accepted)} of them twice\n',
                _table(['action', 'times', 'outcomes'], [
                        [name, sum(numbers.values()), ', '.join(
                                f'{number} {outcome}'
                                for outcome, number in numbers.items())]
                        for name, numbers in outcomes.items()]),
                _table(
                    ['table', 'rows'],
                    zip(TABLES, tools.count_rows(DATABASE, *TABLES),
                        strict=True)),
                'Lowest memory of the second server in each twentieth of the '
                'time, in MiB: '
                + ', '.join(f'{m:.0f}' for m in self.memory) + '\n',
                _table(
                    ['e-mail', 'sent'], self.mails.subjects.most_common()),
                _table(
                    ['process', 'file of the traceback', 'error', 'times'],
                    [[*key, n] for key, n in
                        self.tracebacks().most_common()]),
                _table(
                    ['process', 'line of the log', 'times'],
                    [[*key, n] for key, n in
                        self.log_lines().most_common()]),
                'What happened:\n', *(f'- {line}' for line in self.happened),
                f'\nViolations: {len(world.violations)}\n',
                *(f'- {line}' for line in world.violations)])


# What must not be in the database at the end. The user 0 has decoys.
STRAY = {
    'authenticators of users without a secret':
        'SELECT COUNT(*) FROM res_user_totp_counter c JOIN res_user u '
        'ON u.id = c."user" WHERE u.totp_secret IS NULL AND u.id > 0',
    'recovery codes of users without a secret':
        'SELECT COUNT(*) FROM res_user_totp_recovery_code c JOIN res_user u '
        'ON u.id = c."user" WHERE u.totp_secret IS NULL',
    'counts of wrong codes of nobody':
        'SELECT COUNT(*) FROM res_user_totp_guess g WHERE g."user" > 0 '
        'AND NOT EXISTS (SELECT 1 FROM res_user u WHERE u.id = g."user")',
    'users with counts of wrong codes of other than three kinds':
        'SELECT COUNT(*) FROM (SELECT "user" FROM res_user_totp_guess '
        'GROUP BY "user" HAVING COUNT(*) != 3) g',
    'devices of nobody':
        'SELECT COUNT(*) FROM res_user_device d '
        'WHERE d.login NOT IN (SELECT login FROM res_user)',
    'events whose e-mail no task retries':
        'SELECT COUNT(*) FROM res_user_totp_event e '
        'WHERE e.telling < NOW() AT TIME ZONE \'UTC\' '
        "- INTERVAL '10 minutes' AND NOT EXISTS (SELECT 1 FROM ir_queue q "
        'WHERE q.dequeued_at IS NULL)',
    'wizards that store what their pages showed':
        "SELECT COUNT(*) FROM ir_session_wizard WHERE data LIKE '%secret_%'",
    }


def _table(heads, rows):
    "Return the table as Markdown."
    lines = [heads, ['---'] * len(heads), *rows]
    return ''.join(
        '| ' + ' | '.join(map(str, line)) + ' |\n' for line in lines)


def main(minutes):
    tools.start()
    folder = tools.LOG.with_name('soak')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    soak = Soak(float(minutes), folder)
    try:
        soak.run()
    finally:
        soak.stopped.set()
        print(soak.summary(), flush=True)
        for process in soak.processes:
            if hasattr(process, 'process') and (
                    process.process.poll() is None):
                process.kill()
    return int(bool(soak.world.violations))


if __name__ == '__main__':
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    # Do not wait for the threads that keep the connections
    os._exit(code)
