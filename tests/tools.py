# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json
import os
import socket
import tempfile
from base64 import b64encode
from contextlib import contextmanager
from unittest.mock import patch

import pyotp

import trytond.config as config
from trytond import security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.protocols.jsonrpc import JSONDecoder, JSONEncoder
from trytond.protocols.wrappers import Response
from trytond.tests.test_tryton import (
    DB_NAME, Client, TestCase, activate_module)
from trytond.transaction import Transaction
from trytond.wsgi import app

from .cheap_hash import CHEAP_HASH

KEY = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'
OTHER_KEY = 'MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U'
PASSWORD = 'correct horse'
ADDRESS = '192.0.2.7'
WRONG = "The code is wrong. Enter the code that your authenticator shows now."
REFUSED = (
    "The code is wrong, or there were too many wrong codes before. "
    "Enter the code that your authenticator shows now. "
    "If it is refused too, wait up to an hour; "
    "a recovery code or an administrator helps at once.")
WAIT = (
    "There were too many wrong codes. "
    "Codes work again in %s (hours:minutes:seconds). "
    "A recovery code or an administrator helps at once.")
LOCKED = (
    "There were too many wrong codes. Codes do not work any more. "
    "Enter a recovery code or ask an administrator to unlock TOTP.")
USED = "The code was already used. Wait for the next one and enter it."


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as server:
        return server.getsockname()[1]


def set_config(section, option, value):
    "Set the option and return the function that sets it back"
    if not config.has_section(section):
        config.add_section(section)
    old = config.get(section, option)
    config.set(section, option, value)

    def restore():
        if old is None:
            config._config.remove_option(section, option)
            config._cache_clear()
        else:
            config.set(section, option, old)
    return restore


def right_code(key, time, steps=0):
    "The code of an authenticator that is not passlib's"
    return pyotp.TOTP(key.replace(' ', '')).at(time + steps * 30)


class Refused(Exception):
    "What a JSON-RPC call answers when it is not the result"


class RPC:
    "A client of the JSON-RPC front door, as sao and proteus talk to it"

    host = 'localhost'

    def __init__(self):
        self.client = Client(app, Response)
        self.session = None

    def post(self, method, *params):
        headers = {'Host': self.host}
        if self.session:
            headers['Authorization'] = (
                'Session ' + b64encode(self.session.encode()).decode())
        return self.client.post(
            f'/{DB_NAME}/rpc/', content_type='application/json',
            headers=headers, environ_base={'REMOTE_ADDR': ADDRESS},
            data=json.dumps(
                {'id': 1, 'method': method, 'params': params},
                cls=JSONEncoder))

    def call(self, method, *params):
        response = self.post(method, *params)
        if response.status_code != 200:
            raise Refused(response.status_code)
        answer = json.loads(response.data, object_hook=JSONDecoder())
        if 'error' in answer:
            raise Refused(*answer['error'])
        return answer['result']

    def login(self, login, **parameters):
        user_id, session, _ = self.call(
            'common.db.login', login, parameters, 'en')
        self.session = f'{login}:{user_id}:{session}'
        return user_id

    def model(self, model, method, *params):
        return self.call(f'model.{model}.{method}', *params, {})

    def wizard(self, method, *params):
        return self.call(f'wizard.res.user.setup_totp.{method}', *params, {})

    def start_setup(self):
        session_id, start, _ = self.wizard('create')
        result = self.wizard('execute', session_id, {}, start)
        return session_id, result['view']['defaults']

    def confirm_setup(self, session_id, shown, **codes):
        return self.wizard(
            'execute', session_id, {'start': {**shown, **codes}},
            'confirm')['view']['state']


