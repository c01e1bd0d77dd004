# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build what the soak needs, and run it on a new PostgreSQL server"

import argparse
import os
import subprocess
import sys
import tempfile

from benchmarks.results import SERIES
from benchmarks.run import FOLDER, PACKAGES
from demo.demo import ROOT, build_server


def main():
    "Run the soak, and exit with its code."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--minutes', type=float, default=60, help="how long the users live")
    parser.add_argument(
        '--series', choices=SERIES, default=SERIES[0],
        help="the series of trytond")
    arguments = parser.parse_args()
    series = arguments.series
    build_server(
        FOLDER / series, *PACKAGES,
        f'trytond_authentication_sms == {series}.*', series=series)
    python = FOLDER / series / 'venv' / 'bin' / 'python'
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        sys.exit(subprocess.call([
                    python, ROOT / 'tests' / 'with_postgresql.py',
                    python, '-m', 'benchmarks.soak', str(arguments.minutes)],
                cwd=ROOT, env={
                    **os.environ,
                    'PYTHONWARNINGS': 'ignore',
                    'TRYTOND_DATABASE__PATH': folder,
                    }))


if __name__ == '__main__':
    main()
