# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

"What a test counts instead of measuring time"

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
        """Append to the list, in order, what the thread does in the context

        These are the SQL statements, each as its text and the number of rows
        that it touched or found, and the names of what is called of
        transactions, sealing, codes and e-mails.
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
            # SQLite counts what a query finds only while it is fetched
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
                    # The HMAC of one time step
                    recorded(TOTP, '_generate'),
                    recorded(self.mailer, 'submit')]:
                stack.enter_context(patcher)
            yield work

    @contextmanager
    def count_statements(self):
        "Append each SQL statement of the context to the list"
        statements = []
        with self.record_work() as work:
            yield statements
        statements += [done for done in work if isinstance(done, tuple)]
