# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import ast
import os
import re
import subprocess
import sys
import tempfile
import unittest
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from unittest.mock import patch
from xml.etree import ElementTree

from cryptography.fernet import Fernet

import trytond.config as config
from trytond.modules.authentication_totp import notice, settings
from trytond.pool import Pool

from .tools import TOTPTestCase

MODULE = 'trytond.modules.authentication_totp'
TESTS = Path(__file__).parent
DOC = TESTS.parent / 'doc'
ROW, CELL, REST = '   * - ', '     - ', '       '
# Read the modules from the package, so that the tests cover new ones
ROOMS = {path.stem for path in TESTS.parent.glob('*.py')} - {
    '__init__', 'setup'}
# The names of models also begin with res and ir, but continue in lower case
NAME = re.compile(
    rf'``((?:tests|{"|".join(sorted(ROOMS - {"res", "ir"}))}'
    r'|(?:res|ir)(?=\.[A-Z]))'
    r'\.(?!(?:py|xml)``)[\w.]+)``')
FILE = re.compile(r'``(\w+)\.py``')
SCENARIO = re.compile(r'``tests/(\w+\.rst)``')
# Messages that are only parts of others, or report no problem
PARTS = {
    f'msg_totp_{name}' for name in [
        'either', 'seconds', 'minutes', 'recovery_codes_file',
        'authenticator', 'authenticator_line', 'authenticator_line_used',
        'parameter_algorithm', 'parameter_digits', 'parameter_period',
        'token_name', 'device_line', 'all_devices', 'menu_words']}
# Functions that write their text to the log or to the standard error
SPEAKERS = {'error', 'exception', 'exit', 'log', 'tell', 'warning'}
# Settings of trytond, its modules and uWSGI that have no default
OTHER_SETTINGS = {
    'web': {'hostname'},
    'session': {'authentication_ip_network'},
    'ssl': {'certificate', 'privatekey'},
    'ldap_authentication': {'uri', 'create_user'},
    'uwsgi': {'enable-threads'},
    }
LOAD = """
import trytond.config as config
config.update_etc({!r})
from trytond.pool import Pool
Pool.start()
"""


def tables(name):
    "Return the tables on the page of the manual, as lists of rows of cells"
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
        elif rows and not line:
            rows[-1][-1] += '\n'
    return found


def first_cells(page):
    "Return the paragraphs in the first columns of the page's tables, as text"
    return {
        ' '.join(paragraph.replace('``', '').split())
        for _, *rows in tables(page)
        for cell, *_ in rows
        for paragraph in re.split(r'\n\s*\n', cell)}


def ini_blocks(page):
    "Return the examples of configuration files on the page"
    return [
        re.sub('(?m)^ +', '', block)
        for block in re.findall(
            r'\.\. code-block:: ini\n((?:\n| +.*\n)+)',
            (DOC / page).read_text(encoding='utf-8'))]


def shape(node):
    "Return the text of the expression with … for variables, or None"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        node = node.left
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub('%[a-z]', '…', node.value)
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(shape, node.values))
    if isinstance(node, ast.FormattedValue):
        return '…'


def spoken():
    "Yield the log lines, and the errors of the command and of the settings"
    for room in ROOMS:
        path = TESTS.parent / f'{room}.py'
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, 'attr', getattr(node.func, 'id', None))
            for text in filter(None, map(shape, node.args)):
                if name in SPEAKERS or text.startswith("must be "):
                    yield room, text
                break


@unittest.skipUnless(DOC.is_dir(), "the manual is not installed")
class ManualTestCase(unittest.TestCase):
    "Test that what the manual promises to auditors and developers exists"

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
        "Check the row and return the number of tests that it names"
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
        "Check the page's tables and return the number of tests that they name"
        count = 0
        for head, *rows in tables(page):
            self.assertTrue(rows)
            for row in rows:
                with self.subTest(page=page, row=row[0]):
                    self.assertEqual(len(row), len(head))
                    count += self.check_row(row)
        return count

    def test_audit(self):
        "Test that each row for auditors is complete, and that its tests exist"
        self.assertGreater(self.check('audit.rst'), 100)

    def test_laws(self):
        "Test that each law has a table, and that its places and tests exist"
        self.assertEqual(len(tables('laws.rst')), 11)
        self.assertGreater(self.check('laws.rst'), 50)

    def imports(self, room):
        "Return the names of the package's modules that the module imports"
        path = TESTS.parent / f'{room}.py'
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and node.level:
                names.update(
                    [node.module] if node.module
                    else [alias.name for alias in node.names])
        return names

    def test_design(self):
        "Test that the page lists the modules of the package and their imports"
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


