# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import sys

from . import settings

# The command imports this before it has read its configuration, and checks
# the settings by itself
if 'trytond.pool' in sys.modules:
    try:
        settings.check()
    except settings.SettingError as error:
        # The server imports every module at start, whatever the database: a
        # line on stderr is what its administrator can read
        raise SystemExit(str(error)) from None
    settings.warn_if_unsealed()
