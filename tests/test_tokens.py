# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import hashlib
import json
import logging
import unittest

import pyotp
from cryptography.fernet import Fernet

from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.model import ModelSQL
from trytond.modules.authentication_totp import tokenfile
from trytond.modules.authentication_totp.exceptions import TOTPTokenError
from trytond.pool import Pool
from trytond.protocols.jsonrpc import JSONEncoder
from trytond.tests.test_tryton import DB_NAME

from .test_concurrency import THREADS, at_once
from .test_token_files import PRE_SHARED, as_totp
from .tools import (
    IS_KEY, KEY, LOCKED, PASSWORD, RPC, UNREADABLE, USED, WAIT, WRONG_DIGITS,
    Refused, TOTPTestCase, right_code)

MODEL = 'res.user.totp_token'
ASKS = "Enter the code that the token %s shows for %s."
WRONG_TOKEN = (
    "The code is wrong. Enter the code that the token shows now. "
    "If it is refused too, enter the next one.")
EXPIRED = (
    "The file was read too long ago, or one of its tokens was imported "
    "meanwhile. Nothing was imported now. Read the file again.")
SEEDS = [
    base64.b32encode(hashlib.sha256(b'seed %d' % i).digest()[:20]).decode()
    for i in range(4)]
YEAR = 365 * 24 * 60 * 60


def code_of(seed, time, digits=6, digest='sha1', interval=30):
    "The code of a token that is not passlib's"
    return pyotp.TOTP(
        seed, digits=digits, digest=getattr(hashlib, digest),
        interval=interval).at(time)


class TokensTestCase(TOTPTestCase):
    "Administrators who import and assign tokens"
    authentications = 'password+totp?setup_totp'

    def setUp(self):
        super().setUp()
        with self.transaction() as transaction:
            for model in [MODEL, 'res.user.totp_token_file']:
                table = Pool().get(model).__table__()
                transaction.connection.cursor().execute(*table.delete())
        self.admin, self.admin_id = self.user(administrator=True)
        self.rpc = self.client(self.admin)

    def wizard(self, rpc, name, method, *params, **context):
        return rpc.call(f'wizard.{name}.{method}', *params, context)

    def read_file(self, data, rpc=None, **values):
        "Read the file with the wizard, return its session and the preview"
        rpc = rpc or self.rpc
        name = 'res.user.import_totp_tokens'
        session_id, start, _ = self.wizard(rpc, name, 'create')
        self.wizard(rpc, name, 'execute', session_id, {}, start)
        result = self.wizard(rpc, name, 'execute', session_id, {
                'start': {
                    'token_file': data, 'token_file_name': 'tokens.csv',
                    **values}}, 'check')
        self.assertEqual(result['view']['state'], 'preview')
        return session_id, result['view']['defaults']

    def store(self, session_id, preview=None, rpc=None):
        "Import what was read"
        result = self.wizard(
            rpc or self.rpc, 'res.user.import_totp_tokens', 'execute',
            session_id, {'preview': preview} if preview else {}, 'store')
        return result['view']['defaults']['imported']

    def import_(self, *rows):
        "Import the tokens and return their ids"
        if not rows:
            rows = [f'T{i},{seed}' for i, seed in enumerate(SEEDS)]
        session_id, preview = self.read_file('\n'.join(rows).encode())
        self.assertEqual(self.store(session_id), preview['imports'])
        return [
            self.rpc.model(MODEL, 'search', [
                    ('serial', '=', row.partition(',')[0])])[0]
            for row in rows]

    def act(self, name, *ids, rpc=None, **values):
        "Run the wizard with the tokens"
        rpc = rpc or self.rpc
        wizard = f'res.user.{name}_totp_token'
        context = {'active_model': MODEL, 'active_ids': list(ids)}
        session_id, start, _ = self.wizard(rpc, wizard, 'create', **context)
        result = self.wizard(
            rpc, wizard, 'execute', session_id, {}, start, **context)
        shown = result['view']['defaults']
        self.assertEqual(sorted(shown['tokens']), sorted(ids))
        self.wizard(
            rpc, wizard, 'execute', session_id,
            {start: {**shown, **values}}, name, **context)
        return self.wizard(rpc, wizard, 'delete', session_id, **context)

    def assertActs(self, message, name, *ids, **values):
        with self.assertRaises(Refused) as context:
            self.act(name, *ids, **values)
        self.assertIn(message, context.exception.args[1][0])

    def token(self, id_):
        token, = self.rpc.model(
            MODEL, 'read', [id_],
            ['serial', 'user', 'state', 'algorithm', 'digits', 'period'])
        return token

    def state(self, id_):
        token = self.token(id_)
        return token['state'], token['user']

    def owner(self, *rows):
        "A user with a token assigned, and its id"
        login, user_id = self.user()
        id_, = self.import_(*rows or [f'T0,{SEEDS[0]}'])
        self.act('assign', id_, user=user_id)
        return login, user_id, id_

    def log_in(self, login, *codes, **parameters):
        "The id of the user, and what was asked last"
        user_id, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=codes, **parameters)
        return user_id, questions[-1][1] if questions else None

    def dump(self):
        "All rows of all tables"
        with self.transaction():
            tables = [
                model.__table__() for _, model in Pool().iterobject()
                if issubclass(model, ModelSQL)
                and not callable(model.table_query)]
        return str([self.sql(table.select()) for table in tables])

    def forms(self, key):
        raw = base64.b32decode(key)
        return [
            key, key.lower(), raw.hex(), raw.hex().upper(),
            raw.decode('latin-1'), repr(raw)[2:-1],
            *(base64.b64encode(raw[i:]).decode()[:20] for i in range(3)),
            # The file as a whole, in the same way
            *(base64.b64encode(key[i:].encode()).decode()[:20]
                for i in range(3))]

    def found(self, content, keys=SEEDS):
        "Which of the keys the text contains in some encoding"
        return [k for k in keys if any(f in content for f in self.forms(k))]


