# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The names in the setting authentications of the section session

Trytond stops a chain at a name that is not a login method, and logs in the
user that the methods before it have accepted. A misprint would therefore turn
the second factor off.
"""

from typing import NamedTuple

import trytond.config as config


class Method(NamedTuple):
    """A login method as the setting names it

    chain: the methods that are required together, as a text
    name: the text before the question mark
    options: the names after the question mark
    """
    chain: str
    name: str
    options: list[str]


def strip():
    """Remove the blanks at the ends of the setting.

    An environment variable may have them. The parser of the configuration file
    removes them.
    """
    value = config.get('session', 'authentications')
    if value is not None and value != value.strip():
        config.set('session', 'authentications', value.strip())


def methods():
    "Return the Method of each name in the setting."
    value = config.get('session', 'authentications', default='password')
    found = []
    for chain in value.split(','):
        for index, text in enumerate(chain.split('+')):
            name, mark, options = text.partition('?')
            if not index:
                # Trytond takes no options for the first method of a chain
                name, mark = text, ''
            found.append(
                Method(chain, name, options.split(':') if mark else []))
    return found


def options(name):
    """Return the options of the method in all chains.

    Return None if no chain has the method.
    """
    found = [method.options for method in methods() if method.name == name]
    if found:
        return {option for options_ in found for option in options_}
