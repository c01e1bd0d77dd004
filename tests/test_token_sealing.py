# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging
from unittest.mock import patch

from cryptography.fernet import Fernet

from trytond.modules.authentication_totp.exceptions import TOTPTokenError
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .token_tools import MODEL, SEEDS, TokensTestCase, code_of
from .tools import UNREADABLE, Refused


class UnreadableTestCase(TokensTestCase):
    "Test that nobody can read the hidden fields of a token"

    def test_unreadable(self):
        "Test that the ORM hides them from administrators and the root user"
        _, user_id, id_ = self.owner()
        for user in [0, self.admin_id]:
            with self.transaction(user):
                Token = Pool().get(MODEL)
                for name in ['secret', 'number', 'counter', 'resync']:
                    self.assertIsNone(Token.read([id_], [name])[0][name])
                    self.assertIsNone(getattr(Token(id_), name))
                    self.assertEqual(
                        Token.search([(name, '!=', None)]), [])
                    with self.assertRaises(TOTPTokenError):
                        Token.write([Token(id_)], {name: None})
                self.assertEqual(
                    Token.search([('secret', 'like', '{%')]), [])

    def test_others(self):
        "Test that ordinary users cannot see tokens, and nobody can write them"
        login, user_id, id_ = self.owner()
        rpc = self.client(login)
        for method, *params in [
                ('read', [id_], ['serial']), ('search', []),
                ('search_read', [], 0, None, None, ['serial'])]:
            with self.assertRaises(Refused):
                rpc.model(MODEL, method, *params)
        for method, *params in [
                ('write', [id_], {'state': 'free'}),
                ('write', [id_], {'user': self.admin_id}),
                ('delete', [id_]), ('copy', [id_]),
                ('create', [{'serial': 'x', 'state': 'free',
                            'algorithm': 'sha1', 'digits': 6, 'period': 30,
                            'secret': SEEDS[0]}])]:
            for client in [rpc, self.rpc]:
                with self.assertRaises(Refused):
                    client.model(MODEL, method, *params)
        self.assertEqual(self.state(id_), ('assigned', user_id))

    def test_moved(self):
        "Test that a stored key cannot be used for another token"
        for keys in [[Fernet.generate_key().decode()], []]:
            self.set_keys(*keys)
            login, user_id, id_ = self.owner(f'S{len(keys)},{SEEDS[0]}')
            other, = self.import_(f'R{len(keys)},{SEEDS[1]}')
            with self.transaction() as transaction:
                table = Pool().get(MODEL).__table__()
                cursor = transaction.connection.cursor()
                cursor.execute(*table.select(
                        table.secret, where=table.id == other))
                stored, = cursor.fetchone()
                cursor.execute(*table.update(
                        [table.secret], [stored], where=table.id == id_))
            with self.assertLogs('trytond.modules', 'ERROR'):
                self.assertEqual(
                    self.log_in(login, code_of(SEEDS[1], self.now)),
                    (None, UNREADABLE))
            self.assertEqual(self.failures(user_id), 0)


