# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The decoys, which count the wrong codes of logins without TOTP"

import hashlib
import hmac
import secrets

from trytond.cache import Cache
from trytond.model import ModelSingleton, ModelSQL, fields
from trytond.transaction import Transaction

# How many decoys the logins without TOTP share
_DECOYS = 1000


class UserTOTPDecoyKey(ModelSingleton, ModelSQL):
    """The key that chooses the decoy of a login

    It keeps secret which logins share a decoy. Otherwise an attacker could
    enter wrong codes for one of them to find out whether the other has TOTP.
    """
    __name__ = 'res.user.totp_decoy_key'
    __string__ = "TOTP Decoy Key"

    key = fields.Char("Key", required=True, strip=False)
    _key_cache = Cache('res.user.totp_decoy_key', context=False)

    @classmethod
    def __register__(cls, module):
        super().__register__(module)
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(table.id))
        if not cursor.fetchone():
            cursor.execute(*table.insert(
                    [table.key], [[secrets.token_hex(32)]]))

    @classmethod
    def users(cls):
        "Return the ids of all decoys."
        return range(-_DECOYS, 0)

    @classmethod
    def choose(cls, login):
        "Return the id of the decoy of the login, the same on every server."
        login = str(login).encode(errors='surrogatepass')
        digest = hmac.digest(cls._get(), login, hashlib.sha256)
        return -1 - int.from_bytes(digest, 'big') % _DECOYS

    @classmethod
    def _get(cls):
        key = cls._key_cache.get(None)
        if key is None:
            table = cls.__table__()
            cursor = Transaction().connection.cursor()
            cursor.execute(*table.select(table.key))
            key, = cursor.fetchone()
            cls._key_cache.set(None, key)
        return bytes.fromhex(key)
