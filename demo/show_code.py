# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Print the codes that the authenticators of a user of the demo show now"

import base64
import hmac
import json
import sys
import time

from .demo import AUTHENTICATORS, Server
from .run import FOLDER

PERIOD = 30


def code(key, step):
    "Return the code of RFC 6238 for the time step, with 6 digits and SHA-1."
    digest = hmac.digest(
        base64.b32decode(key), step.to_bytes(8, 'big'), 'sha1')
    offset = digest[-1] & 0xf
    number = int.from_bytes(digest[offset:offset + 4], 'big') & 0x7fffffff
    return f'{number % 10 ** 6:06}'


def main(login):
    if login not in AUTHENTICATORS:
        choices = ' or '.join(
            f'make demo-code LOGIN={name}' for name in AUTHENTICATORS)
        sys.exit(f"Type {choices}. The keys of others are not known here.")
    path = Server(FOLDER, FOLDER, None).key_file(login)
    if not path.exists():
        sys.exit("There is no demo yet. Start it with: make demo")
    step, elapsed = divmod(int(time.time()), PERIOD)
    for name, key in json.loads(path.read_text()).items():
        print(f"{code(key, step)}  {name}, {PERIOD - elapsed} s left")


if __name__ == '__main__':
    main(*sys.argv[1:])