@unittest.skipUnless(DOC.is_dir(), "the manual is not installed")
class TroubleTestCase(unittest.TestCase):
    "Test that users find each message on the page what_to_do_when"

    def test_messages(self):
        "Test that each message is on the page, with … for variables"
        texts = {}
        for record in ElementTree.parse(
                TESTS.parent / 'message.xml').iter('record'):
            texts[record.get('id')] = [
                re.sub(r'%\(\w+\)s', '…', field.text) for field in record]
        self.assertLessEqual(PARTS, texts.keys())
        listed = first_cells('what_to_do_when.rst')
        for name in texts.keys() - PARTS:
            if name.startswith('msg_totp_email_'):
                # E-mails contain their own instructions
                continue
            for text in texts[name]:
                with self.subTest(name=name):
                    self.assertTrue(text in listed, text)

    def test_spoken(self):
        "Test that each line of the log and of the command is on the page"
        listed = first_cells('what_to_do_when.rst')
        lines = list(spoken())
        self.assertGreater(len(lines), 40)
        for room, text in lines:
            pattern = re.compile(re.escape(text).replace('…', '.+'))
            with self.subTest(room=room):
                self.assertTrue(any(map(pattern.fullmatch, listed)), text)


@unittest.skipUnless(DOC.is_dir(), "the manual is not installed")
class ExamplesTestCase(unittest.TestCase):
    "Test that the examples of configuration files are correct"

    def test_names(self):
        "Test that each setting in an example exists"
        count = 0
        for page in DOC.glob('*.rst'):
            for block in ini_blocks(page.name):
                example = ConfigParser(interpolation=None)
                example.read_string(block)
                for section in example.sections():
                    known = OTHER_SETTINGS.get(section, set()) | set(
                        config.TrytonConfigParser().options(section)
                        if config.TrytonConfigParser().has_section(section)
                        else [])
                    if section == 'authentication_totp':
                        known = settings._SETTINGS.keys()
                    with self.subTest(page=page.name, section=section):
                        self.assertLessEqual(
                            set(example.options(section)), known)
                    count += 1
        self.assertGreater(count, 40)

    def test_load(self):
        "Test that a server starts with each file and reports nothing"
        blocks = ini_blocks('examples.rst')
        self.assertEqual(len(blocks), 5)
        for block in blocks:
            with self.subTest(block=block), \
                    tempfile.TemporaryDirectory() as folder:
                keys = Path(folder, 'keys')
                keys.touch(mode=0o600)
                keys.write_bytes(Fernet.generate_key())
                block, count = re.subn(
                    '(?m)^encryption_keys = .*', f'encryption_keys = {keys}',
                    block)
                self.assertEqual(count, 1)
                # The library for PostgreSQL may be missing
                block, count = re.subn(
                    'uri = postgresql://.*', 'uri = sqlite://', block)
                self.assertEqual(count, 1)
                path = Path(folder, 'trytond.conf')
                path.write_text(block)
                done = subprocess.run(
                    [sys.executable, '-c', LOAD.format(str(path))],
                    env={name: value for name, value in os.environ.items()
                        if not name.startswith('TRYTOND_')},
                    capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ''))


@unittest.skipUnless(DOC.is_dir(), "the manual is not installed")
class PoliciesTestCase(TOTPTestCase):
    "Test that the policies in the manual are correct"

    def policies(self):
        for page in DOC.glob('*.rst'):
            for block in ini_blocks(page.name):
                if found := re.search('(?m)^authentications = (.*)', block):
                    yield found[1]
        for _, *rows in tables('policies.rst'):
            for policy, *_ in rows:
                yield policy.strip().strip('`')

    def test_policies(self):
        "Test that the server reports nothing about the policies"
        policies = set(self.policies())
        self.assertGreater(len(policies), 10)
        with self.transaction():
            User = Pool().get('res.user')
            with patch.object(
                    User, '_login_ldap', lambda *_: None, create=True):
                for policy in policies:
                    self.set_config('session', 'authentications', policy)
                    with self.subTest(policy=policy), \
                            patch.object(notice, '_told', set()), \
                            self.assertNoLogs(MODULE, 'ERROR'):
                        User.check_authentications()
