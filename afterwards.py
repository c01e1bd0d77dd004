# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What is done once a transaction has ended, in another one"

from trytond.transaction import Transaction


def after_transaction(function, *args):
    "Call the function in a new transaction, once that of now has ended."
    transaction = Transaction()
    database_name = transaction.database.name
    user, context = transaction.user, transaction.context

    def call():
        with Transaction(new=True).start(
                database_name, user, context=context, autocommit=True):
            function(*args)
    transaction.atexit(call)
