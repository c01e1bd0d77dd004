# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import sys

from . import settings

# The command imports this package before it reads its configuration, and
# checks the settings itself
if 'trytond.pool' in sys.modules:
    try:
        # An update often runs as a user who may not read the key file
        settings.check(needs_keys='trytond.admin' not in sys.modules)
    except settings.SettingError as error:
        # This runs when the server starts, and its administrator reads
        # stderr. A worker of trytond drops the message of a SystemExit.
        print(error, file=sys.stderr)
        # Gunicorn restarts a worker endlessly unless it exits with this code
        raise SystemExit(3) from None
    settings.tell()
