# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The language that a client asks for"

import re

from trytond.transaction import Transaction

_CODE = re.compile('[A-Za-z]{2,3}(_[A-Za-z0-9]{2,8}){0,2}')


def sane_language():
    """Return a context manager that drops a malformed language code.

    The client chooses the language. If gettext failed with it, the count of a
    wrong code would be rolled back.
    """
    language = Transaction().context.get('language')
    if not (isinstance(language, str) and _CODE.fullmatch(language)):
        language = None
    return Transaction().set_context(language=language)
