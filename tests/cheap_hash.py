# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The hash of a password that costs nothing, to see what the rest costs"

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

CHEAP_HASH = PasswordHash(
    [Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)])
