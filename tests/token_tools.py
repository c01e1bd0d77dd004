# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import hashlib

import pyotp

from trytond.model import ModelSQL
from trytond.pool import Pool

from .tools import PASSWORD, Refused, TOTPTestCase

MODEL = 'res.user.totp_token'
ASKS = "Enter the code that the token %s shows for %s."
WRONG_TOKEN = (
    "The code is wrong. Enter the code that the token shows now. "
    "If it is refused too, enter the next one.")
EXPIRED = (
    "The file was read too long ago, or one of its tokens has been imported "
    "since. Nothing was imported. Read the file again.")
SEEDS = [
    base64.b32encode(hashlib.sha256(b'seed %d' % i).digest()[:20]).decode()
    for i in range(4)]


def code_of(seed, time, digits=6, digest='sha1', interval=30):
    "Return the code of a token that does not use passlib"
    return pyotp.TOTP(
        seed, digits=digits, digest=getattr(hashlib, digest),
        interval=interval).at(time)


class TokensTestCase(TOTPTestCase):
    "Test with an administrator who imports and assigns tokens"
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
        """Read the file with the wizard

        Return the id of the wizard's session and the defaults of the preview.
        """
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
        "Import the tokens of the file and return their number"
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
        "Run the wizard called name on the tokens with the ids"
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
        "Assign a token to a new user. Return login, user id and token id"
        login, user_id = self.user()
        id_, = self.import_(*rows or [f'T0,{SEEDS[0]}'])
        self.act('assign', id_, user=user_id)
        return login, user_id, id_

    def log_in(self, login, *codes, **parameters):
        "Log in. Return the id of the user and the last question, or None"
        user_id, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=codes, **parameters)
        return user_id, questions[-1][1] if questions else None

    def dump(self):
        "Return all values of all tables and all attachments as one text"
        with self.transaction():
            tables = [
                model.__table__() for _, model in Pool().iterobject()
                if issubclass(model, ModelSQL)
                and not callable(model.table_query)]
        values = [
            value for table in tables for row in self.sql(table.select())
            for value in row]
        with self.transaction():
            # A folder of the server may hold them instead of a table
            values += [
                attachment.data
                for attachment in Pool().get('ir.attachment').search([])]
        return '\n'.join(
            bytes(value).decode('latin-1')
            if isinstance(value, (bytes, bytearray, memoryview))
            else str(value) for value in values)

    def forms(self, key):
        raw = base64.b32decode(key)
        return [
            key, key.lower(),
            ' '.join(key[i:i + 4] for i in range(0, len(key), 4)),
            raw.hex(), raw.hex().upper(),
            raw.decode('latin-1'), repr(raw)[2:-1],
            *(base64.b64encode(raw[i:]).decode()[:20] for i in range(3)),
            # The base32 text within a file that is encoded as a whole
            *(base64.b64encode(key[i:].encode()).decode()[:20]
                for i in range(3))]

    def found(self, content, keys=SEEDS):
        "Return which of the keys the content contains in some encoding"
        return [k for k in keys if any(f in content for f in self.forms(k))]
