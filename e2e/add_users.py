# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Add the users whom the tests need beside those of the demo

Each has a file with the password in the folder. For dave TOTP is required from
a day on, and a token from the file is assigned to erin.
"""

import datetime as dt
import sys
import time
from pathlib import Path

from trytond.modules.authentication_totp import tokenfile
from trytond.pool import Pool
from trytond.transaction import Transaction

_, database, folder, token_file, *logins = sys.argv
Pool.start()
pool = Pool(database)
pool.init()
with Transaction().start(database, 0, context={'_skip_warnings': True}):
    Token = pool.get('res.user.totp_token')
    User = pool.get('res.user')
    users = {
        login: User.create([{
                    'name': login.capitalize(),
                    'login': login,
                    'password': Path(folder, f'{login}.password').read_text(),
                    }])[0]
        for login in logins}
    User.write([users['dave']], {
            'totp_required': True,
            'totp_required_from': dt.date.today() + dt.timedelta(days=30),
            })
    token, = tokenfile.read(Path(token_file).read_bytes(), time.time())
    Token.store([(token.serial, token.secret)])
    Token.assign(
        Token.search([('serial', '=', token.serial)]), users['erin'])
    # Only now, as there is no mail server yet to tell of it
    for login, user in users.items():
        user.email = f'{login}@example.com'
    User.save(list(users.values()))
