# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Tell the administrator by the log, once"

_told = set()


def tell(logger, message, *args):
    """Log the message as an error, unless this process has already done so.

    With its default configuration the server shows nothing below an error. It
    may load a database several times, for example if the first requests for
    it arrive together.
    """
    line = message % args
    if line not in _told:
        _told.add(line)
        logger.error("%s", line)
