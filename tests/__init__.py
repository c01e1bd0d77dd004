# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import os
import tempfile

if (os.environ.get('TRYTOND_DATABASE_URI', '').startswith('sqlite')
        and 'DB_CACHE' not in os.environ):
    # Activating the modules takes seconds, copying the database does not.
    # The copies go with the process, as they would hide a change of the code.
    _cache = tempfile.TemporaryDirectory()
    os.environ['DB_CACHE'] = _cache.name
