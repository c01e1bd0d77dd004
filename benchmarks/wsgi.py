# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The WSGI application of the servers that the benchmarks start"

import os
from unittest.mock import patch

import trytond.modules
from tests.cheap_hash import CHEAP_HASH

hidden = set(os.environ.get('BENCH_HIDE', '').split())
modules = trytond.modules.get_modules() - hidden
with patch('trytond.modules.get_modules', return_value=modules):
    from trytond.application import app  # noqa: F401

if os.environ.get('BENCH_CHEAP_HASH'):
    import trytond.res.user
    trytond.res.user.PASSWORD_HASH = CHEAP_HASH
