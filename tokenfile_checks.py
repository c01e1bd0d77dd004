# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The tokens of a file, and which of them can be imported"

import re
from typing import Any, NamedTuple
from unicodedata import normalize

from . import totp

MAX_TOKENS = 10_000
_MAX_SERIAL_LENGTH = 64
# The length of a block of SHA-512. HMAC would shorten a longer key, and each
# login of its user would have to decrypt it
_MAX_KEY_BITS = 1024
# Spreadsheets take a text that begins with one of these for a formula
_FORMULA = '=+-@'


class TokenFileError(ValueError):
    """A file that cannot be read

    message: the id of the message that gives the reason
    values: a dictionary of the values in the message
    """

    def __init__(self, message, **values):
        super().__init__(message)
        self.message = message
        self.values = values


class Refused(Exception):
    "A token that cannot be imported, with the attributes of TokenFileError"

    def __init__(self, message, **values):
        super().__init__(message)
        self.message = message
        self.values = values


class Token(NamedTuple):
    """A token of a file

    line: the number of the line where it ends; in PSKC the position among the
        keys; both begin at 1
    serial: the serial number, blank if there is none
    secret: its Secret, None if it is refused
    refusal: the id of the message that gives the reason for the refusal, or
        None
    values: a dictionary of the values in the message
    """
    line: int
    serial: str
    secret: totp.Secret | None = None
    refusal: str | None = None
    values: dict[str, Any] = {}  # noqa: RUF012


def refuse_number():
    "Raise TokenFileError, because the file has too many tokens."
    raise TokenFileError('msg_totp_token_file_number', number=MAX_TOKENS)


def check(line, serial, get_secret):
    """Return the Token of the line.

    get_secret: a function that returns its Secret or raises Refused
    """
    try:
        if not serial:
            raise Refused('msg_totp_token_no_serial')
        if len(serial) > _MAX_SERIAL_LENGTH or not serial.isprintable():
            serial = ''
            raise Refused(
                'msg_totp_token_serial', length=_MAX_SERIAL_LENGTH)
        # Some spreadsheets also accept the full-width forms of the characters
        if normalize('NFKC', serial)[0] in _FORMULA:
            raise Refused('msg_totp_token_serial_formula')
        secret = get_secret()
        if len(secret.key) * 8 < totp.MIN_KEY_BITS:
            raise Refused('msg_totp_token_key_short', bits=totp.MIN_KEY_BITS)
        if len(secret.key) * 8 > _MAX_KEY_BITS:
            raise Refused('msg_totp_token_key_long', bits=_MAX_KEY_BITS)
        return Token(line, serial, secret)
    except Refused as refused:
        return Token(
            line, serial, refusal=refused.message, values=refused.values)


def get_algorithm(text):
    """Return the name of the algorithm as totp.ALGORITHMS spells it.

    text: its name in the file; blank means the default
    Raise Refused if it is another algorithm.
    """
    name = re.sub('[^a-z0-9]', '', text.lower())
    if 'hotp' in name:
        raise Refused('msg_totp_token_hotp')
    name = re.sub('oath|totp|hmac', '', name) or totp.USUAL['algorithm']
    if name not in totp.ALGORITHMS:
        raise Refused('msg_totp_token_algorithm')
    return name


def check_digits(value):
    "Return the number of digits. Raise Refused if no code has so many."
    if value not in totp.DIGITS:
        first, second = totp.DIGITS
        raise Refused('msg_totp_token_digits', first=first, second=second)
    return value


def check_period(value):
    "Return the period in seconds. Raise Refused if it is out of range."
    if value not in totp.PERIODS:
        raise Refused(
            'msg_totp_token_period',
            first=totp.PERIODS.start, last=totp.PERIODS.stop - 1)
    return value
