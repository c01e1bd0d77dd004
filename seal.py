# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Seal texts for storage, each for one place only"

import contextlib
import json

try:
    from cryptography.fernet import Fernet, InvalidToken
except ImportError as error:
    # The server must start, else nobody could log in at all
    MISSING = error
else:
    MISSING = None

# Only a text in clear begins with it
CLEAR = '{'


class SealError(ValueError):
    "A stored text that no key decrypts or that belongs to another place"


if MISSING:
    InvalidToken = SealError

    class Fernet:
        "A key that opens and seals nothing"

        def __init__(self, text):
            pass

        def encrypt_at_time(self, text, time):
            raise SealError("cryptography is missing")

        def decrypt(self, text):
            raise SealError("cryptography is missing")


def key(text):
    """Return the key, for seal and unseal, of a line of the file of keys.

    text: 32 bytes in URL-safe base64
    Raise ValueError if it is not such a text.
    """
    return Fernet(text)


def new_key():
    "Return a new key as a line of the file of keys."
    return Fernet.generate_key().decode()


def seal(values, keys, time, **place):
    """Return values as the text to store, encrypted with the first key.

    values: what JSON can hold
    keys: the keys, the text is in clear if there are none
    time: in seconds since the epoch; Fernet writes it in clear into the text
    place: the owner, the purpose and the generation of the values; unseal
        opens the text for the same place only
    Raise SealError if they cannot be encrypted.
    """
    text = json.dumps({**place, 'values': values})
    if keys:
        text = keys[0].encrypt_at_time(text.encode(), int(time)).decode()
    return text


def unseal(stored, keys, **place):
    """Return the values that were sealed, and whether they are stale.

    Stale values are not encrypted with the first key.
    Raise SealError if no key decrypts the text or if it was sealed for another
    place.
    """
    try:
        text, stale = _open(stored, keys)
        sealed = json.loads(text)
        values = sealed.pop('values')
    except (InvalidToken, ValueError, KeyError, TypeError, AttributeError):
        raise SealError("not a sealed text") from None
    if sealed != place:
        raise SealError("sealed for another place")
    return values, stale


def _open(stored, keys):
    if stored.startswith(CLEAR):
        return stored, bool(keys)
    opened = []
    # The time does not tell which of them opens it
    for key in keys:
        with contextlib.suppress(InvalidToken):
            opened.append((key.decrypt(stored), key is not keys[0]))
    if not opened:
        raise InvalidToken
    return opened[0]
