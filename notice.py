# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Messages to the administrator, each logged once"

_told = set()


def tell(logger, message, *args):
    """Log the message as an error, unless this process has already done so.

    By default the server shows no messages below the level ERROR. It may load
    a database several times, for example if the first requests for it arrive
    together.
    """
    line = message % args
    if line not in _told:
        _told.add(line)
        logger.error("%s", line)
