# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Add an ordinary user to a database, with the password of TRYTONPASSFILE and
the key of a file if one is named
"""

import os
import sys
from pathlib import Path

from trytond.pool import Pool
from trytond.transaction import Transaction

_, database, login, *key_file = sys.argv
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
    for path in key_file:
        user.set_totp_key(Path(path).read_text())
    # Only now, as there is no mail server yet to tell of the key
    user.email = f'{login}@example.com'
    user.save()
