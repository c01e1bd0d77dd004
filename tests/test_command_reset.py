# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import io
from unittest.mock import patch

from cryptography.fernet import Fernet

from trytond import backend
from trytond.modules.authentication_totp import command, enrolment
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .mail import MailTestCase
from .test_command import CommandMixin, Terminal
from .tools import KEY

ANSWER = "TOTP was reset, users: %d\n"


class ResetTestCase(CommandMixin, MailTestCase):
    "Test that the command resets all users after a confirmation (law 8)"

    def setUp(self):
        super().setUp()
        # Earlier tests have left secrets
        with self.transaction() as transaction:
            User = Pool().get('res.user')
            table = User.__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret, table.totp_pending_secret],
                    [None, None]))
        self.users = [self.user(KEY)[1] for _ in range(5)]
        _, self.other = self.user()
        with self.transaction():
            User.write([User(self.users[0])], {'active': False})
        self.received()

    def enabled(self):
        return [bool(self.stored_secret(id_)) for id_ in self.users]

    def assertReset(self, *args, told=True):
        output = self.assertDone('reset', '--all', *args)
        self.assertEqual(output, ANSWER % 5)
        self.assertEqual(self.enabled(), [False] * 5)
        for user_id in self.users:
            self.assertEqual(self.events(user_id), ['set_up', 'reset'])
        self.assertEqual(self.events(self.other), [])
        self.assertEqual(len(self.received()), 5 if told else 0)

    def test_all(self):
        "Test that each user with TOTP is reset and told"
        with patch.object(command, '_BATCH', 2):
            self.assertReset('--yes')

    def test_quiet(self):
        "Test that no e-mails are sent"
        self.assertReset('--yes', '--quiet', told=False)

    def test_quiet_login(self):
        "Test that one user can be reset without an e-mail"
        with self.transaction():
            login = Pool().get('res.user')(self.users[1]).login
        self.assertDone('reset', '--quiet', login)
        self.assertEqual(
            self.enabled(), [True, False, True, True, True])
        self.assertEqual(self.received(), [])

    def test_without_key(self):
        "Test that the reset needs no key for the secrets"
        for key in [[Fernet.generate_key().decode()], []]:
            with self.subTest(key=key):
                self.set_keys(Fernet.generate_key().decode())
                with self.transaction():
                    User = Pool().get('res.user')
                    for user_id in self.users:
                        User(user_id).set_totp_key(KEY)
                        User(user_id).start_totp_setup(self.code())
                self.set_keys(*key)
                self.assertDone('reset', '--all', '--yes')
                self.assertEqual(self.enabled(), [False] * 5)

    def ask(self, answer):
        with patch('sys.stdin', Terminal(answer)):
            return self.main('reset', '--all')

    def test_confirm(self):
        "Test that nothing is reset unless the user confirms at the terminal"
        question = (
            f"Reset TOTP of 5 users of the database {DB_NAME}? [y/N] ")
        for answer in ['', '\n', 'n\n', 'no\n', 'yolo\n']:
            with self.subTest(answer=answer):
                self.assertEqual(
                    self.ask(answer),
                    (1, '', f'{question}nothing was reset\n'))
                self.assertEqual(self.enabled(), [True] * 5)
        self.assertEqual(self.ask('y\n'), (0, ANSWER % 5, question))
        self.assertEqual(self.enabled(), [False] * 5)
        # No user with TOTP is left, so the command does not ask
        self.assertEqual(self.ask(''), (0, ANSWER % 0, ''))

    def test_no_terminal(self):
        "Test that a script must use an option to confirm"
        with patch('sys.stdin', io.StringIO('y\n')):
            self.assertFails(
                "no terminal to ask for confirmation: add --yes",
                'reset', '--all')
        self.assertEqual(self.enabled(), [True] * 5)

    def test_usage(self):
        "Test that the command needs either one login or the option for all"
        for args in [[], ['alice', '--all', '--yes'], ['--quiet']]:
            with self.subTest(args=args):
                code, output, error = self.main('reset', *args)
                self.assertEqual((code, output), (2, ''))
                self.assertIn('error: ', error)
        self.assertEqual(self.enabled(), [True] * 5)

    def test_interrupted(self):
        "Test that a second run continues after an interruption"
        # Patch the module's function, as the command builds the pool anew
        reset = enrolment.User.reset_totp.__func__
        for error, message in [
                (KeyboardInterrupt, "interrupted"),
                (backend.DatabaseOperationalError("no"),
                    "the database failed: no")]:
            calls = []

            def reset_totp(cls, users, calls=calls, error=error, **kwargs):
                calls.append(None)
                if len(calls) > 1:
                    raise error
                return reset(cls, users, **kwargs)
            with self.subTest(error=error), \
                    patch.object(command, '_BATCH', 2), patch('time.sleep'):
                with patch.object(
                        enrolment.User, 'reset_totp',
                        classmethod(reset_totp)):
                    self.assertFails(message, 'reset', '--all', '--yes')
        self.assertEqual(sum(self.enabled()), 1)
        self.assertEqual(
            self.assertDone('reset', '--all', '--yes'), ANSWER % 1)
        self.assertEqual(self.enabled(), [False] * 5)
        for user_id in self.users:
            self.assertEqual(self.events(user_id), ['set_up', 'reset'])