class TOTPTestCase(TestCase):
    "Users who are committed and log in, with a clock that the test moves"
    modules = ['authentication_totp', 'authentication_sms']
    authentications = 'password+totp'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        activate_module(cls.modules)

    def setUp(self):
        super().setUp()
        self.now = 2_000_000_000
        self.set_config('session', 'authentications', self.authentications)
        # All tests together come from the same network
        self.set_config('session', 'max_attempt_ip_network', str(10**6))
        for patcher in [
                patch.object(totp, 'now', lambda: self.now),
                # Core lets who failed wait at the end of the transaction
                patch('trytond.res.user.time'),
                # The cost of the password is not what is tested
                patch('trytond.res.user.PASSWORD_HASH', CHEAP_HASH),
                patch('trytond.modules.authentication_sms.res.send_sms'),
                # E-mails are sent once the test asks for it
                patch('trytond.modules.authentication_totp.res._MAILER'),
                ]:
            mock = patcher.start()
            self.addCleanup(patcher.stop)
        self.mailer = mock

    def set_config(self, section, option, value):
        self.addCleanup(set_config(section, option, value))

    def key_file(self, *keys):
        "Write the keys into a file of its own, as a server reads one once"
        handle, path = tempfile.mkstemp()
        self.addCleanup(os.unlink, path)
        with open(handle, 'w') as file:
            file.write('\n'.join(keys) + '\n')
        return path

    def set_keys(self, *keys):
        self.set_totp('encryption_keys', self.key_file(*keys) if keys else '')

    def lift_core_limit(self):
        "Let the attempts that core counts neither refuse nor sleep"
        self.set_config('session', 'max_attempt', str(10**6))
        patcher = patch('trytond.res.user.random')
        patcher.start()
        self.addCleanup(patcher.stop)

    def set_totp(self, option, value):
        self.set_config('authentication_totp', option, value)

    def transaction(self, user=0):
        return Transaction().start(DB_NAME, user)

    def user(self, key=None, administrator=False, email=True):
        "Commit a user, named after the test, with the key in force"
        name = self.id().rpartition('.')[2]
        with self.transaction():
            pool = Pool()
            User = pool.get('res.user')
            values = {'password': PASSWORD}
            if administrator:
                if hasattr(User, 'administrator'):
                    values['administrator'] = True
                else:
                    ModelData = pool.get('ir.model.data')
                    values['groups'] = [
                        ('add', [ModelData.get_id('res', 'group_admin')])]
            count = User.search([('login', 'like', f'{name}%')], count=True)
            values['login'] = values['name'] = f'{name}-{count}'
            if email:
                values['email'] = f'{name}-{count}@example.com'
            user, = User.create([values])
            if key:
                user.set_totp_key(key)
            return user.login, user.id

    def code(self, steps=0):
        return right_code(KEY, self.now, steps)

    def sql(self, query):
        with self.transaction() as transaction:
            cursor = transaction.connection.cursor()
            cursor.execute(*query)
            return cursor.fetchall()

    def stored_secret(self, user_id):
        with self.transaction():
            table = Pool().get('res.user').__table__()
        (secret,), = self.sql(
            table.select(table.totp_secret, where=table.id == user_id))
        return secret

    def put_secret(self, user_id, stored):
        "Store it as the secret in force"
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret], [stored],
                    where=table.id == user_id))

    def counters(self, user_id):
        "The counters of all the rows of the user with a code accepted"
        with self.transaction():
            table = Pool().get('res.user.totp_counter').__table__()
        return [counter for counter, in self.sql(table.select(
                    table.counter,
                    where=(table.user == user_id) & (table.counter >= 0)))]

    def failures(self, user_id, known_device=False):
        "The consecutive failures counted for the user"
        with self.transaction():
            table = Pool().get('res.user.totp_counter').__table__()
        name = 'device_failures' if known_device else 'failures'
        (failures,), = self.sql(table.select(
                getattr(table, name), where=table.user == user_id))
        return failures

    def events(self, user_id):
        "The kinds of the events of the user, the first one first"
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            return [e.kind for e in Event.search(
                    [('user', '=', user_id)], order=[('id', 'ASC')])]

    def send_emails(self):
        "Do what the thread does that sends the e-mails"
        for call in self.mailer.submit.call_args_list:
            function, *args = call.args
            function(*args)
        self.mailer.reset_mock()

    def sms_code(self, user_id):
        with self.transaction():
            SMSCode = Pool().get('res.user.login.sms_code')
            SMSCode.send(user_id)
            code, = SMSCode.search([('user_id', '=', user_id)])
            return code.code

    @contextmanager
    def count_statements(self):
        "Append each SQL statement of the context to the list"
        with self.transaction() as transaction:
            Cursor = type(transaction.connection.cursor())
        execute = Cursor.execute
        statements = []

        def counted(cursor, *args, **kwargs):
            statements.append(args)
            return execute(cursor, *args, **kwargs)
        with patch.object(Cursor, 'execute', counted):
            yield statements

    def attempts(self, login):
        with self.transaction():
            return Pool().get('res.user.login.attempt').count(login)

    def forget_attempts(self):
        with self.transaction() as transaction:
            table = Pool().get('res.user.login.attempt').__table__()
            transaction.connection.cursor().execute(*table.delete())

    def dialogue(self, login, device_cookie=None, **answers):
        """Play the login dialogue of a client

        Each request carries all answers so far. answers are what is typed,
        for each question one after the other.
        Return the id of the user who got in or None, and all questions.
        """
        answers = {name: list(values) for name, values in answers.items()}
        parameters = {}
        if device_cookie:
            parameters['device_cookie'] = device_cookie
        questions = []
        while True:
            try:
                user_id = security.login(
                    DB_NAME, login, parameters.copy(), cache=False)
                return user_id, questions
            except LoginException as question:
                questions.append((question.name, question.message))
                if not answers.get(question.name):
                    return None, questions
                parameters[question.name] = answers[question.name].pop(0)
