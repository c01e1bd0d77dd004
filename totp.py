# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The one-time password itself: RFC 4226 and RFC 6238

Nothing here reads the configuration, the clock or the database.
"""

import base64
import contextlib
import dataclasses
import enum
import hashlib
import re
import secrets
import string
import unicodedata
from typing import NamedTuple
from urllib.parse import quote

try:
    from passlib.exc import TokenError
    from passlib.totp import TOTP
except ImportError as error:
    # The server must start, or nobody could log in at all
    MISSING, TOTP, TokenError = error, None, ValueError
else:
    MISSING = None

# The length of the hash in bits
ALGORITHMS = {'sha1': 160, 'sha256': 256, 'sha512': 512}
DIGITS = (6, 8)
# In seconds
PERIODS = range(15, 121)
# RFC 4226 section 4, requirement 6
MIN_KEY_BITS = 128
# By how many time steps the clock of an authenticator may be wrong
MAX_DRIFT = 10
# The parameters that most authenticators assume by default
USUAL = {'algorithm': 'sha1', 'digits': 6, 'period': 30}
# A person types or pastes nothing longer
_MAX_CODE_LENGTH = 256
_MAX_NAME_LENGTH = 64
# No two of them look alike
_RECOVERY_CHARACTERS = '34679ACDEFGHJKMNPQRTWXY'
_RECOVERY_GROUPS = 5
_RECOVERY_GROUP_LENGTH = 5
RECOVERY_LENGTH = _RECOVERY_GROUPS * _RECOVERY_GROUP_LENGTH
# What a recovery code never contains
NOT_RECOVERY_CHARACTERS = ''.join(
    c for c in string.digits + string.ascii_uppercase
    if c not in _RECOVERY_CHARACTERS)
_BASE32 = set(base64.b32encode(bytes(range(256))).decode()) - {'='}
# A recovery code with one or two wrong letters is not taken for a key
_FOREIGN_IN_KEY = 3
# Invisible characters: Unicode's property Default_Ignorable_Code_Point
_INVISIBLE = (
    '\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f'
    '\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8'
    '\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff')
_BLANK = re.compile(rf'[\s{_INVISIBLE}]+')
# Dashes that are not in Unicode's category of dashes
_DASHES = '\u02d7\u2043\u2212'
# Unlike str.upper, this turns no other letter into one of them, or into two
_CAPITALS = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)
_FULL_WIDTH = {
    ord(letter) + 0xfee0: letter for letter in string.ascii_letters}
# Some authenticators decode the URI twice, or before they split it, and would
# cut a name at these characters. The colon separates issuer and account, even
# if it is escaped.
_NAME_CHARACTERS = str.maketrans(
    {':': ' ', '&': '\uff06', '?': '\uff1f', '#': '\uff03', '%': '\uff05'})


def _simplify(text):
    """Return text without blanks and dashes, and with digits of any script and
    full-width letters in ASCII.

    Other compatibility forms, as in Unicode's NFKC, stay: a person who types a
    superscript does not mean a digit.
    """
    return ''.join(
        map(_simplify_character, _BLANK.sub('', text))).translate(_FULL_WIDTH)


def _simplify_character(character):
    if unicodedata.category(character) == 'Pd' or character in _DASHES:
        return ''
    return str(unicodedata.decimal(character, character))


def _clean(code):
    "Return code simplified, None if it is no text or too long to be typed."
    if isinstance(code, str) and len(code) <= _MAX_CODE_LENGTH:
        return _simplify(code)


def is_blank(code):
    "Return whether code, of any type, is blank."
    return code is None or (
        isinstance(code, str) and len(code) <= _MAX_CODE_LENGTH
        and not _BLANK.sub('', code))


def count_digits(code):
    """Return how many digits code, of any type, has.

    Return None if it does not consist of digits.
    """
    return len(_digits(code)) or None


def _digits(code):
    "Return code simplified, blank if it does not consist of digits."
    code = _clean(code) or ''
    return code if code.isascii() and code.isdigit() else ''


def is_key(code):
    """Return whether code, of any type, is not a code but a key: in base32, or
    in an otpauth URI.
    """
    if not isinstance(code, str):
        return False
    code = _simplify(code[:_MAX_CODE_LENGTH]).translate(_CAPITALS)
    return code.startswith('OTPAUTH') or (
        len(code) * 5 >= MIN_KEY_BITS and set(code) <= _BASE32
        and sum(c not in _RECOVERY_CHARACTERS for c in code)
        >= _FOREIGN_IN_KEY)


def new_recovery_code():
    """Return a random recovery code as a person types it, in groups of five.

    It has 113 bits. From 112 bits on, NIST SP 800-63B-4 section 3.1.2.2 and
    OWASP ASVS 6.5.2 accept a fast hash.
    """
    return '-'.join(
        ''.join(
            secrets.choice(_RECOVERY_CHARACTERS)
            for _ in range(_RECOVERY_GROUP_LENGTH))
        for _ in range(_RECOVERY_GROUPS))


def hash_recovery_code(code):
    """Return the hash of the recovery code, for storage.

    code: what a client sent, of any type
    Return None if code does not look like a recovery code. A mistyped one
    still does: it has letters, and is long enough.
    """
    code = (_clean(code) or '').translate(_CAPITALS)
    characters = [c.isalpha() for c in code if c.isalnum()]
    if (any(characters) and len(characters) > RECOVERY_LENGTH // 2
            and not is_key(code)):
        code = code.encode(errors='surrogatepass')
        return hashlib.sha256(code).hexdigest()


def one_line(text, length):
    """Return text on one line of at most length characters.

    Control characters and surrogates, which not every database stores, are
    left out.
    """
    text = ''.join(
        c for c in text
        if c.isspace() or unicodedata.category(c) not in {'Cc', 'Cs'})
    return ' '.join(text.split())[:length].rstrip()


def display_name(text):
    "Return text as the name of an issuer or an account in an authenticator."
    return one_line(text.translate(_NAME_CHARACTERS), _MAX_NAME_LENGTH)


@dataclasses.dataclass(frozen=True)
class Secret:
    """A key with the parameters that it was made with

    key: the shared key, in bytes
    algorithm: sha1, sha256 or sha512
    digits: how many digits a code has
    period: length of a time step in seconds
    """
    key: bytes = dataclasses.field(repr=False)
    algorithm: str
    digits: int
    period: int

    @classmethod
    def new(cls, key_length, algorithm, digits, period):
        """Return a secret with a random key.

        The key has key_length bits, or as many as the hash if that is more
        (RFC 6238 section 5.1).
        """
        bits = max(key_length, ALGORITHMS[algorithm])
        return cls(
            secrets.token_bytes((bits + 7) // 8), algorithm, digits, period)

    @classmethod
    def from_key(cls, key, algorithm, digits, period):
        """Return a secret with the key.

        key: base32 as a person types it, with or without padding
        Raise ValueError if key is not base32 of at least 128 bits (RFC 4226
        section 4, requirement 6).
        """
        if not isinstance(key, str):
            raise ValueError("the key must be a text")
        key = _simplify(key).rstrip('=')
        try:
            key = base64.b32decode(key + '=' * (-len(key) % 8), casefold=True)
        except ValueError:
            raise ValueError("the key must be base32") from None
        if len(key) * 8 < MIN_KEY_BITS:
            raise ValueError(f"the key must have {MIN_KEY_BITS} bits or more")
        return cls(key, algorithm, digits, period)

    @classmethod
    def from_values(cls, values):
        """Return the secret with the values that its property values returned.

        Raise ValueError if they are not the values of a secret.
        """
        try:
            secret = cls(
                base64.b32decode(values['key']), values['algorithm'],
                values['digits'], values['period'])
            # An unencrypted secret can be changed in the database
            valid = (
                len(secret.key) * 8 >= MIN_KEY_BITS
                and secret.algorithm in ALGORITHMS
                # A float may be equal to a valid integer
                and type(secret.digits) is type(secret.period) is int
                and secret.digits in DIGITS
                and secret.period in PERIODS)
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise ValueError("not the values of a secret")
        return secret

    @property
    def values(self):
        "The key and every parameter as JSON can hold them"
        return {
            'key': base64.b32encode(self.key).decode(),
            'algorithm': self.algorithm,
            'digits': self.digits,
            'period': self.period,
            }

    @property
    def _totp(self):
        return TOTP(
            self.key, format='raw', alg=self.algorithm, digits=self.digits,
            period=self.period)

    @property
    def text(self):
        "The key as a person types it: base32 in groups of four"
        key = self._totp.base32_key
        return ' '.join(key[i:i + 4] for i in range(0, len(key), 4))

    def uri(self, account, issuer, image=''):
        """Return the otpauth URI that an authenticator scans.

        account, issuer: the names that it shows, as display_name returns them
        image: the URL of a logo
        """
        uri = self._totp.to_uri(account or '\uff1f', issuer)
        if image:
            uri += '&image=' + quote(image, '')
        return uri

    def match(self, code, time, tolerance, drift=0):
        """Return the counter of the time step whose code is right.

        code: what a client sent, of any type
        time: in seconds since the epoch
        tolerance: how many steps before and after are searched (RFC 6238
            section 5.2)
        drift: how many steps the authenticator is ahead
        Return None if code is wrong or malformed.
        """
        digits = _digits(code)
        if not digits:
            return None
        fits = len(digits) == self.digits
        # Do the same work for any number of digits, so that time does not
        # reveal how many digits the codes of a user have
        with contextlib.suppress(TokenError):
            counter = self._totp.match(
                digits if fits else '0' * self.digits,
                time + drift * self.period,
                window=tolerance * self.period).counter
            return counter if fits else None

    @property
    def unusual(self):
        "A dictionary of the parameters that are not the USUAL ones"
        return {
            name: getattr(self, name) for name, value in USUAL.items()
            if getattr(self, name) != value}

    def counter(self, time):
        "Return the counter of the time step at time, in seconds."
        return int(time // self.period)


class Verdict(enum.Enum):
    "The result of verify for a code"
    RIGHT = enum.auto()
    WRONG = enum.auto()
    USED = enum.auto()
    # The last code used, which the authenticator still shows
    REPEATED = enum.auto()


class State(NamedTuple):
    """What the database stores about the clock of an authenticator

    counter: the counter of the last time step accepted, -1 for none
    drift: how many time steps its clock is ahead
    resync: the counter of a code beyond the tolerance, which the code of the
        next step confirms (RFC 4226 section 7.4), or None
    """
    counter: int = -1
    drift: int = 0
    resync: int | None = None


def verify(secrets, code, time, tolerance, dummies=()):
    """Verify the code against each of the secrets.

    secrets: a list of pairs of Secret and State
    code: what a client sent, of any type
    time: in seconds since the epoch
    tolerance: how many steps around the drift are accepted at once; a code
        up to MAX_DRIFT steps off has to be followed by the next one
    dummies: further such pairs, which only cause the same work as secrets
    Return a Verdict, the index of the secret that made a RIGHT or REPEATED
    code or None, and the new State of each of the secrets. A code at or before
    the last counter accepted is USED or REPEATED (RFC 6238 section 5.2).
    """
    pairs = [*secrets, *dummies]
    counters = [
        secret.match(code, time, tolerance, drift=state.drift)
        for secret, state in pairs]
    if not any(c is not None for c in counters[:len(secrets)]):
        counters = [
            secret.match(code, time, tolerance + MAX_DRIFT)
            for secret, _ in pairs]
    states = []
    refusal = Verdict.WRONG, None
    for index, ((secret, state), counter) in enumerate(
            zip(secrets, counters, strict=False)):
        verdict, new = _judge(
            state, counter, secret.counter(time), tolerance)
        if verdict is Verdict.RIGHT:
            states = [state for _, state in secrets]
            states[index] = new
            return verdict, index, states
        if verdict is Verdict.REPEATED:
            refusal = verdict, index
        elif verdict is Verdict.USED and refusal[1] is None:
            refusal = verdict, None
        states.append(new)
    return *refusal, states


def _judge(state, counter, now, tolerance):
    rejected = state._replace(resync=None)
    if counter is None:
        return Verdict.WRONG, rejected
    drift = counter - now
    if counter <= state.counter:
        shown = (counter == state.counter
            and abs(drift - state.drift) <= tolerance)
        return Verdict.REPEATED if shown else Verdict.USED, rejected
    if abs(drift - state.drift) <= tolerance:
        # One step a login, so that single old codes do not move it far
        drift = max(min(drift, state.drift + 1), state.drift - 1)
    elif abs(drift) > MAX_DRIFT:
        return Verdict.WRONG, rejected
    elif state.resync is None or counter != state.resync + 1:
        return Verdict.WRONG, state._replace(resync=counter)
    drift = max(min(drift, MAX_DRIFT), -MAX_DRIFT)
    return Verdict.RIGHT, State(counter, drift)
