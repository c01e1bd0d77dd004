# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The one-time password itself, without database: RFC 4226 and RFC 6238"

import base64
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import string
import time
from urllib.parse import quote, urlsplit

from cryptography.fernet import Fernet, InvalidToken
from passlib.exc import TokenError
from passlib.totp import TOTP

import trytond.config as config

logger = logging.getLogger(__name__)

# How many failures in a row make wait for the next try
FREE_FAILURES = 3
_SECTION = 'authentication_totp'
_HASH_BITS = {'sha1': 160, 'sha256': 256, 'sha512': 512}
_MIN_KEY_BITS = 128
# What is longer was not typed by a person
_MAX_CODE_LENGTH = 64
_MIN_WAIT = 30
_MAX_WAIT = 60 * 60
# How many steps an authenticator's clock may be wrong
MAX_DRIFT = 10
_MAX_NAME_LENGTH = 64
# No two of them look alike
_RECOVERY_CHARACTERS = '34679ACDEFGHJKMNPQRTWXY'
_RECOVERY_GROUPS = 5
_RECOVERY_GROUP_LENGTH = 5
_MAX_IMAGE_LENGTH = 256
# What is sealed begins with no brace
_CLEAR = '{'
_SEPARATOR = re.compile(r'[\s\-\u2010-\u2015]')


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
    return int(_choice('6', '8')(value))


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
            keys = tuple(Fernet(line) for line in lines)
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
        logger.warning(
            "everybody on this machine may read the keys in %s", path)
    return keys


_SETTINGS = {
    'issuer': ('Tryton', _issuer),
    'image': ('', _image),
    'algorithm': ('sha1', _choice(*_HASH_BITS)),
    'digits': ('6', _digits),
    'period': ('30', _whole(15, 120, "seconds")),
    'tolerance': ('1', _whole(0, 10, "time steps")),
    'key_length': ('160', _whole(_MIN_KEY_BITS, 1024, "bits")),
    'encryption_keys': ('', _keys),
    'recovery_codes': ('10', _whole(0, 50, "codes")),
    'max_failures': ('100', _whole(3, 100, "failures")),
    'setup_timeout': ('600', _whole(1, 24 * 60 * 60, "seconds")),
    'event_retention': ('365', _whole(1, 10 * 365, "days")),
    }


def setting(name):
    """Return the value of the setting name of the configuration.

    Raise SettingError if it is out of range.
    """
    default, parse = _SETTINGS[name]
    value = config.get(_SECTION, name, default=default)
    try:
        return parse(value.strip())
    except ValueError as error:
        raise SettingError(
            f"[{_SECTION}] {name} = {value!r}: {error}") from None


def check_settings():
    "Raise SettingError for the first setting that is out of range."
    for name in _SETTINGS:
        setting(name)


def warn_if_unsealed():
    "Log that secrets are stored in clear, if they are."
    if not setting('encryption_keys'):
        logger.warning(
            "[%s] encryption_keys is not set: "
            "the secrets are stored in clear in the database", _SECTION)


def wait(failures):
    """Return for how many seconds no code is evaluated after the last one of
    as many consecutive failures (NIST SP 800-63B-4 section 3.2.2).
    """
    if failures < FREE_FAILURES:
        return 0
    # The exponent is bound because the power is not
    return min(_MIN_WAIT * 2 ** min(failures - FREE_FAILURES, 10), _MAX_WAIT)


def now():
    "Return the time in seconds since the epoch; the one place that reads it."
    return time.time()


def _clean(code):
    "Return code without spaces and dashes, None if nobody could have typed it"
    if isinstance(code, str) and len(code) <= _MAX_CODE_LENGTH:
        return _SEPARATOR.sub('', code)


def is_blank(code):
    "Return whether code, of any type, is what a person leaves empty."
    return code is None or _clean(code) == ''


def new_recovery_code():
    """Return a random recovery code as a person types it, in groups of five.

    It has 113 bits: from 112 on NIST SP 800-63B-4 section 3.1.2.2 and OWASP
    ASVS 6.5.2 are content with a hash that is fast.
    """
    return '-'.join(
        ''.join(
            secrets.choice(_RECOVERY_CHARACTERS)
            for _ in range(_RECOVERY_GROUP_LENGTH))
        for _ in range(_RECOVERY_GROUPS))


def hash_recovery_code(code):
    """Return the hash of the recovery code, which is what to store.

    code: what a client sent, of any type
    Return None if code has not the form of a recovery code.
    """
    code = (_clean(code) or '').upper()
    if (len(code) == _RECOVERY_GROUPS * _RECOVERY_GROUP_LENGTH
            and set(code) <= set(_RECOVERY_CHARACTERS)):
        return hashlib.sha256(code.encode()).hexdigest()


def issuer(database, company):
    """Return the name of the service that the authenticator shows.

    database and company are what the setting issuer may contain.
    """
    return _name(setting('issuer').format(database=database, company=company))


def account(login):
    "Return the name of the account that the authenticator shows."
    return _name(login)


def _name(text):
    # The colon separates issuer and account in the label of the URI, and an
    # authenticator splits there even if it is escaped
    text = ' '.join(text.replace(':', ' ').split())
    return text[:_MAX_NAME_LENGTH].rstrip()