class ImportTestCase(TokensTestCase):
    "Test the import of files"

    def test_import(self):
        "Test that the preview shows what is then imported, and what not"
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
        # The clients send back all that they were shown
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
        # It is imported once
        with self.assertRaises(Refused) as context:
            self.store(session_id)
        self.assertEqual(context.exception.args[1][0], EXPIRED)
        _, preview = self.read_file('\n'.join(rows).encode())
        self.assertEqual(preview['imports'], 0)
        self.assertEqual(
            [line['reason'] for line in preview['refused']
                if line['serial'] in {'A1', 'A3'}],
            ["The token was imported before.",
                "The token was imported before.",
                "The serial number is already on line 4."])

    def test_pskc(self):
        "Test an encrypted file of RFC 6030"
        with self.assertRaises(Refused) as context:
            self.read_file(as_totp(6))
        self.assertEqual(
            context.exception.args[1][0],
            "The keys in the file are encrypted. Enter the pre-shared key "
            "that the manufacturer has sent.")
        session_id, preview = self.read_file(
            as_totp(6), secret_key=PRE_SHARED)
        self.assertEqual(preview['refused'], [])
        self.assertEqual(self.store(session_id), 1)

    def test_refused(self):
        "Test that a file which cannot be read is refused in words"
        for data in [
                b'', b'\0', b'x', b'<x/>', b'<!DOCTYPE x><x/>', None, 5, []]:
            with self.subTest(data=data):
                with self.assertRaises(Refused) as context:
                    self.read_file(data)
                self.assertEqual(context.exception.args[0], 'UserError')
                self.assertIn('file', context.exception.args[1][0])

    def test_many(self):
        "Test as many tokens as a file may have"
        rows = [
            f'{i},{SEEDS[0]}' for i in range(tokenfile.MAX_TOKENS)]
        session_id, preview = self.read_file('\n'.join(rows).encode())
        self.assertEqual(len(preview['accepted']), 10_000)
        self.assertEqual(self.store(session_id, preview), 10_000)
        self.assertEqual(
            self.rpc.model(MODEL, 'search_count', []), 10_000)

    def test_who(self):
        "Test that only those who may write users import"
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
            # Another administrator has no part in it either
            with self.assertRaises(Refused):
                self.store(session_id, rpc=rpc)
        manager, _ = self.manager()
        rpc = self.client(manager)
        session_id, _ = self.read_file(f'2,{SEEDS[0]}'.encode(), rpc=rpc)
        self.assertEqual(self.store(session_id, rpc=rpc), 1)

    def test_dropped(self):
        "Test what ends the time to import what was read"
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
        "Test that no key leaves the server or is stored or logged in clear"
        with self.assertLogs(level='INFO') as logs:
            self.set_keys(Fernet.generate_key().decode())
            dumps = self.live('sealed')
            # A file that makes it fail
            with self.assertRaises(Refused):
                self.read_file(f'<{SEEDS[0]}'.encode())
            with self.assertRaises(Refused):
                self.read_file(f'1,"{SEEDS[0]}"x'.encode())
        for content in [*dumps, self.answers, '\n'.join(logs.output)]:
            self.assertEqual(self.found(content), [])
        # Without sealing they are found, so they would have been
        self.set_keys()
        self.assertEqual(
            [self.found(dump) for dump in self.live('clear')],
            [SEEDS[:1], SEEDS, SEEDS, SEEDS])
        self.assertEqual(self.found(self.answers), [])

    def live(self, prefix):
        "Let tokens live, and return a dump of each stage of their life"
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


