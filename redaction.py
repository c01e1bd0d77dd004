# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Data of clients that Tryton's log of requests must not contain"

import logging

from trytond.tools.logging import format_args


def hide_arguments(*names):
    """Keep the data that clients send to the wizards out of the log.

    names: the names of the wizards
    Tryton itself leaves out only arguments with a name like "secret", and logs
    the rest at the level INFO.
    """
    def hide(record):
        if (isinstance(record.args, tuple) and record.args
                and record.args[0] in names):
            record.args = tuple(
                '(...)' if isinstance(argument, format_args) else argument
                for argument in record.args)
        return True
    logging.getLogger('trytond.protocols.dispatcher').addFilter(hide)
