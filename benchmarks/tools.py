# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What all topics share: databases, users, servers and clients"

import base64
import dataclasses
import hashlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import psutil
import pyotp
from cryptography.fernet import Fernet

import trytond.config as config
from demo.demo import ROOT, free_port
from trytond import backend
from trytond.modules.authentication_totp import clock, settings, totp
from trytond.pool import Pool
from trytond.res.user import PASSWORD_HASH
from trytond.transaction import Transaction

LOG = ROOT / '.bench' / 'server.log'
QUICK = bool(os.environ.get('BENCH_QUICK'))
POSTGRESQL = backend.name == 'postgresql'
PASSWORD = 'correct horse'
# The database with only ir and res, and the one that others are copied from
BARE = 'bare'
TEMPLATE = 'template'
MODULES = ['authentication_totp', 'authentication_sms']
PERIOD = 30
THREADS = 16
TIMEOUT = 120


def scaled(number):
    "Return the number, or a small one for a quick test of the benchmarks."
    return max(1, number // 20) if QUICK else number


def start():
    "Create the encryption key and the databases to copy."
    LOG.unlink(missing_ok=True)
    _, path = tempfile.mkstemp(dir=config.get('database', 'path'))
    Path(path).write_bytes(Fernet.generate_key())
    set_config('authentication_totp', 'encryption_keys', path)
    # All requests come from this machine
    set_config('session', 'max_attempt_ip_network', str(10 ** 9))
    if POSTGRESQL:
        # The server of the tests runs without durable commits
        execute_server('ALTER SYSTEM SET fsync TO on')
        execute_server('SELECT pg_reload_conf()')
    create_database(BARE)
    admin(BARE, 'ir', 'res')
    create_database(TEMPLATE, BARE)
    admin(TEMPLATE, *MODULES)


def set_config(section, option, value):
    "Set the option in this process and in servers that start later."
    if not config.has_section(section):
        config.add_section(section)
    config.set(section, option, value)
    os.environ[f'TRYTOND_{section}__{option}'.upper()] = value


def execute_server(query):
    "Execute the statement on the server, outside of a transaction."
    with Transaction().start(None, 0, autocommit=True, close=True) as (
            transaction):
        cursor = transaction.connection.cursor()
        cursor.execute(query)
        return cursor.fetchall() if cursor.description else None


def admin(database, *modules):
    "Activate the modules in the database."
    with tempfile.NamedTemporaryFile('w') as file:
        file.write(PASSWORD)
        file.flush()
        subprocess.run([
                Path(sys.executable).with_name('trytond-admin'),
                '-d', database, '-u', *modules, '--activate-dependencies',
                '--email', 'admin@example.com'],
            check=True, env={**os.environ, 'TRYTONPASSFILE': file.name})


def create_database(name, template=None):
    "Create the database, empty or as a copy of the template."
    if POSTGRESQL:
        execute_server(
            f'CREATE DATABASE {name} TEMPLATE {template or "template0"}')
    elif template:
        shutil.copy(database_file(template), database_file(name))
    else:
        database_file(name).touch()


def database_file(name):
    "Return the path of the SQLite database."
    return Path(config.get('database', 'path'), f'{name}.sqlite')


def new_database(name):
    "Create and load a copy of the template database."
    create_database(name, TEMPLATE)
    if not Pool.database_list():
        Pool.start()
    Pool(name).init()


def database_version():
    "Return the name and the version of the database."
    if POSTGRESQL:
        (version,), = execute_server('SHOW server_version')
        return f'PostgreSQL {version}, fsync on'
    import sqlite3
    return f'SQLite {sqlite3.sqlite_version}'


def execute(database, *queries):
    "Execute the SQL texts and return the rows of the last one."
    with Transaction().start(database, 0) as transaction:
        cursor = transaction.connection.cursor()
        for query in queries:
            cursor.execute(query)
        return cursor.fetchall() if cursor.description else None


def count_rows(database, *tables):
    "Return the number of rows of each table."
    return [
        execute(database, f'SELECT COUNT(*) FROM {table}')[0][0]
        for table in tables]


@dataclasses.dataclass
class User:
    """A user with an authenticator

    step: the time step of the last code
    """
    id: int
    login: str
    key: bytes
    step: int = 0

    @classmethod
    def get(cls, database, first=1, last=None):
        "Return the users with these numbers, made by make_users."
        rows = dict(execute(
                database,
                "SELECT login, id FROM res_user WHERE login LIKE 'user%'"))
        return [
            cls(rows[login], login, hashlib.sha1(login.encode()).digest())
            for i in range(first, (last or len(rows)) + 1)
            if (login := f'user{i}') in rows]

    def code(self, now):
        "Return the next code from now on that the user has not yet used."
        self.step = max(self.step + 1, int(now // PERIOD))
        return self.code_at(self.step)

    def code_at(self, step):
        "Return the code of the time step."
        return code_at(self.key, step)

    @property
    def secret(self):
        "Return the key with the parameters of the settings."
        return totp.Secret(self.key, **settings.parameters())


def code_at(key, step):
    "Return the code that an authenticator with the key shows at the step."
    return pyotp.TOTP(base64.b32encode(key).decode()).at(step * PERIOD)


def make_users(database, count, active=None):
    """Create users with secrets by SQL and return those who can log in.

    count: the number of users
    active: the number of those who can log in, all by default; the secrets
        of the others only have the right length
    """
    with Transaction().start(database, 0):
        filler = seal(User(count, '', bytes(20)))
    zeros = '0' * 64
    numbers = (
        "WITH RECURSIVE n(i) AS ("
        f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
    users = "FROM res_user WHERE login LIKE 'user%'"
    columns = {
        'login': "'user' || i",
        'name': "'User ' || i",
        'email': "'user' || i || '@example.com'",
        'active': 'true',
        'totp_secret': f"'{filler}'",
        'totp_generation': 1,
        }
    if hasattr(Pool(database).get('res.user'), 'administrator'):
        columns['administrator'] = 'false'
    execute(
        database,
        f'INSERT INTO res_user ({", ".join(columns)}) {numbers} '
        f'SELECT {", ".join(map(str, columns.values()))} FROM n',
        'INSERT INTO res_user_totp_counter '
        '("user", number, name, since, counter, drift) '
        "SELECT id, 1, 'Authenticator', '2026-01-01 00:00:00', -1, 0 "
        f'{users}',
        *(
            'INSERT INTO res_user_totp_guess ("user", kind, failures, '
            'consecutive, failed, wait, networks) '
            f"SELECT id, '{kind}', 0, 0, 0, 0, '{{}}' {users}"
            for kind in ['elsewhere', 'known_device', 'recovery']),
        'INSERT INTO res_user_totp_recovery_code ("user", hash) '
        "SELECT id, CAST(id AS VARCHAR) "
        f"|| substr('{zeros}', 1, 64 - length(CAST(id AS VARCHAR))) {users}",
        'INSERT INTO res_user_totp_event ("user", time, kind, told) '
        f"SELECT id, '2026-01-01 00:00:00', 'set_up', true {users}")
    set_passwords(database, PASSWORD_HASH)
    result = User.get(database, last=active or count)
    with Transaction().start(database, 0) as transaction:
        table = Pool().get('res.user').__table__()
        cursor = transaction.connection.cursor()
        for user in result:
            cursor.execute(*table.update(
                    [table.totp_secret], [seal(user)],
                    where=table.id == user.id))
    if POSTGRESQL:
        with Transaction().start(database, 0, autocommit=True) as transaction:
            transaction.connection.cursor().execute('VACUUM ANALYZE')
    return result


def forget_totp(database, users):
    "Remove the secrets of the users, as if they had never set up TOTP."
    ids = ', '.join(str(user.id) for user in users)
    execute(
        database,
        f'UPDATE res_user SET totp_secret = NULL WHERE id IN ({ids})',
        f'DELETE FROM res_user_totp_counter WHERE "user" IN ({ids})',
        f'DELETE FROM res_user_totp_guess WHERE "user" IN ({ids})')


def seal(user):
    "Return the stored form of the user's key as the only one."
    record = Pool().get('res.user')(user.id)
    return record._seal_totp_secrets(1, {1: user.secret})


def add_authenticators(database, user, count, now):
    """Set up authenticators until the user has this many.

    now: the current time in a list; the function advances it
    Return the keys of the new authenticators.
    """
    keys = []
    with patch.object(clock, 'now', lambda: now[0]), \
            patch('trytond.modules.authentication_totp.event._MAILER'):
        for _ in range(count - 1):
            now[0] += PERIOD
            with Transaction().start(database, 0):
                record = Pool().get('res.user')(user.id)
                key = record.start_totp_setup(user.code(now[0])).key
                record.finish_totp_setup(code_at(key, now[0] // PERIOD))
            keys.append(key)
    return keys


def step(user, code):
    "Verify and consume the code as a login does."
    pool = Pool()
    Counter = pool.get('res.user.totp_counter')
    User = pool.get('res.user')
    query = User._query_login(user.login, {}, enrolled=True)
    Counter.consume(Counter.verify(query, code))


def set_passwords(database, hasher):
    "Store the hash of the password by the hasher for all users."
    execute(
        database,
        f"UPDATE res_user SET password_hash = '{hasher.hash(PASSWORD)}' "
        "WHERE login LIKE 'user%'")


@contextmanager
def serve(
        database, authentications, workers=1, preload=True, cheap=False,
        **environ):
    """Serve the database in this context, and yield the port and the process.

    authentications: the value of this setting
    workers: the number of worker processes
    preload: whether the workers are forked from a process that has loaded the
        database
    cheap: whether the server uses the cheap hash for passwords
    environ: additional environment variables
    """
    port = free_port()
    environ = {
        **os.environ,
        'TRYTOND_DATABASE_NAMES': database,
        'TRYTOND_SESSION__AUTHENTICATIONS': authentications,
        'TRYTOND_WEB__NUM_PROXIES': '1',
        **environ}
    if cheap:
        environ['BENCH_CHEAP_HASH'] = '1'
    with LOG.open('a') as log:
        process = subprocess.Popen([
                Path(sys.executable).with_name('gunicorn'),
                '--bind', f'127.0.0.1:{port}', '--workers', str(workers),
                '--worker-class', 'gthread', '--threads', str(THREADS),
                '--timeout', str(TIMEOUT), '--no-control-socket',
                *(['--preload'] if preload else []), 'benchmarks.wsgi:app'],
            cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                post(port, '', 'common.server.version')
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def post(port, path, method, *params, address='127.0.0.1', headers=()):
    """Call the method by JSON-RPC on a new connection.

    address: the client's IP address that the request claims
    headers: a dictionary of further headers
    Return the status and the answer, which is None if it is not JSON.
    """
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=TIMEOUT)
    try:
        connection.request(
            'POST', f'/{path}rpc/',
            json.dumps({'id': 1, 'method': method, 'params': params}), {
                'Content-Type': 'application/json',
                'X-Forwarded-For': address,
                **dict(headers),
                })
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    return response.status, json.loads(data) if response.status == 200 else (
        None)


def log_in(port, database, user, address='127.0.0.1'):
    "Log the user in as a client does; return the seconds, or None if refused."
    parameters = {
        'password': PASSWORD,
        'totp_code': user.code(time.time()),
        }
    started = time.perf_counter()
    status, answer = post(
        port, f'{database}/', 'common.db.login', user.login, parameters, 'en',
        address=address)
    seconds = time.perf_counter() - started
    return seconds if status == 200 and 'result' in answer else None


def in_threads(count, function):
    "Call the function in this many threads, with the number of the thread."
    threads = [
        threading.Thread(target=function, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def cpu_seconds(process):
    "Return the CPU time of the process and its children, in seconds."
    seconds = 0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            seconds += times.user + times.system
    # These times are those of the children that have ended
    times = process.cpu_times()
    return seconds + times.children_user + times.children_system


def database_process():
    "Return the process of PostgreSQL."
    (pid,), = execute_server(
        "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
    return psutil.Process(int(pid))


def percentile(values, percent):
    "Return the value that this percentage of the values do not exceed."
    values = sorted(values)
    return values[max(0, -(-len(values) * percent // 100) - 1)]
