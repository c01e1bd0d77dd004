# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The section authentication_totp of the configuration"

import functools
import logging
import os
import stat
import string
from urllib.parse import urlsplit

import trytond.config as config

from . import seal, totp

logger = logging.getLogger(__name__)

_SECTION = 'authentication_totp'
_MAX_IMAGE_LENGTH = 256


class SettingError(ValueError):
    "A setting of the configuration that is out of range"


def _choice(*choices):
    def parse(value):
        if value not in choices:
            raise ValueError("must be %s" % " or ".join(choices))
        return value
    return parse


def _whole(minimum, maximum, unit):
    def parse(value):
        if (not (value.isascii() and value.isdigit())
                or not minimum <= int(value) <= maximum):
            raise ValueError(
                f"must be a whole number of {unit} "
                f"from {minimum} to {maximum}")
        return int(value)
    return parse


def _digits(value):
    return int(_choice(*map(str, totp.DIGITS))(value))


def _issuer(value):
    try:
        fields = {
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(value)
            if name is not None}
    except ValueError:
        fields = {None}
    if not fields <= {('database', '', None), ('company', '', None)}:
        raise ValueError(
            "must be a text without other braces "
            "than {database} and {company}")
    return value


def _image(value):
    if value:
        try:
            url = urlsplit(value)
        except ValueError:
            url = None
        if (not url or url.scheme != 'https' or not url.netloc
                or len(value) > _MAX_IMAGE_LENGTH):
            raise ValueError(
                "must be blank or a https URL of at most "
                f"{_MAX_IMAGE_LENGTH} characters")
    return value


@functools.cache
def _keys(path):
    if not path:
        return ()
    try:
        with open(path, encoding='ascii') as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = filter(None, map(str.strip, file))
            keys = tuple(
                seal.key(line) for line in lines if not line.startswith('#'))
    except OSError as error:
        raise ValueError(
            f"must be the path of a file that can be read, "
            f"but: {error.strerror}") from None
    except ValueError:
        keys = None
    if not keys:
        raise ValueError(
            "must be the path of a file of keys, one a line, "
            "each 32 bytes in URL-safe base64")
    if mode & stat.S_IROTH:
        logger.error(
            "every user of this machine can read the keys in %s", path)
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        logger.error(
            "other users of this machine can replace the keys in %s", path)
    return keys


_SETTINGS = {
    'issuer': ('Tryton {database}', _issuer),
    'image': ('', _image),
    'algorithm': ('sha1', _choice(*totp.ALGORITHMS)),
    'digits': ('6', _digits),
    'period': (
        '30', _whole(totp.PERIODS.start, totp.PERIODS.stop - 1, "seconds")),
    'tolerance': ('1', _whole(0, 10, "time steps")),
    'key_length': ('160', _whole(totp.MIN_KEY_BITS, 1024, "bits")),
    'encryption_keys': ('', _keys),
    'max_authenticators': ('5', _whole(1, 10, "authenticators")),
    'recovery_codes': ('10', _whole(0, 50, "codes")),
    'max_failures': ('100', _whole(3, 100, "failures")),
    'setup_timeout': ('600', _whole(1, 24 * 60 * 60, "seconds")),
    'device_days': ('30', _whole(1, 365, "days")),
    'event_retention': ('365', _whole(1, 10 * 365, "days")),
    }


def get(name):
    """Return the value of the setting name.

    Raise SettingError if it is out of range.
    """
    default, parse = _SETTINGS[name]
    value = config.get(_SECTION, name, default=default)
    try:
        return parse(value.strip())
    except ValueError as error:
        raise SettingError(
            f"[{_SECTION}] {name} = {value!r}: {error}") from None


def check():
    "Raise SettingError for the first setting that is out of range."
    for name in _SETTINGS:
        get(name)


def warn_if_unsealed():
    "Log that secrets are stored in clear, if they are."
    if not get('encryption_keys'):
        logger.warning(
            "[%s] encryption_keys is not set: "
            "the secrets are stored in clear in the database", _SECTION)


def parameters():
    "Return the parameters of a new secret, as arguments of totp.Secret."
    return {name: get(name) for name in ['algorithm', 'digits', 'period']}


def issuer(database, company):
    """Return the name of the service that the authenticator shows.

    database and company are what the setting issuer may contain.
    """
    return totp.display_name(
        get('issuer').format(database=database, company=company))
