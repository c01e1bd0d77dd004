# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The section authentication_totp of the configuration"

import logging
import string
from urllib.parse import urlsplit

import trytond.config as config

from . import keyfile, notice, seal, totp

logger = logging.getLogger(__name__)

# Of a user
MAX_AUTHENTICATORS = 10
_SECTION = 'authentication_totp'
_MAX_IMAGE_LENGTH = 256


class SettingError(ValueError):
    "A setting of the configuration that is out of range"


class DeniedError(SettingError):
    "The user of this process may not read the key file"


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
                or len(value) > _MAX_IMAGE_LENGTH
                # Any other character takes up to 12 in the URI, which is too
                # many for the QR code
                or not (value.isascii() and value.isprintable())
                or ' ' in value):
            raise ValueError(
                "must be blank or a https URL of at most "
                f"{_MAX_IMAGE_LENGTH} ASCII characters without blanks")
    return value


_SETTINGS = {
    'issuer': ('Tryton {database}', _issuer),
    'image': ('', _image),
    'algorithm': ('sha1', _choice(*totp.ALGORITHMS)),
    'digits': ('6', _digits),
    'period': (
        '30', _whole(totp.PERIODS.start, totp.PERIODS.stop - 1, "seconds")),
    'tolerance': ('1', _whole(0, 10, "time steps")),
    'key_length': ('160', _whole(totp.MIN_KEY_BITS, 1024, "bits")),
    'encryption_keys': ('', keyfile.keys),
    'max_authenticators': (
        '5', _whole(1, MAX_AUTHENTICATORS, "authenticators")),
    'recovery_codes': ('10', _whole(0, 25, "codes")),
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
        denied = isinstance(error, keyfile.DeniedError)
        raise (DeniedError if denied else SettingError)(
            f"[{_SECTION}] {name} = {value!r}: {error}") from None


def check(needs_keys=True):
    """Raise SettingError for the first setting that is out of range.

    needs_keys: whether the process needs the encryption keys; if not, a key
        file that its user may not read is only logged
    """
    for name in _SETTINGS:
        try:
            get(name)
        except DeniedError as error:
            if needs_keys:
                raise
            notice.tell(
                logger, "%s; what needs no keys goes on without them", error)


def tell():
    "Log what the administrator must know about the settings."
    for library, error in missing_libraries():
        notice.tell(
            logger, "the library %s cannot be loaded, so no code can be "
            "checked and nobody can set TOTP up: %s", library, error)
    if not config.get(_SECTION, 'encryption_keys', default='').strip():
        notice.tell(
            logger, "[%s] encryption_keys is not set: "
            "the secrets are stored unencrypted in the database", _SECTION)
    unusual = [
        f'{name} = {get(name)}' for name in parameters()
        if str(get(name)) != _SETTINGS[name][0]]
    if unusual:
        notice.tell(
            logger, "[%s] %s: some authenticators ignore or refuse this and "
            "show wrong codes; the manual names them",
            _SECTION, ", ".join(unusual))


def missing_libraries():
    """Return the name and the error of each library that cannot be loaded but
    that the check of codes needs.
    """
    return [
        (name, error) for name, error in [
            ('cryptography', seal.MISSING), ('passlib', totp.MISSING)]
        if error]


def parameters():
    "Return the parameters of a new secret, as arguments of totp.Secret."
    return {name: get(name) for name in ['algorithm', 'digits', 'period']}


def issuer(database, company):
    """Return the name of the service that the authenticator shows.

    database and company are what the setting issuer may contain.
    """
    return totp.display_name(
        get('issuer').format(database=database, company=company))
