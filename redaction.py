# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What Tryton's log of requests leaves out"

import logging

from trytond.tools.logging import format_args


def hide_arguments(*names):
    """Leave what clients send to the wizards out of the log.

    Tryton itself leaves out only what has a name like "secret", and writes
    down the rest at the level INFO.
    """
    def hide(record):
        if (isinstance(record.args, tuple) and record.args
                and record.args[0] in names):
            record.args = tuple(
                '(...)' if isinstance(argument, format_args) else argument
                for argument in record.args)
        return True
    logging.getLogger('trytond.protocols.dispatcher').addFilter(hide)
