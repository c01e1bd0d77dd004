# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json
import unittest

from trytond import backend, security
from trytond.modules.authentication_totp import clock
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction

from .test_concurrency import THREADS, at_once
from .test_devices import DEVICE, DevicesTestCase
from .tools import ADDRESS, KEY, PASSWORD, RPC, Refused


class DeviceSessionTestCase(DevicesTestCase):
    "Test which sessions can make a remembered device"

    def test_once(self):
        "Test that a login with a code makes only one remembered device"
        login, user_id = self.user(KEY)
        rpc = self.log_in_with_code(login)
        self.assertTrue(self.skips(login, self.renew(rpc)))
        for _ in range(2):
            self.assertFalse(self.skips(login, self.renew(rpc)))
        self.assertEqual(len(self.devices(user_id)), 1)

    def test_once_known(self):
        "Test that a known device becomes the only remembered one"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        rpc = self.log_in_with_code(login, cookie)
        cookie = self.renew(rpc, cookie)
        self.assertFalse(self.skips(login, self.renew(rpc)))
        self.assertTrue(self.skips(login, cookie))

    def test_web_client(self):
        "Test a session whose key is in a cookie"
        login, _ = self.user(KEY)
        rpc = RPC()

        def post(path, **request):
            response = rpc.client.post(
                f'/{DB_NAME}/{path}', content_type='application/json',
                base_url='https://localhost',
                environ_base={'REMOTE_ADDR': ADDRESS},
                data=json.dumps({'id': 1, **request}))
            self.assertEqual(response.status_code, 200)
            return json.loads(response.data)
        post('session/login', params=[
                login, {'password': PASSWORD, 'totp_code': self.code()}])
        cookie = post(
            'rpc/', method=f'model.{DEVICE}.renew', params=[None, {}],
            )['result']
        self.assertTrue(self.skips(login, cookie))

    def test_late(self):
        "Test that a session makes no remembered device if it asks too late"
        login, _ = self.user(KEY)
        for seconds, expected in [(299, True), (300, False), (-1, False)]:
            with self.subTest(seconds=seconds):
                rpc = self.log_in_with_code(login)
                self.now += seconds
                cookie = self.renew(rpc)
                self.now += 1
                self.assertEqual(self.skips(login, cookie), expected)

    def test_late_is_final(self):
        "Test that setting the clock back does not extend the time limit"
        login, _ = self.user(KEY)
        rpc = self.log_in_with_code(login)
        self.now += 300
        self.renew(rpc)
        self.now -= 300
        self.assertFalse(self.skips(login, self.renew(rpc)))

    def test_other_session(self):
        "Test that only the session of a login with a code makes one"
        login, user_id = self.user(KEY)
        other, _ = self.user(KEY)
        stolen = self.client(login)
        stranger = self.client(other)
        rpc = self.log_in_with_code(login)
        for client, who in [(stolen, login), (stranger, other)]:
            self.assertFalse(self.skips(who, self.renew(client)))
        # This thread has just checked the session
        rpc.model('res.user', 'get_preferences', True)
        for context in [{}, {'_request': {'remote_addr': ADDRESS}}]:
            with Transaction().start(DB_NAME, user_id, context=context):
                cookie = Pool().get(DEVICE).renew(None)
            self.assertFalse(self.skips(login, cookie))
        self.assertTrue(self.skips(login, self.renew(rpc)))

    def test_left_over(self):
        "Test that a login without a session leaves no mark to another session"
        login, user_id = self.user(KEY)
        _, other_id = self.user(KEY)
        request = {'remote_addr': ADDRESS}
        of_request = {'_request': request}
        # A module with its own way of login may begin such sessions
        for login_context, next_id, context in [
                (of_request, user_id, {}),
                (of_request, user_id, {'_request': dict(request)}),
                (of_request, other_id, of_request),
                ({}, user_id, {})]:
            with self.subTest(
                    login_context=login_context, next_id=next_id,
                    context=context):
                self.now += 30
                self.assertEqual(
                    security.login(
                        DB_NAME, login,
                        {'password': PASSWORD, 'totp_code': self.code()},
                        cache=False, context=login_context), user_id)
                with Transaction().start(DB_NAME, next_id, context=context):
                    Session = Pool().get('ir.session')
                    key = Session.new()
                    session, = Session.search([('key', '=', key)])
                    self.assertIsNone(session.totp_accepted)

    def test_login_again(self):
        "Test that a login without a code clears the note of the login before"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        self.now += 30
        context = {'_request': {'remote_addr': ADDRESS}}
        security.login(
            DB_NAME, login, {
                'password': PASSWORD, 'totp_code': self.code()},
            cache=False, context=context)
        _, key = security.login(
            DB_NAME, login, {
                'password': PASSWORD, 'device_cookie': cookie},
            context=context)
        with self.transaction():
            session, = Pool().get('ir.session').search([('key', '=', key)])
            self.assertIsNone(session.totp_accepted)

    def test_client_values(self):
        "Test that no values from a client make a remembered device"
        login, user_id = self.user(KEY)
        accepted = {
            'totp_accepted': True, 'totp_generation': 1,
            'totp_device': True}
        for cookie in [True, {'id': 1}, ['x'], 1, '%', '']:
            with self.subTest(cookie=cookie):
                try:
                    self.assertIsNone(self.log_in(login, cookie, **accepted))
                except Refused as refused:
                    # Core refuses cookies that are not text
                    self.assertNotIsInstance(refused.args[0], int)
                self.forget_attempts()
        rpc = self.client(login)
        for context in [
                accepted, {'_request': accepted},
                {'_request': {**accepted, 'session': rpc.session}}]:
            with self.subTest(context=context):
                cookie = rpc.call(f'model.{DEVICE}.renew', None, context)
                self.assertFalse(self.skips(login, cookie))
        for method, *params in [
                ('create', [{'login': login, 'cookie': 'x', **accepted}]),
                ('write', [1], accepted),
                ('skips_totp', login, 'x'),
                ('remembered', user_id),
                ('_remember', 'x', None, 1)]:
            with self.subTest(method=method), self.assertRaises(Refused):
                rpc.model(DEVICE, method, *params)
        for method, *params in [
                ('new', accepted), ('note_totp_accepted', user_id, 1),
                ('take_totp_accepted',)]:
            with self.subTest(method=method), self.assertRaises(Refused):
                rpc.model('ir.session', method, *params)
        for method, *params in [
                ('totp_devices', [user_id]),
                ('forget_totp_devices', [user_id])]:
            with self.subTest(method=method), self.assertRaises(Refused):
                rpc.model('res.user', method, *params)

    def test_failed_login(self):
        "Test that a used code leaves no mark on a session"
        login, user_id = self.user(KEY)
        code = self.code()
        self.assertTrue(self.log_in(login, totp_code=code))
        self.assertIsNone(self.log_in(login, totp_code=code))
        with self.transaction():
            sessions = Pool().get('ir.session').search(
                [('create_uid', '=', user_id)])
            self.assertEqual(
                [s.totp_accepted for s in sessions],
                [clock.second(self.now)])

    def test_copy(self):
        "Test that a row copied by server code is not remembered"
        login, user_id = self.user(KEY)
        self.remember(login)
        with self.transaction():
            Device = Pool().get(DEVICE)
            Device.copy(Device.search([('login', '=', login)]))
        _, (_, *marks) = self.rows(login)
        self.assertEqual(marks, [None] * 4)
        self.assertEqual(len(self.devices(user_id)), 1)


