# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

"The record of the server's work, which tests count instead of measuring time"

import threading
from contextlib import ExitStack, contextmanager
from functools import wraps
from unittest.mock import patch

from cryptography.fernet import Fernet
from passlib.totp import TOTP

from trytond.transaction import Transaction


class WorkMixin:
    "Record the work of the server"

    @contextmanager
    def record_work(self):
        """Record what the thread does in the context, in order, in a list

        An SQL statement is a pair of its text and the number of rows that it
        changed or found. Calls about transactions, encryption, codes and
        e-mails are the name of the function.
        """
        with self.transaction() as transaction:
            Cursor = type(transaction.connection.cursor())
        work = []
        thread = threading.get_ident()

        def recorded(owner, name):
            function = getattr(owner, name)

            @wraps(function)
            def wrapper(*args, **kwargs):
                if threading.get_ident() == thread:
                    work.append(name)
                return function(*args, **kwargs)
            return patch.object(owner, name, wrapper)

        def execute(cursor, query, *args, **kwargs):
            result = statement(cursor, query, *args, **kwargs)
            if threading.get_ident() == thread:
                work.append((query, count_rows(cursor, query, *args)))
            return result

        def count_rows(cursor, query, *args):
            # SQLite counts the rows of a query only while they are fetched
            if cursor.rowcount < 0 and query.startswith('SELECT'):
                cursor = cursor.connection.cursor()
                statement(cursor, f'SELECT COUNT(*) FROM ({query})', *args)
                return cursor.fetchone()[0]
            return cursor.rowcount

        statement = Cursor.execute
        with ExitStack() as stack:
            for patcher in [
                    patch.object(Cursor, 'execute', execute),
                    recorded(Transaction, 'start'),
                    recorded(Transaction, 'commit'),
                    recorded(Transaction, 'rollback'),
                    recorded(Fernet, 'decrypt'),
                    recorded(TOTP, 'match'),
                    # Computes the HMAC of one time step
                    recorded(TOTP, '_generate'),
                    recorded(self.mailer, 'submit')]:
                stack.enter_context(patcher)
            yield work

    @contextmanager
    def count_statements(self):
        "List the SQL statements of the context, once it has ended"
        statements = []
        with self.record_work() as work:
            yield statements
        statements += [done for done in work if isinstance(done, tuple)]
