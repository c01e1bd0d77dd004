# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Work that is done in a new transaction, once the current one has ended"

from trytond.transaction import Transaction


def after_transaction(function, *args):
    "Call the function in a new transaction, once the current one has ended."
    transaction = Transaction()
    database_name = transaction.database.name
    user, context = transaction.user, transaction.context

    def call():
        with Transaction(new=True).start(
                database_name, user, context=context, autocommit=True):
            function(*args)
    transaction.atexit(call)
