# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Add an ordinary user to a database, with the password of TRYTONPASSFILE"

import os
import sys
from pathlib import Path

from trytond.pool import Pool
from trytond.transaction import Transaction

_, database, login = sys.argv
Pool.start()
pool = Pool(database)
pool.init()
with Transaction().start(database, 0):
    User = pool.get('res.user')
    User.create([{
                'name': login.capitalize(),
                'login': login,
                'password': Path(os.environ['TRYTONPASSFILE']).read_text(),
                }])