class UnreadableTestCase(TokensTestCase):
    "Test that nobody reads what is hidden of a token"

    def test_unreadable(self):
        "Test the ORM as the root user and as an administrator"
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
        "Test that ordinary users see no token, and nobody writes one"
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
        "Test that a sealed key opens in its place alone"
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


class AssignTestCase(TokensTestCase):
    "Test what administrators do to tokens"

    def test_states(self):
        "Test that a token is assigned, taken back, lost and deleted"
        _, user_id = self.user()
        id_, other, *_ = self.import_()
        self.assertEqual(self.state(id_), ('free', None))
        self.assertEqual(self.act('assign', id_, user=user_id), 'reload')
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.assertActs(
            "The token T0 is not free.", 'assign', id_, user=self.admin_id)
        self.assertActs(
            "The token T0 belongs to a user.", 'discard', other, id_)
        self.act('take_back', id_)
        self.assertEqual(self.state(id_), ('free', None))
        self.act('lose', id_)
        self.assertEqual(self.state(id_), ('lost', None))
        self.assertActs(
            "The token T0 is not free.", 'assign', id_, other, user=user_id)
        self.assertEqual(self.state(other), ('free', None))
        self.act('take_back', id_)
        self.act('assign', id_, other, user=user_id)
        self.assertEqual(self.state(other), ('assigned', user_id))
        self.act('take_back', id_, other)
        self.act('discard', id_, other)
        self.assertEqual(self.rpc.model(MODEL, 'search_count', []), 2)
        # It can be imported again
        self.import_(f'T0,{SEEDS[0]}')

    def test_rules(self):
        "Test that whoever may not write a user has no power over its token"
        _, user_id, id_ = self.owner()
        free, = self.import_(f'T1,{SEEDS[1]}')
        _, mine = self.user()
        manager, _ = self.manager(mine)
        rpc = self.client(manager)
        for name in ['take_back', 'lose']:
            with self.assertRaises(Refused):
                self.act(name, id_, rpc=rpc)
        with self.assertRaises(Refused):
            self.act('assign', free, user=user_id, rpc=rpc)
        self.act('assign', free, user=mine, rpc=rpc)
        self.act('lose', free, rpc=rpc)

    def test_lost(self):
        "Test that a lost token dies at once, and the phone lives on"
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        with self.transaction(user_id):
            Pool().get('res.user')(user_id).add_totp_token(
                't0 ', code_of(SEEDS[0], self.now), self.code())
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        session = self.client(login)
        self.act('lose', id_)
        self.assertEqual(self.state(id_), ('lost', user_id))
        with self.assertRaises(Refused):
            session.model('res.user', 'read', [user_id], ['login'])
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.now += 30
        self.assertEqual(self.log_in(login, self.code())[0], user_id)
        self.assertEqual(
            self.events(user_id),
            ['set_up', 'added', 'authenticator_removed'])

    def test_lost_only(self):
        "Test that the loss of the only authenticator is a reset"
        for name, state in [('lose', 'lost'), ('take_back', 'free')]:
            login, user_id, id_ = self.owner(f'{name},{SEEDS[0]}')
            self.assertEqual(
                self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
            self.now += 30
            self.act(name, id_)
            self.assertEqual(self.state(id_)[0], state)
            self.assertEqual(self.events(user_id), ['set_up', 'reset'])
            with self.transaction():
                self.assertFalse(
                    Pool().get('res.user')(user_id).totp_enabled)
            # The dialog no longer asks for the token
            self.assertIn(
                "authenticator on your phone",
                self.log_in(login)[1])

    def test_lost_unreadable(self):
        "Test that a token dies even if no key decrypts the secrets"
        key = Fernet.generate_key().decode()
        self.set_keys(key)
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        with self.transaction(user_id):
            Pool().get('res.user')(user_id).add_totp_token(
                'T0', code_of(SEEDS[0], self.now), self.code())
        self.set_keys(Fernet.generate_key().decode())
        with self.assertLogs('trytond.modules', 'ERROR'):
            self.act('lose', id_)
        self.set_keys(key)
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.now += 30
        self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_own(self):
        "Test that administrators do not remove their own token in use"
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=self.admin_id)
        self.act('take_back', id_)
        self.act('assign', id_, user=self.admin_id)
        self.assertEqual(
            self.log_in(self.admin, code_of(SEEDS[0], self.now))[0],
            self.admin_id)
        self.rpc = self.client(self.admin)
        for name in ['lose', 'take_back']:
            self.assertActs("You cannot reset or unlock your own", name, id_)
        self.assertEqual(self.state(id_), ('in_use', self.admin_id))

    def test_reset(self):
        "Test that a token is assigned only once its user is reset"
        login, user_id, id_ = self.owner()
        code = code_of(SEEDS[0], self.now)
        self.assertEqual(self.log_in(login, code)[0], user_id)
        with self.transaction():
            User = Pool().get('res.user')
            User.reset_totp([User(user_id)])
        self.assertEqual(self.state(id_), ('assigned', user_id))
        # Once is once, for ever (law 1)
        self.assertEqual(self.log_in(login, code), (None, USED))
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))


