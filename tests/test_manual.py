# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import ast
import re
import unittest
from importlib import import_module
from pathlib import Path

MODULE = 'trytond.modules.authentication_totp'
TESTS = Path(__file__).parent
DOC = TESTS.parent / 'doc'
ROW, CELL, REST = '   * - ', '     - ', '       '
# The modules of the package, of which a new one is known at once
ROOMS = {path.stem for path in TESTS.parent.glob('*.py')} - {
    '__init__', 'setup'}
# Names of models begin with res and ir too, but in lower case
NAME = re.compile(
    rf'``((?:tests|{"|".join(sorted(ROOMS - {"res", "ir"}))}'
    r'|(?:res|ir)(?=\.[A-Z]))'
    r'\.(?!(?:py|xml)``)[\w.]+)``')
FILE = re.compile(r'``(\w+)\.py``')
SCENARIO = re.compile(r'``tests/(\w+\.rst)``')


def tables(name):
    "The tables of the page of the manual, as lists of rows of cells"
    found, rows = [], None
    for line in (DOC / name).read_text(encoding='utf-8').splitlines():
        if line.startswith('.. list-table::'):
            rows = []
            found.append(rows)
        elif line and not line.startswith(' '):
            rows = None
        elif rows is None:
            continue
        elif f'{line} '.startswith(ROW):
            rows.append([line[len(ROW):]])
        elif rows and f'{line} '.startswith(CELL):
            rows[-1].append(line[len(CELL):])
        elif rows and line.startswith(REST):
            rows[-1][-1] += f'\n{line.strip()}'
    return found


@unittest.skipUnless(DOC.is_dir(), "the manual is not installed")
class ManualTestCase(unittest.TestCase):
    "Test that what the manual promises to auditors and developers is there"

    def resolve(self, name):
        package, _, rest = name.partition('.')
        if package == 'tests':
            module, class_, method = rest.split('.')
            case = getattr(import_module(f'.{module}', __package__), class_)
            self.assertTrue(issubclass(case, unittest.TestCase))
            self.assertTrue(method.startswith('test_'))
            getattr(case, method)
        else:
            place = import_module(f'{MODULE}.{package}')
            for attribute in rest.split('.'):
                place = getattr(place, attribute)

    def check_row(self, row):
        "Check the row and return how many tests it names"
        for cell in row:
            self.assertTrue(cell.strip(), "an empty cell")
        for name in NAME.findall('\n'.join(row)):
            self.resolve(name)
        scenarios = SCENARIO.findall(row[-1])
        for scenario in scenarios:
            self.assertTrue((TESTS / scenario).is_file(), scenario)
        count = row[-1].count('``tests')
        self.assertEqual(
            count, len(scenarios) + sum(
                name.startswith('tests.') for name in NAME.findall(row[-1])))
        self.assertTrue(
            count or ':doc:' in row[-1] or row[-1].startswith("None, "),
            "neither a test, nor a page, nor the reason why there is none")
        return count

    def check(self, page):
        "Check the tables of the page and return how many tests they name"
        count = 0
        for head, *rows in tables(page):
            self.assertTrue(rows)
            for row in rows:
                with self.subTest(page=page, row=row[0]):
                    self.assertEqual(len(row), len(head))
                    count += self.check_row(row)
        return count

    def test_audit(self):
        "Test that each row for the auditor is filled and its tests exist"
        self.assertGreater(self.check('audit.rst'), 100)

    def test_laws(self):
        "Test that each law has a table, whose places and tests exist"
        self.assertEqual(len(tables('laws.rst')), 11)
        self.assertGreater(self.check('laws.rst'), 50)

    def imports(self, room):
        "The names of the modules of the package that the module imports"
        path = TESTS.parent / f'{room}.py'
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names.update(
                    [node.module] if node.module
                    else [alias.name for alias in node.names])
        return names

    def test_design(self):
        "Test that the rooms and what they import are those of the package"
        (_, *rows), *_ = tables('design.rst')
        listed = []
        for files, _, imports in rows:
            with self.subTest(files=files):
                room, = FILE.findall(files)
                imported = self.imports(room)
                self.assertLessEqual(imported, set(listed))
                self.assertEqual(
                    imported - {'exceptions'}, set(FILE.findall(imports)))
                listed.append(room)
        self.assertEqual(sorted(listed), sorted(ROOMS))
