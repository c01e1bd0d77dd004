# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Measure topics in the current database and write their results as JSON"

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
    versions = {
        'Python': platform.python_version(),
        'database': tools.database_version(),
        **{name: version(name) for name in PACKAGES}}
    output = {}
    for name in names:
        topic = importlib.import_module(f'benchmarks.{name}')
        load, *_ = os.getloadavg()
        started = time.monotonic()
        figures, data = topic.measure()
        output[name] = {
            'versions': versions,
            # Other programs on the machine disturb the measurement
            'load_before': load,
            'seconds': round(time.monotonic() - started),
            'figures': figures,
            'data': data}
    Path(os.environ['BENCH_OUTPUT']).write_text(json.dumps(output))


if __name__ == '__main__':
    main(sys.argv[1:])
    # Do not wait for the threads that keep the connections
    os._exit(0)
