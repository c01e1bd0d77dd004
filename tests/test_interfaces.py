# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json
from base64 import b64encode

from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import KEY, PASSWORD, RPC, Refused, TOTPTestCase


class InterfacesTestCase(TOTPTestCase):
    "Test the interfaces that scripts and other programs use"

    def setUp(self):
        super().setUp()
        self.login, self.user_id = self.user(KEY)
        self.rpc = RPC()

    def get(self, path, authorization):
        return self.rpc.client.get(
            f'/{DB_NAME}/{path}', headers={'Authorization': authorization})

    def test_session(self):
        "Test a JSON-RPC session with the code along with the password"
        self.rpc.login(
            self.login, password=PASSWORD, totp_code=self.code())
        self.assertEqual(
            self.rpc.model('res.user', 'search', [('login', '=', self.login)]),
            [self.user_id])

    def test_basic(self):
        "Test that Basic authentication does not bypass the code"
        response = self.rpc.client.post(
            f'/{DB_NAME}/rpc/', content_type='application/json',
            headers={
                'Authorization': 'Basic ' + b64encode(
                    f'{self.login}:{PASSWORD}'.encode()).decode(),
                },
            data=json.dumps({
                    'id': 1, 'method': 'model.res.user.search',
                    'params': [[], {}]}))
        self.assertEqual(response.status_code, 200)
        error, (name, *_) = json.loads(response.data)['error']
        self.assertEqual((error, name), ('LoginException', 'totp_code'))

    def test_application(self):
        "Test that a key of a user application needs no code"
        with self.transaction():
            Application = Pool().get('res.user.application')
            application, = Application.create([{
                        'user': self.user_id,
                        'application': 'rest',
                        'state': 'validated',
                        }])
            key = application.key
        response = self.get('rest/model/res.user', f'bearer {key}')
        self.assertEqual(response.status_code, 200)
        self.assertIn(
            self.user_id, [u['id'] for u in json.loads(response.data)])
        response = self.get('rest/model/res.user', 'bearer x')
        self.assertEqual(response.status_code, 401)

    def test_copy(self):
        "Test that copying a user copies nothing of TOTP"
        with self.transaction():
            pool = Pool()
            User = pool.get('res.user')
            pool.get('res.user.totp_recovery_code').renew(self.user_id)
            copy, = User.copy([User(self.user_id)])
            copy_id = copy.id
            self.assertFalse(copy.totp_enabled)
            self.assertEqual(copy.totp_recovery_codes, 0)
            self.assertIsNone(copy.totp_last_used)
        self.assertIsNone(self.stored_secret(copy_id))
        self.assertEqual(self.events(copy_id), [])

    def test_deactivate(self):
        "Test that an inactive user keeps the secret, but loses the sessions"
        self.rpc.login(
            self.login, password=PASSWORD, totp_code=self.code())
        stored = self.stored_secret(self.user_id)
        for active in [False, True]:
            with self.transaction():
                User = Pool().get('res.user')
                User.write([User(self.user_id)], {'active': active})
            self.assertEqual(self.stored_secret(self.user_id), stored)
            with self.assertRaises(Refused):
                self.rpc.model('res.user', 'search', [])
        self.now += 30
        self.assertEqual(
            self.rpc.login(
                self.login, password=PASSWORD, totp_code=self.code()),
            self.user_id)
