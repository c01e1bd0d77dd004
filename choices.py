# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The choices of a selection in a wizard"


def optional(choices):
    """Return the choices after a blank one.

    While the web client refreshes the choices, it sends the first one, which
    must not be another than the one that the user sees.
    """
    return [(None, ''), *choices]
