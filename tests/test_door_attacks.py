# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.protocols.wrappers import HTTPStatus
from trytond.tests.test_tryton import DB_NAME

from .doors import REPORT, Visitor, text
from .test_doors import DoorsTestCase
from .tools import PASSWORD, Refused

CODE = 'res.user.totp_recovery_code'


class AttackTestCase(DoorsTestCase):
    "Test attacks of an ordinary user with a browser on another user (law 3)"

    def setUp(self):
        super().setUp()
        with self.transaction():
            self.codes = Pool().get(CODE).renew(self.owner_id)
        login, _ = self.user()
        self.visitor = Visitor(self)
        self.visitor.login(login, password=PASSWORD)

    def recovery_codes(self):
        "Return what is stored of the recovery codes of the owner"
        with self.transaction():
            return [
                (code.id, code.hash, self.token(code))
                for code in Pool().get(CODE).search(
                    [('user', '=', self.owner_id)], order=[('id', 'ASC')])]

    def test_read(self):
        "Test that users cannot download the hashes of others' recovery codes"
        answer = self.visitor.http(
            'GET', self.visitor.route('base', f'data/{CODE}'),
            query_string={
                'd': text([('user', '=', self.owner_id)]),
                'f': ['user', 'hash']})
        body = answer.get_data(as_text=True)
        for code in self.codes:
            self.assertNotIn(totp.hash_recovery_code(code), body)
        self.assertNotEqual(answer.status_code, HTTPStatus.OK)

    def test_write(self):
        "Test that users cannot give another user a recovery code of their own"
        own = totp.new_recovery_code()
        before = self.recovery_codes()
        self.assertEqual(len(before), len(self.codes))
        for id_, _, token in before:
            path = self.visitor.route('base', f'html/{CODE}/{id_}/hash')
            page = self.visitor.http('GET', path).get_data(as_text=True)
            # The page would otherwise be the message of the failure
            self.assertFalse(token in page)
            self.visitor.http('POST', path, data={
                    'text': totp.hash_recovery_code(own),
                    '_csrf_token': token,
                    })
        self.assertEqual(self.recovery_codes(), before)

    def test_login(self):
        "Test that a recovery code given to another user does not log in"
        for authentications, answers in [
                ('password+totp', {'password': [PASSWORD]}),
                ('totp,password', {}),
                ]:
            with self.subTest(authentications=authentications):
                self.set_config('session', 'authentications', 'password')
                own = totp.new_recovery_code()
                for id_, _, token in self.recovery_codes()[:1]:
                    self.visitor.http(
                        'POST', self.visitor.route(
                            'base', f'html/{CODE}/{id_}/hash'), data={
                                'text': totp.hash_recovery_code(own),
                                '_csrf_token': token})
                self.set_config('session', 'authentications', authentications)
                user_id, _ = self.dialogue(
                    self.owner, totp_code=[own], **answers)
                self.assertIsNone(user_id)
                user_id, _ = self.dialogue(
                    self.owner, totp_code=[self.codes.pop()], **answers)
                self.assertEqual(user_id, self.owner_id)


class ReportTestCase(DoorsTestCase):
    "Test that only the server itself executes the report of the e-mails"

    def test_report(self):
        "Test that no arguments make it write an e-mail or fail"
        visitors = self.visitors()
        record = self.plant('res.user.totp_event')
        self.addCleanup(self.uproot, record)
        for role, visitor in visitors.items():
            refused = (
                HTTPStatus.FORBIDDEN if visitor.session
                else HTTPStatus.UNAUTHORIZED)
            for arguments in [
                    [], [[]], [[], {}], [[], None], [None, {}], [[None], {}],
                    [['x'], {}], ['x', {}], [{}, {}], [[10 ** 30], {}],
                    [[-1], {}], [[record.id] * 10_000, {}], [[record.id], {}],
                    [[record.id], {'action_id': 'x'}],
                    [[record.id], {'model': 'res.user'}],
                    ]:
                with self.subTest(role=role, arguments=str(arguments)[:50]):
                    visitor.json(f'report.{REPORT}.execute', *arguments, {})
                    self.assertEqual(visitor.statuses[-1], refused)

    def test_rest(self):
        "Test that the route of reports refuses it"
        visitor = self.visitors()['administrator']
        record = self.plant('res.user.totp_event')
        self.addCleanup(self.uproot, record)
        for id_ in [record.id, 0, 10 ** 30]:
            for data in [{}, [], {'action_id': 'x'}, {'model': 'res.user'}]:
                with self.subTest(id=id_, data=data):
                    answer = visitor.rest(
                        'GET', f'report/{REPORT}/{id_}', data=data)
                    self.assertEqual(
                        visitor.statuses[-1], HTTPStatus.BAD_REQUEST)
                    self.assertIn("You are not allowed to execute", answer)


