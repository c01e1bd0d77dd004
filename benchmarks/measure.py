# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Measure topics in the current database and write their tables"

import importlib
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from benchmarks import tools

PACKAGES = [
    'trytond', 'trytond_authentication_totp', 'passlib', 'cryptography',
    'argon2-cffi', 'python-sql']


def main(names):
    "Measure the topics with these names."
    tools.start()
    versions = ', '.join([
            f'Python {platform.python_version()}', tools.database_version(),
            *(f'{name} {version(name)}' for name in PACKAGES)])
    output = {}
    for name in names:
        topic = importlib.import_module(f'benchmarks.{name}')
        started = time.monotonic()
        tables = '\n'.join(topic.measure())
        seconds = time.monotonic() - started
        output[name] = f'{versions}; {seconds:.0f} seconds\n\n{tables}'
        print(f'\n## {name}\n\n{output[name]}', flush=True)
    Path(os.environ['BENCH_OUTPUT']).write_text(json.dumps(output))


if __name__ == '__main__':
    main(sys.argv[1:])
    # Do not wait for the threads that keep the connections
    os._exit(0)
