# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The files of the results: results.json and RESULTS.md, made from it

Call "python3 -m benchmarks.results" to write RESULTS.md again after you have
changed the docstring of a topic, which explains its table.
"""

import ast
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent
DATA = FOLDER / 'results.json'
REPORT = FOLDER / 'RESULTS.md'
TOPICS = [
    'login', 'step', 'silent', 'memory', 'throughput', 'mail', 'attack',
    'growth']
SERIES = ['8.0', '8.2']
DATABASES = ['SQLite', 'PostgreSQL']
SETUPS = [f'{series} {name}' for series in SERIES for name in DATABASES]
HEAD = """\
# What a login costs

`make bench` measures and writes this file. `results.json` beside it contains
the numbers of all runs, the versions and the machine. A value in bold misses
its goal. Compare only values in the same column.
"""


def figure(name, value, digits=2, goal=None):
    """Return a row of the table of a topic.

    value: a number, or a list of numbers, of which the table shows the range
    digits: the number of decimals
    goal: the highest value that meets the goal, or a list of the lowest and
        the highest one
    """
    return {'name': name, 'value': value, 'digits': digits, 'goal': goal}


def show(number, digits):
    "Return the number as text."
    return f'{number:,.{digits}f}'


def show_value(value, digits):
    "Return the value of a figure as text."
    if not isinstance(value, list):
        return show(value, digits)
    lowest, highest = show(min(value), digits), show(max(value), digits)
    return lowest if lowest == highest else f'{lowest} to {highest}'


def show_goal(goal):
    "Return the goal of a figure as text."
    if goal is None:
        return ''
    if isinstance(goal, list):
        return ' to '.join(map(str, goal))
    return f'≤ {goal}'


def is_met(value, digits, goal):
    "Return whether the value of a figure, as it is shown, meets its goal."
    lowest, highest = (
        goal if isinstance(goal, list) else [float('-inf'), goal])
    values = value if isinstance(value, list) else [value]
    return all(lowest <= round(v, digits) <= highest for v in values)


def render_topic(topic, results):
    """Return the section of the topic as Markdown.

    results: the results of measure.py by setup
    """
    setups = [setup for setup in SETUPS if setup in results]
    rows = {}
    for setup in setups:
        for row in results[setup]['figures']:
            rows.setdefault(row['name'], {})[setup] = row
    lines = [['', 'goal', *setups, 'met'], ['---'] * (len(setups) + 3)]
    for name, by_setup in rows.items():
        cells, missed = [], False
        for setup in setups:
            row = by_setup.get(setup)
            text = '–'
            if row:
                value, digits, goal = row['value'], row['digits'], row['goal']
                text = show_value(value, digits)
                if goal is not None and not is_met(value, digits, goal):
                    missed = True
                    text = f'**{text}**'
            cells.append(text)
        goal = next(iter(by_setup.values()))['goal']
        met = '' if goal is None else 'no' if missed else 'yes'
        lines.append([name, show_goal(goal), *cells, met])
    module = ast.parse(Path(FOLDER, f'{topic}.py').read_text())
    dates = sorted({results[setup]['date'] for setup in setups})
    return '\n'.join([
            f'## {topic}', '', ast.get_docstring(module), '',
            *('| ' + ' | '.join(line) + ' |' for line in lines), '',
            f"Measured on {', '.join(dates)}.", ''])


def read():
    "Return the results by topic and setup."
    return json.loads(DATA.read_text()) if DATA.exists() else {}


def to_json(results):
    "Return the results as JSON that is easy to read and to compare."
    def rounded(value):
        "Return the value with six significant digits in all numbers."
        if isinstance(value, float):
            return float(f'{value:.6g}')
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return list(map(rounded, value))
        return value

    text = json.dumps(rounded(results), indent=1, ensure_ascii=False)
    # Write a list of numbers on one line. No text contains a line break.
    return re.sub(
        r'\[\n([\d\s.,e+-]*)\]',
        lambda match: f"[{' '.join(match[1].split())}]", text) + '\n'


def write(new):
    """Write both files with the new results and the earlier other ones.

    new: the results by topic and setup
    """
    results = read()
    for topic, by_setup in new.items():
        results.setdefault(topic, {}).update(by_setup)
    results = {
        topic: {
            setup: results[topic][setup]
            for setup in SETUPS if setup in results[topic]}
        for topic in TOPICS if topic in results}
    DATA.write_text(to_json(results))
    REPORT.write_text('\n'.join([
                HEAD, *(render_topic(*item) for item in results.items())]))


if __name__ == '__main__':
    write({})