class NeedsTestCase(DoorsTestCase):
    "Test that clients still work although the models are closed"

    def setUp(self):
        super().setUp()
        self.visitor = Visitor(self)

    def login(self):
        self.visitor.login(self.owner, password=PASSWORD)

    def logged_in(self):
        try:
            self.visitor.model('res.user', 'get_preferences', True)
        except Refused as refused:
            self.assertEqual(refused.args, (HTTPStatus.UNAUTHORIZED,))
            return False
        return True

    def cookie(self):
        return self.visitor.model('res.user.device', 'renew', None)

    def valid(self, cookie):
        with self.transaction():
            return bool(Pool().get('res.user.device').get_valid_cookie(
                    self.owner, cookie))

    def administrator(self):
        login, _ = self.user(administrator=True)
        visitor = Visitor(self)
        visitor.login(login, password=PASSWORD)
        return visitor

    def test_session(self):
        "Test that a session begins, is checked and ends"
        self.login()
        self.assertTrue(self.logged_in())
        self.visitor.call('common.db.logout')
        self.assertFalse(self.logged_in())

    def test_session_of_cookies(self):
        "Test that a session of the web client begins, is checked and ends"
        for path, params, status in [
                ('session/login', [self.owner, {'password': PASSWORD}],
                    HTTPStatus.OK),
                ('session/logout', [], HTTPStatus.OK),
                ]:
            answer = self.visitor.http(
                'POST', f'/{DB_NAME}/{path}',
                content_type='application/json',
                base_url='https://localhost',
                data=text({'id': 1, 'params': params}))
            self.assertEqual(answer.status_code, status)
        with self.transaction():
            self.assertEqual(
                Pool().get('ir.session').search(
                    [('create_uid', '=', self.owner_id)], count=True), 0)

    def test_failure(self):
        "Test that a login that fails is counted"
        with self.assertRaises(Refused):
            self.visitor.login(self.owner, password='wrong')
        self.assertEqual(self.attempts(self.owner), 1)

    def test_device(self):
        "Test that a device gets a cookie and renews it"
        self.login()
        old = self.cookie()
        self.assertTrue(self.valid(old))
        new = self.visitor.model('res.user.device', 'renew', old)
        self.assertTrue(self.valid(new))
        self.assertFalse(self.valid(old))

    def test_wizard(self):
        "Test that users begin, execute and close a wizard"
        self.login()
        session_id, _ = self.visitor.start_setup()
        self.visitor.wizard('delete', session_id)
        with self.transaction():
            self.assertFalse(
                Pool().get('ir.session.wizard').search(
                    [('id', '=', session_id)]))

    def test_wizard_with_end(self):
        "Test that a wizard with an end that depends on its session closes"
        visitor = self.administrator()
        name = 'wizard.ir.module.config_wizard'
        session_id, *_ = visitor.call(f'{name}.create', {})
        self.assertEqual(
            visitor.call(f'{name}.delete', session_id, {}), 'reload menu')

    def test_deactivate(self):
        "Test that deactivating a user ends sessions and forgets devices"
        self.login()
        cookie = self.cookie()
        self.administrator().model(
            'res.user', 'write', [self.owner_id], {'active': False})
        self.assertFalse(self.logged_in())
        self.assertFalse(self.valid(cookie))

    def test_password_by_administrator(self):
        "Test that setting a user's password does the same"
        self.login()
        cookie = self.cookie()
        self.administrator().model(
            'res.user', 'write', [self.owner_id],
            {'password': 'battery staple'})
        self.assertFalse(self.logged_in())
        self.assertFalse(self.valid(cookie))

    def test_password_by_preferences(self):
        "Test that users change their password in the preferences"
        self.login()
        cookie = self.cookie()
        self.visitor.model(
            'res.user', 'set_preferences', {'password': 'battery staple'})
        self.assertFalse(self.logged_in())
        self.assertFalse(self.valid(cookie))
        self.assertEqual(
            self.visitor.login(self.owner, password='battery staple'),
            self.owner_id)

    def test_sessions(self):
        "Test that administrators still see how many sessions a user has"
        self.login()
        (values,) = self.administrator().model(
            'res.user', 'read', [self.owner_id], ['sessions'])
        self.assertEqual(values['sessions'], 1)