@dataclasses.dataclass(frozen=True)
class Secret:
    """A key with all the parameters that it was made with.

    key: the shared key, in bytes
    algorithm: sha1, sha256 or sha512
    digits: how many digits a code has
    period: length of a time step in seconds
    stale: whether what it was loaded from is not sealed with the first key
    """
    key: bytes = dataclasses.field(repr=False)
    algorithm: str
    digits: int
    period: int
    stale: bool = dataclasses.field(default=False, compare=False)

    @classmethod
    def new(cls):
        """Return a secret with a random key and the settings of now.

        The key has key_length bits, or as many as the hash if that is more
        (RFC 6238 section 5.1).
        """
        bits = max(setting('key_length'), _HASH_BITS[setting('algorithm')])
        return cls._with_settings(secrets.token_bytes((bits + 7) // 8))

    @classmethod
    def from_key(cls, key):
        """Return a secret with the base32 key and the settings of now.

        Raise ValueError if key is not base32 of at least 128 bits (RFC 4226
        section 4, requirement 6).
        """
        key = _SEPARATOR.sub('', key).rstrip('=')
        try:
            key = base64.b32decode(key + '=' * (-len(key) % 8), casefold=True)
        except ValueError:
            raise ValueError("the key must be base32") from None
        if len(key) * 8 < _MIN_KEY_BITS:
            raise ValueError(f"the key must have {_MIN_KEY_BITS} bits or more")
        return cls._with_settings(key)

    @classmethod
    def _with_settings(cls, key):
        return cls(
            key, setting('algorithm'), setting('digits'), setting('period'))

    @classmethod
    def load(cls, stored, owner):
        """Return the secret that dump made for the owner.

        stored: the text that dump returned
        owner: the number that dump was given
        Raise ValueError if it is not such a text, or of another owner, or if
        no key of the setting encryption_keys opens it.
        """
        try:
            text, stale = cls._open(stored)
            values = json.loads(text)
            if values.pop('owner') != owner:
                raise ValueError("of another owner")
            values['key'] = base64.b32decode(values['key'])
            secret = cls(**values, stale=stale)
            # What is stored in clear may have been changed
            if not (len(secret.key) * 8 >= _MIN_KEY_BITS
                    and secret.algorithm in _HASH_BITS
                    and secret.digits in {6, 8}
                    and secret.period in range(15, 121)):
                raise ValueError("out of range")
            return secret
        except (InvalidToken, ValueError, KeyError, TypeError):
            raise ValueError("not a stored secret") from None

    @staticmethod
    def _open(stored):
        "Return the text in clear, and whether the first key does not seal it."
        keys = setting('encryption_keys')
        if stored.startswith(_CLEAR):
            return stored, bool(keys)
        for key in keys:
            with contextlib.suppress(InvalidToken):
                return key.decrypt(stored), key is not keys[0]
        raise InvalidToken

    def dump(self, owner):
        """Return the text to store, with every parameter.

        It is sealed with the first key of the setting encryption_keys, in
        clear if there is none, and only load for the same owner opens it.
        owner: the number of the one whom the secret belongs to
        """
        stored = json.dumps({
                'key': base64.b32encode(self.key).decode(),
                'algorithm': self.algorithm,
                'digits': self.digits,
                'period': self.period,
                'owner': owner,
                })
        if keys := setting('encryption_keys'):
            stored = keys[0].encrypt_at_time(
                stored.encode(), int(now())).decode()
        return stored

    @property
    def _totp(self):
        return TOTP(
            self.key, format='raw', alg=self.algorithm, digits=self.digits,
            period=self.period)

    @property
    def text(self):
        "The key as a person types it: base32 in groups of four."
        key = self._totp.base32_key
        return ' '.join(key[i:i + 4] for i in range(0, len(key), 4))

    def uri(self, account, issuer):
        """Return the otpauth URI that an authenticator scans.

        account and issuer are the names that it shows, as the functions of
        the same name return them.
        """
        uri = self._totp.to_uri(account or '?', issuer)
        if image := setting('image'):
            uri += '&image=' + quote(image, '')
        return uri

    def match(self, code, time, tolerance=None, drift=None):
        """Return the counter of the time step for which code is right.

        code: what a client sent, of any type
        time: in seconds since the epoch
        tolerance: how many steps before and after are searched (RFC 6238
            section 5.2), as many as the setting of that name by default
        drift: how many steps the authenticator is probably ahead, around
            which as many as the setting says are searched first
        Return None if code is wrong or malformed.
        """
        code = _clean(code)
        if not (code and code.isascii() and code.isdigit()):
            return None
        usual = setting('tolerance')
        searches = [(time, usual if tolerance is None else tolerance)]
        if drift is not None:
            searches.insert(0, (time + drift * self.period, usual))
        totp = self._totp
        for center, steps in searches:
            with contextlib.suppress(TokenError):
                return totp.match(
                    code, center, window=steps * self.period).counter

    def steps_ahead(self, counter, time):
        "Return how many steps counter is ahead of time, in seconds."
        return counter - int(time // self.period)


def stored_for_nobody():
    "Return the same as Secret.dump for owner 0, of a key that nobody has."
    return _stored_for_nobody(setting('encryption_keys'))


@functools.cache
def _stored_for_nobody(keys):
    return Secret.new().dump(0)
