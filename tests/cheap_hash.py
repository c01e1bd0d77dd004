# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"A hash of the password that costs nothing, to measure everything else"

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

CHEAP_HASH = PasswordHash(
    [Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])
