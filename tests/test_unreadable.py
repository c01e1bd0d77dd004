# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import json

from trytond.pool import Pool

from .tools import KEY, OTHER_KEY, PASSWORD, RPC, Refused, TOTPTestCase

FIELDS = ['totp_secret', 'totp_pending_secret']


def encodings(key):
    raw = base64.b32decode(key)
    return [
        key, key.lower(), raw.hex(), base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(), repr(raw)[2:-1]]


class UnreadableTestCase(TOTPTestCase):
    "Test that nobody can read the secret (law 3)"
    authentications = 'password'

    def setUp(self):
        super().setUp()
        self.owner, self.owner_id = self.user(KEY)
        self.admin, self.admin_id = self.user(
            OTHER_KEY, administrator=True)
        self.other, self.other_id = self.user()
        # A record that the owner created leads back to the owner
        rpc = RPC()
        rpc.login(self.owner, password=PASSWORD)
        self.application_id, = rpc.model(
            'res.user.application', 'create', [{
                    'user': self.owner_id, 'application': 'rest'}])
        # A pending secret
        _, shown = rpc.start_setup(self.code())
        self.pending_key = shown['secret'].replace(' ', '')

    def roads(self, user_id):
        "Yield every road to the secret, as name, method and parameters"
        owner, other = self.owner_id, self.other_id
        stored = self.stored_secret(owner)
        for field in FIELDS:
            yield 'read', 'res.user', 'read', [owner], [field]
            yield (
                'read with the own one', 'res.user', 'read',
                [user_id, owner], [field])
            yield (
                'search_read', 'res.user', 'search_read',
                [('id', '=', owner)], 0, None, None, [field])
            yield 'export', 'res.user', 'export_data', [owner], [field]
            yield (
                'export by domain', 'res.user', 'export_data_domain',
                [('id', '=', owner)], [field])
            yield 'default', 'res.user', 'default_get', [field]
            for relation in ['user', 'create_uid']:
                path = f'{relation}.{field}'
                yield (
                    'relation', 'res.user.application', 'read',
                    [self.application_id], [path])
                yield (
                    'relation of an export', 'res.user.application',
                    'export_data', [self.application_id],
                    [path.replace('.', '/')])
        yield 'all fields', 'res.user', 'read', [owner], self.readable
        yield 'preferences', 'res.user', 'get_preferences', False
        yield 'counter', 'res.user.totp_counter', 'read', [1], ['counter']
        yield 'counter search', 'res.user.totp_counter', 'search', []
        yield 'guess', 'res.user.totp_guess', 'search_read', [], 0, None, \
            None, ['user', 'failures']
        yield 'decoy key', 'res.user.totp_decoy_key', 'search_read', [], 0, \
            None, None, ['key']
        yield 'log', 'ir.model.log', 'search_read', [
            ('resource', '=', f'res.user,{owner}')], 0, None, None, [
            'event', 'target', 'action']
        yield 'wizard session', 'ir.session.wizard', 'search_read', [], 0, \
            None, None, ['data']
        yield 'copy', 'res.user', 'copy', [other]
        yield 'write', 'res.user', 'write', [owner], {'totp_secret': stored}

    def questions(self):
        "Yield every question whose answer could tell a right guess"
        owner = self.owner_id
        for field in FIELDS:
            stored = self.stored_secret(owner)
            for right, wrong in [
                    (('=', stored), ('=', 'x')),
                    (('like', stored[:10] + '%'), ('like', 'x%')),
                    (('ilike', f'%{KEY}%'), ('ilike', '%x%')),
                    (('in', [stored]), ('in', ['x'])),
                    (('not in', [stored]), ('not in', ['x'])),
                    (('>', ''), ('>', '~')),
                    (('<=', stored), ('<=', '')),
                    ]:
                for model, id_, prefixes in [
                        ('res.user', owner, ['']),
                        ('res.user.application', self.application_id,
                            ['user.', 'create_uid.']),
                        ]:
                    for prefix in prefixes:
                        yield model, [
                            [('id', '=', id_), (prefix + field, *guess)]
                            for guess in (right, wrong)]
                yield 'res.user.application', [
                    [('id', '=', self.application_id),
                        ('user', 'where', [(field, *guess)])]
                    for guess in (right, wrong)]
                yield 'ir.model.log', [
                    [(f'resource.{field}', *guess, 'res.user')]
                    for guess in (right, wrong)]

    def answer(self, rpc, model, method, *params):
        try:
            return rpc.model(model, method, *params)
        except Refused as refused:
            self.assertNotIn(refused.args[0], [500, 404], params)
            return f'refused: {refused}'

    def test_roads(self):
        "Test that no road leads to the secret in any encoding"
        hidden = [
            text for key in [KEY, OTHER_KEY, self.pending_key]
            for text in encodings(key)]
        ((_, values),) = json.loads(
            self.stored_secret(self.owner_id))['values']
        hidden.append(values['key'])
        tried = set()
        for login, user_id in [
                (self.owner, self.owner_id),
                (self.admin, self.admin_id),
                (self.other, self.other_id),
                ]:
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            self.readable = [
                name for name in rpc.model('res.user', 'fields_get')
                if name not in FIELDS]
            for name, model, method, *params in self.roads(user_id):
                with self.subTest(user=login, road=name, params=params):
                    answer = repr(
                        self.answer(rpc, model, method, *params))
                    for text in hidden:
                        self.assertNotIn(text, answer)
                    tried.add(name)
        self.assertEqual(len(tried), 18)

    def test_questions(self):
        "Test that no search tells a right guess from a wrong one"
        count = 0
        for login in [self.owner, self.admin, self.other]:
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            for model, domains in self.questions():
                for method in ['search', 'search_count']:
                    with self.subTest(
                            user=login, model=model, method=method,
                            domains=domains):
                        right, wrong = [
                            self.answer(rpc, model, method, domain)
                            for domain in domains]
                        self.assertEqual(right or [], wrong or [])
                        count += 1
        self.assertGreater(count, 400)

    def test_order(self):
        "Test that no order reveals which of two secrets is the greater"
        ids = [self.owner_id, self.admin_id]
        for login in [self.owner, self.admin, self.other]:
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            for field in FIELDS:
                for model, domain, order in [
                        ('res.user', [('id', 'in', ids)], field),
                        ('res.user.application', [], f'user.{field}'),
                        ('res.user.application', [], f'create_uid.{field}'),
                        ]:
                    with self.subTest(user=login, model=model, order=order):
                        ascending, descending = [
                            self.answer(
                                rpc, model, 'search', domain, 0, None,
                                [(order, direction), ('id', 'ASC')])
                            for direction in ['ASC', 'DESC']]
                        self.assertEqual(ascending, descending)

    def test_server(self):
        "Test that not even server code without access checks reads the secret"
        with self.transaction():
            User = Pool().get('res.user')
            users = User.search([('id', '=', self.owner_id)])
            for user in [*users, User(self.owner_id)]:
                for field in FIELDS:
                    self.assertIsNone(getattr(user, field))
            (values,) = User.read([self.owner_id], FIELDS)
            self.assertEqual({values[field] for field in FIELDS}, {None})
            user.set_totp_key(KEY)
            self.assertIsNone(user.totp_secret)
            self.assertNotIn(KEY, repr(user.start_totp_setup(self.code())))
