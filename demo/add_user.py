# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Add an ordinary user to a database, with the password in TRYTONPASSFILE

An optional JSON file contains the keys of the user's authenticators, or of
hardware tokens that are assigned to the user.
"""

import json
import os
import sys
from pathlib import Path

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.transaction import Transaction


def add_authenticators(user, secrets):
    for name, secret in secrets.items():
        user._add_totp_secret(secret, name)
    # Without recovery codes, Tryton would offer new ones at login
    user.first_totp_recovery_codes()


def assign_tokens(user, secrets):
    pool = Pool()
    Token = pool.get('res.user.totp_token')
    Token.store(list(secrets.items()))
    Token.assign(
        Token.search([('serial', 'in', list(secrets))]), user)


_, database, login, *keys = sys.argv
Pool.start()
pool = Pool(database)
pool.init()
with Transaction().start(database, 0):
    User = pool.get('res.user')
    user, = User.create([{
                'name': login.capitalize(),
                'login': login,
                'password': Path(os.environ['TRYTONPASSFILE']).read_text(),
                }])
    if keys:
        kind, path = keys
        give = {
            'authenticators': add_authenticators, 'tokens': assign_tokens}
        give[kind](user, {
                name: totp.Secret.from_key(key, 'sha1', 6, 30)
                for name, key in json.loads(Path(path).read_text()).items()})
    # Set last, so that the events above cause no e-mails: the mail server does
    # not run yet
    user.email = f'{login}@example.com'
    user.save()
