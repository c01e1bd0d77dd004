# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import io
import unittest
from contextlib import redirect_stderr, redirect_stdout

from trytond import backend
from trytond.modules.authentication_totp import command
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, TOTPTestCase

COMMANDS = ['status', 'reset', 'unlock']


class LookupTestCase(TOTPTestCase):
    "Test how the command finds a user by the login"

    def main(self, *args):
        "Return exit code, standard output and error"
        stdout, stderr = io.StringIO(), io.StringIO()
        with redirect_stdout(stdout), redirect_stderr(stderr):
            try:
                command.main(['-d', DB_NAME, *args])
                code = 0
            except SystemExit as exit:
                code = exit.code
                # As Python does
                if isinstance(code, str):
                    print(code, file=stderr)
                    code = 1
        return code, stdout.getvalue(), stderr.getvalue()

    def named(self, login, active=True):
        _, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write(
                [User(user_id)], {'login': login, 'active': active})
        return user_id

    def assertUnknown(self, login, *meant):
        "Check that each command names those who are meant, and does nothing"
        for name in COMMANDS:
            with self.subTest(name, login=login):
                code, output, error = self.main(name, login)
                self.assertEqual((code, output), (1, ''))
                line, = error.splitlines()
                start = f'there is no user with the login "{login}"'
                if not meant:
                    self.assertEqual(line, start)
                elif len(meant) == 1:
                    self.assertEqual(
                        line, f'{start}; did you mean "{meant[0]}"?')
                else:
                    self.assertTrue(
                        line.startswith(f'{start}; did you mean '))
                    for other in meant:
                        self.assertIn(f'"{other}"', line)

    def test_case(self):
        "Test a login in another case"
        user_id = self.named('look.alice')
        for login in ['LOOK.ALICE', 'Look.Alice', 'look.alicE']:
            self.assertUnknown(login, 'look.alice')
        self.assertTrue(self.stored_secret(user_id))
        self.assertEqual(self.events(user_id), ['set_up'])

    def test_exact(self):
        "Test that the exact login wins"
        ids = [self.named(login) for login in ['look.bob', 'LOOK.BOB']]
        self.assertEqual(
            self.main('reset', 'LOOK.BOB'),
            (0, 'TOTP was reset for "LOOK.BOB"\n', ''))
        self.assertTrue(self.stored_secret(ids[0]))
        self.assertIsNone(self.stored_secret(ids[1]))
        self.assertUnknown('Look.Bob', 'look.bob', 'LOOK.BOB')
        self.assertTrue(self.stored_secret(ids[0]))

    def test_inactive(self):
        "Test that an inactive user may be meant"
        self.named('look.carol', active=False)
        self.assertUnknown('Look.Carol', 'look.carol')

    @unittest.skipIf(
        backend.name == 'sqlite', "SQLite ignores the case of ASCII only")
    def test_letters(self):
        "Test a login with other letters than those of English"
        self.named('look.\xe4nne')
        self.assertUnknown('LOOK.\xc4NNE', 'look.\xe4nne')

    def test_nobody(self):
        "Test that nobody is meant where nobody is alike"
        self.named('look.dave')
        for login in [
                'look.eve', 'look.dav', 'look', 'LOOK.DAVE2', '',
                # Wildcards, and a backslash before one
                'LOOK_DAVE', 'LOOK.%', '%', '_' * 9, 'look\\.dave', '\\',
                'root', 'ROOT']:
            self.assertUnknown(login)

    def test_wildcards_of_login(self):
        "Test logins that hold wildcards"
        self.named('look_100%')
        self.assertUnknown('LOOK_100%', 'look_100%')
        self.assertUnknown('LOOKX100X')