class UseTestCase(TokensTestCase):
    "Test that a token takes effect once its user has entered a code"

    def test_life(self):
        "Test a user with a token only, from the first login to a year later"
        login, user_id, id_ = self.owner()
        self.assertEqual(
            self.log_in(login), (None, ASKS % ('T0', login)))
        # No key was made
        with self.transaction():
            table = Pool().get('res.user').__table__()
        self.assertEqual(self.sql(table.select(
                    table.totp_pending_secret, table.totp_secret,
                    where=table.id == user_id)), [(None, None)])
        code = code_of(SEEDS[0], self.now)
        self.assertEqual(self.log_in(login, code)[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.assertEqual(self.events(user_id), ['set_up'])
        with self.transaction():
            counter, = Pool().get('res.user.totp_counter').search(
                [('user', '=', user_id)])
            self.assertEqual(counter.name, 'Token T0')
        self.assertEqual(self.log_in(login, code), (None, USED))
        end = self.now + YEAR
        clock = 0
        while self.now < end:
            self.now += 7 * 24 * 60 * 60
            # Its clock runs ahead by four minutes a year
            clock += 4 * 60 / 52
            self.assertEqual(
                self.log_in(
                    login, code_of(SEEDS[0], self.now + clock))[0], user_id)
        self.assertEqual(self.failures(user_id), 0)

    def test_parameters(self):
        "Test that the parameters of the token count, not those of the server"
        self.set_totp('digits', '6')
        login, user_id, _ = self.owner(f'T9,{SEEDS[0]},sha512,8,60')

        def code():
            return code_of(SEEDS[0], self.now, 8, 'sha512', 60)
        self.assertEqual(
            self.log_in(login, code()[:6]), (None, WRONG_DIGITS % 8))
        self.assertEqual(
            self.log_in(login, SEEDS[0]), (None, IS_KEY % 8))
        for _ in range(3):
            self.assertEqual(self.log_in(login, code())[0], user_id)
            self.now += 60

    def test_blank(self):
        "Test that a blank code asks again, or moves on to another chain"
        login, user_id, id_ = self.owner()
        for blank in ['', ' ', None]:
            self.assertEqual(
                self.log_in(login, blank), (None, ASKS % ('T0', login)))
        self.set_config(
            'session', 'authentications', self.authentications
            + ',password+sms')
        _, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[''])
        self.assertEqual(questions[-1][0], 'sms_code')
        self.assertEqual(self.failures(user_id), 0)
        self.assertEqual(self.state(id_), ('assigned', user_id))

    def test_wrong(self):
        "Test that wrong codes make wait and lock, as those of a phone do"
        self.lift_core_limit()
        self.set_totp('max_failures', '5')
        login, user_id, id_ = self.owner()

        def right():
            return code_of(SEEDS[0], self.now)
        for count, code in enumerate(['000000', 'x', ['x']], 1):
            self.assertEqual(self.log_in(login, code), (
                    None, WRONG_TOKEN if count < 3 else WAIT % '30 seconds'))
            self.assertEqual(self.failures(user_id), count)
        for code in [right(), '000000']:
            self.assertEqual(
                self.log_in(login, code), (None, WAIT % '30 seconds'))
        self.assertEqual(self.failures(user_id), 3)
        self.assertEqual(self.events(user_id), ['failed'])
        self.now += 30
        self.assertEqual(
            self.log_in(login, SEEDS[0]), (None, WAIT % '60 seconds'))
        self.now += 60
        self.assertEqual(self.log_in(login, '000000'), (None, LOCKED))
        self.assertEqual(self.events(user_id), ['failed', 'locked'])
        self.now += 10_000
        self.assertEqual(self.log_in(login, right()), (None, LOCKED))
        with self.transaction():
            User = Pool().get('res.user')
            self.assertTrue(User(user_id).totp_locked)
            User.unlock_totp([User(user_id)])
        self.assertEqual(self.log_in(login, right())[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))

    def test_wrong_then_right(self):
        "Test that a right code forgives the wrong ones of its network"
        self.lift_core_limit()
        login, user_id, _ = self.owner()
        for _ in range(3):
            self.log_in(login, '000000')
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        self.assertEqual(self.failures(user_id), 0)

    def test_several(self):
        "Test a user with two tokens, either of which does"
        login, user_id = self.user()
        first, second, *_ = self.import_()
        self.act('assign', first, second, user=user_id)
        self.assertEqual(
            self.log_in(login)[1], ASKS % ('T0 / T1', login))
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[1], self.now))[0], user_id)
        self.assertEqual(self.state(first)[0], 'assigned')
        self.assertEqual(self.state(second)[0], 'in_use')
        # The other one counts only once it is added
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        # Two tokens give a guess two chances
        self.assertEqual(self.failures(user_id), 1)

    def test_drift(self):
        "Test tokens that have lain in a drawer for years"
        for seconds in [-300, -90, 90, 270]:
            with self.subTest(seconds=seconds):
                login, user_id, _ = self.owner(f'{seconds},{SEEDS[0]}')

                def code(steps=0, seconds=seconds):
                    return code_of(
                        SEEDS[0], self.now + seconds + 30 * steps)
                self.assertEqual(
                    self.log_in(login, code()), (None, WRONG_TOKEN))
                self.assertEqual(self.log_in(login, code(1))[0], user_id)
                self.assertEqual(
                    self.drift(user_id), (seconds + 30) // 30)
                for _ in range(2):
                    self.now += 600
                    self.assertEqual(self.log_in(login, code())[0], user_id)
        # Beyond it is of no use
        login, user_id, _ = self.owner(f'late,{SEEDS[0]}')
        for steps in [0, 1]:
            self.assertEqual(self.log_in(
                    login, code_of(SEEDS[0], self.now - 600 + 30 * steps)),
                (None, WRONG_TOKEN))

    def test_chain(self):
        "Test that the token takes effect once all methods have passed"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp+sms')
        login, user_id, id_ = self.owner()
        code = code_of(SEEDS[0], self.now)
        user, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[code], sms_code=['x'])
        self.assertEqual(questions[-1][0], 'sms_code')
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.forget_attempts()
        self.assertEqual(self.dialogue(
                login, password=[PASSWORD], totp_code=[code],
                sms_code=[self.sms_code(user_id)])[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))

    def test_before_password(self):
        "Test that nobody learns of tokens without the password"
        login, user_id, _ = self.owner()
        for authentications in [
                'totp?setup_totp', 'totp?setup_totp+password',
                'totp,password+totp?setup_totp']:
            self.set_config('session', 'authentications', authentications)
            self.assertNotIn('T0', str(self.dialogue(login)))
            self.assertNotIn(
                'T0', str(self.dialogue(login, totp_code=['000000'])))
        self.set_config('session', 'authentications', self.authentications)
        self.assertNotIn(
            'T0', str(self.dialogue(login, password=['x'])))

    def add(self, user_id, *args):
        "The message that refuses to add the token, or None"
        try:
            with self.transaction(user_id):
                Pool().get('res.user')(user_id).add_totp_token(*args)
        except Exception as error:
            return error.message

    def test_add(self):
        "Test that who has an authenticator proves both"
        login, user_id = self.user(KEY)
        id_, other, *_ = self.import_()
        self.act('assign', id_, user=user_id)
        token = code_of(SEEDS[0], self.now)
        not_assigned = (
            "No token with this serial number is assigned to you. "
            "Read the number on the token again, or ask an administrator to "
            "assign it to you.")
        for serial in ['T1', 'T', '', None, 5]:
            self.assertEqual(
                self.add(user_id, serial, token, self.code()), not_assigned)
        for current in [None, '', '000000', token]:
            self.forget_failures(user_id)
            self.assertIsNotNone(self.add(user_id, 'T0', token, current))
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.forget_failures(user_id)
        self.assertEqual(
            self.add(user_id, 'T0', '000000', self.code()), WRONG_TOKEN)
        self.assertEqual(self.failures(user_id), 1)
        # The code of the phone is used up
        self.assertIsNotNone(self.add(user_id, 'T0', token, self.code()))
        self.forget_failures(user_id)
        self.now += 30
        token = code_of(SEEDS[0], self.now)
        self.assertIsNone(self.add(user_id, 'T0', token, self.code()))
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.assertEqual(self.events(user_id)[-1], 'added')
        self.now += 30
        for code in [code_of(SEEDS[0], self.now), self.code()]:
            self.assertEqual(self.log_in(login, code)[0], user_id)

    def test_add_first(self):
        "Test that who has none adds the token in a session"
        login, user_id, id_ = self.owner()
        self.assertEqual(self.add(user_id, 'T0', '000000'), WRONG_TOKEN)
        self.assertEqual(self.failures(user_id), 1)
        with self.transaction(user_id):
            self.assertEqual(
                Pool().get('res.user')(user_id).get_totp_tokens(), ['T0'])
        self.assertIsNone(
            self.add(user_id, 'T0', code_of(SEEDS[0], self.now)))
        self.assertEqual(self.state(id_), ('in_use', user_id))
        with self.transaction(user_id):
            self.assertEqual(
                Pool().get('res.user')(user_id).get_totp_tokens(), [])

    def test_most(self):
        "Test that a token is one of the authenticators a user may have"
        self.set_totp('max_authenticators', '1')
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        self.assertEqual(
            self.add(
                user_id, 'T0', code_of(SEEDS[0], self.now), self.code()),
            "You cannot add another authenticator. Remove one first.")
        self.assertEqual(self.state(id_), ('assigned', user_id))

    def test_replaced(self):
        "Test that a token whose user takes a phone instead is assigned only"
        login, user_id, id_ = self.owner()
        self.log_in(login, code_of(SEEDS[0], self.now))
        self.now += 30
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            key = user.start_totp_setup(
                code_of(SEEDS[0], self.now), replaces=True).text
            user.finish_totp_setup(right_code(key, self.now))
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.assertEqual(
            self.log_in(login, right_code(key, self.now))[0], user_id)

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_race(self):
        "Test that one of many simultaneous first codes is accepted"
        self.set_config('session', 'max_attempt', str(10**6))
        for i in range(10):
            login, user_id, id_ = self.owner(f'race{i},{SEEDS[0]}')
            parameters = {
                'password': PASSWORD,
                'totp_code': code_of(SEEDS[0], self.now)}
            results = at_once(
                lambda parameters, login=login: security.login(
                    DB_NAME, login, parameters, cache=False),
                [parameters] * THREADS)
            winners = [r for r in results if not isinstance(r, Exception)]
            self.assertEqual(winners, [user_id])
            for result in results:
                if result != user_id:
                    self.assertIsInstance(result, LoginException)
            self.assertEqual(self.counters(user_id), [self.now // 30])
            self.assertEqual(self.state(id_), ('in_use', user_id))
            self.forget_attempts()

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_burst(self):
        "Test that a burst of wrong first codes does not outrun the count"
        self.set_config('session', 'max_attempt', str(10**6))
        login, user_id, id_ = self.owner()
        results = at_once(
            lambda code: security.login(
                DB_NAME, login, {'password': PASSWORD, 'totp_code': code},
                cache=False),
            [f'{i:06}' for i in range(64)])
        self.assertTrue(all(isinstance(r, Exception) for r in results))
        self.assertEqual(self.failures(user_id), 3)


class ResealTestCase(TokensTestCase):
    "Test that tokens are resealed along with users"

    def stored(self):
        with self.transaction():
            table = Pool().get(MODEL).__table__()
        return [secret for secret, in self.sql(
                table.select(table.secret, order_by=table.id))]

    def test_reseal(self):
        "Test that secrets in clear and of older keys are sealed anew"
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
        # No key opens them
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
        "Test that what was read in clear does not stay"
        session_id, _ = self.read_file(f'1,{SEEDS[0]}'.encode())
        self.set_keys(Fernet.generate_key().decode())
        self.assertEqual(self.found(self.dump()), SEEDS[:1])
        with self.transaction():
            Pool().get('res.user').drop_totp_token_files()
        self.assertEqual(self.found(self.dump()), [])
        with self.assertRaises(Refused):
            self.store(session_id)

    def test_start(self):
        "Test that the server says how many tokens are in clear"
        self.import_()
        self.set_keys(Fernet.generate_key().decode())
        with self.transaction(), self.assertLogs(
                'trytond.modules', logging.ERROR) as logs:
            Pool().get('res.user')._check_totp_sealed()
        self.assertIn(
            "TOTP tokens whose secrets are stored unencrypted in the database "
            f"{DB_NAME}: 4; to encrypt them, run trytond_totp reseal",
            logs.output[-1])
