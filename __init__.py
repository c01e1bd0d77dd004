# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import sys

from . import settings

# The command imports this before it has read its configuration, and checks
# the settings by itself
if 'trytond.pool' in sys.modules:
    try:
        # Who updates a database is often another user than that of the server
        settings.check(needs_keys='trytond.admin' not in sys.modules)
    except settings.SettingError as error:
        # The server imports every module at start, whatever the database: a
        # line on stderr is what its administrator can read. A worker of
        # trytond drops what a SystemExit says.
        print(error, file=sys.stderr)
        # Gunicorn starts a worker again for ever unless it ends with this
        raise SystemExit(3) from None
    settings.tell()