class ResealTestCase(TokensTestCase):
    "Test that tokens are resealed as users are"

    def stored(self):
        with self.transaction():
            table = Pool().get(MODEL).__table__()
        return [secret for secret, in self.sql(
                table.select(table.secret, order_by=table.id))]

    def test_reseal(self):
        "Test that unencrypted secrets and those of older keys are resealed"
        self.import_()
        login, user_id = self.user()
        old, new = [Fernet.generate_key().decode() for _ in range(2)]
        self.assertTrue(all(s.startswith('{') for s in self.stored()))
        for keys in [[old], [new, old], [new]]:
            self.set_keys(*keys)
            with self.transaction():
                User = Pool().get('res.user')
                ids = User.totp_tokens()
                self.assertEqual(len(ids), 4)
                self.assertEqual(User.reseal_totp_tokens(ids), [])
            for secret in self.stored():
                Fernet(keys[0]).decrypt(secret)
        before = self.stored()
        with self.transaction():
            User = Pool().get('res.user')
            self.assertEqual(User.reseal_totp_tokens(ids), [])
        self.assertEqual(self.stored(), before)
        # Secrets that no key decrypts stay unchanged
        self.set_keys(old)
        with self.transaction():
            User = Pool().get('res.user')
            self.assertEqual(
                User.reseal_totp_tokens(ids), ['T0', 'T1', 'T2', 'T3'])
        self.assertEqual(self.stored(), before)
        self.set_keys(new)
        id_, = self.rpc.model(MODEL, 'search', [('serial', '=', 'T2')])
        self.act('assign', id_, user=user_id)
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[2], self.now))[0], user_id)

    def test_file(self):
        "Test that unencrypted tokens of a file can be deleted"
        session_id, _ = self.read_file(f'1,{SEEDS[0]}'.encode())
        self.set_keys(Fernet.generate_key().decode())
        self.assertEqual(self.found(self.dump()), SEEDS[:1])
        with self.transaction():
            Pool().get('res.user').drop_totp_token_files()
        self.assertEqual(self.found(self.dump()), [])
        with self.assertRaises(Refused):
            self.store(session_id)

    def test_start(self):
        "Test that the server reports how many tokens are unencrypted"
        self.import_()
        self.set_keys(Fernet.generate_key().decode())
        with self.transaction(), self.assertLogs(
                'trytond.modules', logging.ERROR) as logs:
            Pool().get('res.user')._check_totp_sealed()
        self.assertIn(
            "TOTP tokens whose secrets are stored unencrypted in the database "
            f"{DB_NAME}: 4; to encrypt them, run trytond_totp reseal",
            logs.output[-1])


class LostKeyTestCase(TokensTestCase):
    "Test that the server reports tokens whose secrets no key decrypts"

    def assertLine(self, count, tried):
        with self.assertLogs('trytond.modules', logging.ERROR) as logs:
            self.load()
        line, = [line for line in logs.output if "no key decrypts" in line]
        self.assertIn(
            "TOTP tokens whose secret no key decrypts in the database "
            f"{DB_NAME}: {count} of {tried} tried; ", line)
        self.assertIn('trytond_totp status', line)

    def test_at_start(self):
        "Test that the line at start says how many, and how many were tried"
        self.forget_others()
        old, new = [Fernet.generate_key().decode() for _ in range(2)]
        self.set_keys(old)
        self.import_(f'T0,{SEEDS[0]}', f'T1,{SEEDS[1]}')
        with self.assertNoLogs('trytond.modules', logging.ERROR):
            self.load()
        self.set_keys(new)
        self.import_(f'T2,{SEEDS[2]}')
        self.assertLine(2, 3)
        # The server reports them even if the setting was removed
        self.set_keys()
        self.import_(f'T3,{SEEDS[3]}')
        self.assertLine(3, 3)
        with patch(
                'trytond.modules.authentication_totp.maintenance._SAMPLE', 2):
            self.assertLine(2, 2)
        self.set_keys(new, old)
        with self.transaction():
            User = Pool().get('res.user')
            User.reseal_totp_tokens(User.totp_tokens())
        with self.assertNoLogs('trytond.modules', logging.ERROR):
            self.load()

    def test_once(self):
        "Test that a process reports them once, reading all in one statement"
        self.forget_others()
        self.set_keys(Fernet.generate_key().decode())
        counts = []
        for i, seed in enumerate(SEEDS[:2]):
            self.import_(f'T{i},{seed}')
            with self.count_statements() as statements:
                self.load()
            counts.append(len(statements))
        self.assertEqual(*counts)
        self.set_keys(Fernet.generate_key().decode())
        with self.assertLogs('trytond.modules', logging.ERROR) as logs:
            for _ in range(3):
                with self.transaction():
                    Pool().get('ir.configuration')(1).check()
        self.assertEqual(len(logs.output), 1, logs.output)
