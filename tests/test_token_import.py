# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json

from cryptography.fernet import Fernet

from trytond.modules.authentication_totp import tokenfile
from trytond.pool import Pool
from trytond.protocols.jsonrpc import JSONEncoder

from .test_token_files import PRE_SHARED, as_totp
from .token_tools import EXPIRED, MODEL, SEEDS, TokensTestCase, code_of
from .tools import RPC, Refused


class ImportTestCase(TokensTestCase):
    "Test the import of files"

    def test_import(self):
        "Test that the preview shows which tokens will be imported"
        rows = [
            'serial;key;algorithm;digits;period',
            f'A1;{SEEDS[0]};sha256;8;60',
            'A2;short!',
            f'A3;{SEEDS[1]}',
            f'A3;{SEEDS[2]}']
        session_id, preview = self.read_file('\r\n'.join(rows).encode())
        self.assertEqual(self.rpc.model(MODEL, 'search', []), [])
        self.assertEqual(preview['imports'], 2)
        self.assertEqual(preview['refusals'], 2)
        self.assertEqual(preview['accepted'], [
                {'line': 2, 'serial': 'A1', 'algorithm': 'SHA-256',
                    'digits': 8, 'period': 60},
                {'line': 4, 'serial': 'A3', 'algorithm': 'SHA-1',
                    'digits': 6, 'period': 30}])
        self.assertEqual(preview['refused'], [
                {'line': 3, 'serial': 'A2',
                    'reason': "The key is neither base32 nor hexadecimal."},
                {'line': 5, 'serial': 'A3',
                    'reason': "The serial number is already on line 4."}])
        # Clients send back everything that they were shown
        self.assertEqual(self.store(session_id, preview), 2)
        self.assertEqual([
                (t['serial'], t['state'], t['algorithm'], t['digits'],
                    t['period'], t['user'])
                for t in self.rpc.model(
                    MODEL, 'search_read', [], 0, None, None,
                    ['serial', 'state', 'algorithm', 'digits', 'period',
                        'user'])
                ], [
                ('A1', 'free', 'sha256', 8, 60, None),
                ('A3', 'free', 'sha1', 6, 30, None)])
        # The file is imported only once
        with self.assertRaises(Refused) as context:
            self.store(session_id)
        self.assertEqual(context.exception.args[1][0], EXPIRED)
        _, preview = self.read_file('\n'.join(rows).encode())
        self.assertEqual(preview['imports'], 0)
        self.assertEqual(
            [line['reason'] for line in preview['refused']
                if line['serial'] in {'A1', 'A3'}],
            ["The token has already been imported.",
                "The token has already been imported.",
                "The serial number is already on line 4."])

    def test_pskc(self):
        "Test that an encrypted file of RFC 6030 can be imported"
        with self.assertRaises(Refused) as context:
            self.read_file(as_totp(6))
        self.assertEqual(
            context.exception.args[1][0],
            "The keys in the file are encrypted. Enter the pre-shared key "
            "that the manufacturer sent you.")
        session_id, preview = self.read_file(
            as_totp(6), secret_key=PRE_SHARED)
        self.assertEqual(preview['refused'], [])
        self.assertEqual(self.store(session_id), 1)

    def test_refused(self):
        "Test that an unreadable file is refused with a message"
        for data in [
                b'', b'\0', b'x', b'<x/>', b'<!DOCTYPE x><x/>', None, 5, []]:
            with self.subTest(data=data):
                with self.assertRaises(Refused) as context:
                    self.read_file(data)
                self.assertEqual(context.exception.args[0], 'UserError')
                self.assertIn('file', context.exception.args[1][0])

    def test_many(self):
        "Test that a file with MAX_TOKENS tokens can be imported"
        rows = [
            f'{i},{SEEDS[0]}' for i in range(tokenfile.MAX_TOKENS)]
        session_id, preview = self.read_file('\n'.join(rows).encode())
        self.assertEqual(len(preview['accepted']), 10_000)
        self.assertEqual(self.store(session_id, preview), 10_000)
        self.assertEqual(
            self.rpc.model(MODEL, 'search_count', []), 10_000)

    def test_who(self):
        "Test that only users who may write users can import tokens"
        session_id, _ = self.read_file(f'1,{SEEDS[0]}'.encode())
        other, _ = self.user(administrator=True)
        for login in [self.user()[0], other]:
            rpc = self.client(login)
            if login != other:
                for name in ['import_totp_tokens', *(
                        f'{name}_totp_token' for name in [
                            'assign', 'take_back', 'lose', 'discard'])]:
                    for context in [
                            {}, {'active_model': MODEL, 'active_ids': []},
                            {'active_model': 'ir.ui.menu'}]:
                        with self.assertRaises(Refused):
                            self.wizard(
                                rpc, f'res.user.{name}', 'create', **context)
            # Not even another administrator can use the session of a wizard
            with self.assertRaises(Refused):
                self.store(session_id, rpc=rpc)
        manager, _ = self.manager()
        rpc = self.client(manager)
        session_id, _ = self.read_file(f'2,{SEEDS[0]}'.encode(), rpc=rpc)
        self.assertEqual(self.store(session_id, rpc=rpc), 1)

    def test_dropped(self):
        "Test that each of these events ends the time to import tokens"
        def late(session_id):
            self.now += 601

        def cancel(session_id):
            self.wizard(
                self.rpc, 'res.user.import_totp_tokens', 'delete', session_id)

        def again(session_id):
            self.read_file(f'2,{SEEDS[1]}'.encode())

        def clean(session_id):
            self.now += 601
            with self.transaction():
                Pool().get('res.user').clean_totp()

        def imported(session_id):
            login, _ = self.user(administrator=True)
            rpc = self.client(login)
            self.store(
                self.read_file(f'1,{SEEDS[2]}'.encode(), rpc=rpc)[0], rpc=rpc)

        for end in [late, cancel, again, clean, imported]:
            with self.subTest(end=end.__name__):
                session_id, _ = self.read_file(f'1,{SEEDS[0]}'.encode())
                end(session_id)
                before = self.rpc.model(MODEL, 'search_count', [])
                with self.assertRaises(Refused):
                    self.store(session_id)
                self.assertEqual(
                    self.rpc.model(MODEL, 'search_count', []), before)

    def test_nowhere(self):
        "Test that no key is sent, logged or stored unencrypted"
        with self.assertLogs(level='INFO') as logs:
            self.set_keys(Fernet.generate_key().decode())
            dumps = self.live('sealed')
            # Errors about a file must not show its keys either
            with self.assertRaises(Refused):
                self.read_file(f'<{SEEDS[0]}'.encode())
            with self.assertRaises(Refused):
                self.read_file(f'1,"{SEEDS[0]}"x'.encode())
        for content in [*dumps, self.answers, '\n'.join(logs.output)]:
            self.assertEqual(self.found(content), [])
        # Without encryption the search finds the keys, so it can find them
        self.set_keys()
        self.assertEqual(
            [self.found(dump) for dump in self.live('clear')],
            [SEEDS[:1], SEEDS, SEEDS, SEEDS])
        self.assertEqual(self.found(self.answers), [])

    def live(self, prefix):
        """Read, import, use and lose tokens

        Return a dump of the database after each of these steps.
        """
        rows = [f'{prefix}{i},{seed}' for i, seed in enumerate(SEEDS)]
        dumps = []
        login, user_id = self.user()
        answers = []
        call = RPC.call

        def recorded(*args):
            answers.append(call(*args))
            return answers[-1]
        self.addCleanup(setattr, RPC, 'call', call)
        RPC.call = recorded
        session_id, preview = self.read_file(rows[0].encode())
        dumps.append(self.dump())
        session_id, preview = self.read_file('\n'.join(rows).encode())
        self.store(session_id, preview)
        dumps.append(self.dump())
        id_, = self.rpc.model(MODEL, 'search', [('serial', '=', f'{prefix}0')])
        self.act('assign', id_, user=user_id)
        self.log_in(login, code_of(SEEDS[0], self.now))
        self.assertEqual(self.state(id_)[0], 'in_use')
        dumps.append(self.dump())
        for name in [
                'serial', 'secret', 'number', 'counter', 'resync', 'user']:
            for method, *params in [
                    ('read', [id_], [name]),
                    ('export_data', [id_], [name]),
                    ('search_read', [], 0, None, None, [name]),
                    ('search', [(name, '!=', None)]),
                    ('default_get', [name]),
                    ('copy', [id_]),
                    ('write', [id_], {name: '1'}),
                    ('fields_get', [name])]:
                try:
                    self.rpc.model(MODEL, method, *params)
                except Refused as refused:
                    answers.append(refused.args)
        with self.transaction():
            Pool().get('ir.attachment').create([{
                        'name': "Token", 'resource': f'{MODEL},{id_}'}])
        self.act('lose', id_)
        dumps.append(self.dump())
        RPC.call = call
        self.answers = json.dumps(answers, cls=JSONEncoder)
        return dumps