@unittest.skipUnless(
    backend.name == 'postgresql', "an SQLite in memory has one thread")
class DeviceConcurrencyTestCase(DevicesTestCase):
    "Test simultaneous logins and renewals"

    def test_logins(self):
        "Test 32 logins from the same remembered device"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        for _ in range(3):
            self.now += 60
            results = at_once(
                lambda parameters: security.login(
                    DB_NAME, login, parameters, context={
                        '_request': {'remote_addr': ADDRESS}}),
                [{'password': PASSWORD, 'device_cookie': cookie}] * THREADS)
            self.assertEqual([r[0] for r in results], [user_id] * THREADS)
            device, = self.devices(user_id)
            self.assertEqual(device.last_used, clock.second(self.now))
        self.assertEqual([
                row for row in self.rows(login) if row[1]], self.rows(login))

    def test_renew(self):
        "Test 32 sessions that renew the same cookie"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        clients = [self.log_in(login, cookie) for _ in range(THREADS)]
        cookies = at_once(lambda rpc: self.renew(rpc, cookie), clients)
        self.assertEqual(
            [self.skips(login, c) for c in cookies if isinstance(c, str)
                ].count(True), 1)
        self.assertEqual(len(self.devices(user_id)), 1)

    def test_one_session(self):
        "Test that 32 requests of a session make one remembered device"
        login, user_id = self.user(KEY)
        rpc = self.log_in_with_code(login)
        clients = []
        for _ in range(THREADS):
            client = RPC()
            client.session = rpc.session
            clients.append(client)
        cookies = at_once(self.renew, clients)
        self.assertEqual(
            [self.skips(login, c) for c in cookies if isinstance(c, str)
                ].count(True), 1)
        self.assertEqual(len(self.devices(user_id)), 1)

    def test_users(self):
        "Test that simultaneous logins of several users mark their own devices"
        users = [self.user(KEY if i % 2 else None) for i in range(8)]
        self.set_config(
            'session', 'authentications',
            'password+totp?no_totp_secret:totp_device')

        def log_in(user):
            login, user_id = user
            rpc = RPC()
            rpc.login(login, password=PASSWORD, totp_code=self.code())
            return self.renew(rpc)
        cookies = at_once(log_in, users)
        for i, (_, user_id) in enumerate(users):
            self.assertIsInstance(cookies[i], str)
            self.assertEqual(len(self.devices(user_id)), i % 2)
