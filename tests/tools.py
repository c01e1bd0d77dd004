# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import os
import socket
import tempfile
from random import Random
from unittest.mock import patch

import hypothesis
from aiosmtpd.controller import Controller
from sql import For

import trytond.config as config
from trytond import security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import (
    clock, notice, seal, settings, totp)
from trytond.pool import Pool
from trytond.pyson import PYSONEncoder
from trytond.tests.test_tryton import (
    DB_NAME, TestCase, activate_module, drop_db, restore_db_cache)
from trytond.transaction import Transaction

from .cheap_hash import CHEAP_HASH
# Tests also import these names from here
from .rpc import ADDRESS as ADDRESS
from .rpc import RPC, right_code
from .rpc import Refused as Refused
from .work import WorkMixin

# No test depends on the speed of the machine
hypothesis.settings.register_profile(
    'tests', deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('tests')

KEY = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'
OTHER_KEY = 'MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U'
PASSWORD = 'correct horse'
# The colon separates issuer and account
ISSUER = f"Tryton {DB_NAME.strip(':')}"
WRONG = "The code is wrong. Enter the code that your authenticator shows now."
REFUSED = (
    "The code is wrong, or there were too many wrong codes. "
    "Enter the code that your authenticator shows now. "
    "If it is refused too, wait up to an hour, or use a recovery code.")
WAIT = "Too many wrong codes. Try again in %s, or use a recovery code."
LOCKED = (
    "Too many wrong codes. Codes no longer work. "
    "Use a recovery code, or ask an administrator to unlock TOTP.")
UNREADABLE = (
    "The server cannot check codes at the moment. Tell your administrator.")
WRONG_NEW = (
    "The code is wrong. Enter the code that your authenticator shows now for "
    "the new entry. If you scanned more than one QR code, use the newest "
    "entry and delete the others.")
WRONG_DIGITS = (
    "The code is wrong. "
    "Enter all %s digits that your authenticator shows now.")
IS_KEY = (
    "This is a key, not a code. "
    "Enter the %s digits that your authenticator shows now.")
WRONG_RECOVERY = (
    "The recovery code is wrong or was already used. "
    "A recovery code has 25 letters and digits and never contains "
    "0, 1, 2, 5, 8, B, I, L, O, S, U, V, Z. Enter one recovery code, "
    "or the code that your authenticator shows now.")
WITHOUT = (
    "You need TOTP to log in, but you have not set it up. "
    "Ask your administrator to let you set it up.")
BLANK = "Enter the code from your authenticator, or a recovery code."
USED = "The code was already used. Wait for the next code and enter it."


def free_port(case):
    "Return a port that no other program gets before the test case ends"
    sock = socket.socket()
    case.addCleanup(sock.close)
    # With this option the server can bind to the port as well, as this socket
    # does not listen on it
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(('127.0.0.1', 0))
    return sock.getsockname()[1]


def start_mail_server(case, handler):
    "Start a mail server for the test case, and return it"
    server = Controller(
        handler, '127.0.0.1', free_port(case),
        # The default of 5 seconds is too short for a busy machine
        ready_timeout=600)
    server.start()
    return server


def set_config(section, option, value):
    "Set the option and return the function that restores its value"
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


def secret_from(key):
    "Return the Secret with the key and the parameters of the settings"
    return totp.Secret.from_key(key, **settings.parameters())


def seal_set(user_id, *secrets, generation=1):
    "Return the text that stores the secrets in force of the user"
    return seal.seal(
        [[number, secret.values]
            for number, secret in enumerate(secrets, 1)],
        settings.get('encryption_keys'), clock.now(),
        owner=user_id, purpose='in force', generation=generation)


class TOTPTestCase(WorkMixin, TestCase):
    "Test logins of committed users, with a clock that the test sets"
    modules = ['authentication_totp', 'authentication_sms']
    authentications = 'password+totp'

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Data that another class has left would also be in the caches
        drop_db()
        cls.addClassCleanup(drop_db)
        cls.create_database()

    @classmethod
    def create_database(cls):
        "Create the database that the tests of the class use"
        if not restore_db_cache('-'.join(cls.modules)):
            # The tests of the module restore a copy that is made in between,
            # with only this module activated
            activate_module(cls.modules[:1])
            activate_module(cls.modules)

    def setUp(self):
        super().setUp()
        self.now = 2_000_000_000
        self.set_config('session', 'authentications', self.authentications)
        # The logins of all tests come from the same network
        self.set_config('session', 'max_attempt_ip_network', str(10**6))
        # Caches must not read again whenever the clock of the machine says so
        self.set_config('cache', 'clean_timeout', str(10**9))
        # New keys are the same at each run: the code of a random key may by
        # chance be the code that a test enters as a wrong one
        random = Random(self.id())
        for patcher in [
                patch.object(clock, 'now', lambda: self.now),
                patch(
                    'secrets.token_bytes',
                    lambda count=None: random.randbytes(count or 32)),
                # Core sleeps after a failed login
                patch('trytond.res.user.time'),
                # Checking passwords is slow, and not what is tested
                patch('trytond.res.user.PASSWORD_HASH', CHEAP_HASH),
                patch('trytond.modules.authentication_sms.res.send_sms'),
                # The server logs each notice once, but each test expects it
                patch.object(notice, '_told', set()),
                # The test sends the e-mails with send_emails
                patch('trytond.modules.authentication_totp.event._MAILER'),
                ]:
            mock = patcher.start()
            self.addCleanup(patcher.stop)
        self.mailer = mock

    def set_config(self, section, option, value):
        self.addCleanup(set_config(section, option, value))

    def key_file(self, *keys):
        "Write the keys to a new file, as a server reads each file only once"
        handle, path = tempfile.mkstemp()
        self.addCleanup(os.unlink, path)
        with open(handle, 'w') as file:
            file.write('\n'.join(keys) + '\n')
        return path

    def set_keys(self, *keys):
        self.set_totp('encryption_keys', self.key_file(*keys) if keys else '')

    def lift_core_limit(self):
        "Prevent core from refusing or delaying logins after failed attempts"
        self.set_config('session', 'max_attempt', str(10**6))
        patcher = patch('trytond.res.user.random')
        patcher.start()
        self.addCleanup(patcher.stop)

    def set_totp(self, option, value):
        self.set_config('authentication_totp', option, value)

    def transaction(self, user=0):
        return Transaction().start(DB_NAME, user)

    def user(self, key=None, administrator=False, email=True):
        """Create a user named after the test

        key: the key of the user's authenticator, if the user shall have one
        Return the login and the id.
        """
        name = self.id().rpartition('.')[2]
        with self.transaction() as transaction:
            pool = Pool()
            User = pool.get('res.user')
            with transaction.set_context(active_test=False):
                count = User.search(
                    [('login', 'like', f'{name}-%')], count=True)
            login = f'{name}-{count}'
            values = {'name': login, 'login': login, 'password': PASSWORD}
            if administrator:
                if hasattr(User, 'administrator'):
                    values['administrator'] = True
                else:
                    ModelData = pool.get('ir.model.data')
                    values['groups'] = [
                        ('add', [ModelData.get_id('res', 'group_admin')])]
            if email:
                values['email'] = f'{login}@example.com'
            user, = User.create([values])
            if key:
                user.set_totp_key(key)
            return login, user.id

    def manager(self, *user_ids):
        """Create a user who may write these users, and no others

        Return the login and the id.
        """
        login, user_id = self.user()
        with self.transaction():
            pool = Pool()
            User = pool.get('res.user')
            group, everything = pool.get('res.group').create([
                    {'name': login}, {'name': f'{login} everything'}])
            User.write([User(user_id)], {'groups': [('add', [group.id])]})
            pool.get('ir.model.access').create([{
                        'model': 'res.user', 'group': group.id,
                        'perm_read': True, 'perm_write': True,
                        'perm_create': False, 'perm_delete': False}])
            rule = {
                'model': 'res.user', 'global_p': False, 'default_p': False,
                'perm_read': False, 'perm_write': True,
                'perm_create': False, 'perm_delete': False}
            rules = pool.get('ir.rule.group').create([{
                        **rule, 'name': login,
                        'groups': [('add', [group.id])],
                        'rules': [('create', [{
                                        'domain': PYSONEncoder().encode(
                                            [('id', 'in', user_ids)])}])],
                        }, {
                        # In the series where a boolean marks administrators,
                        # the rules of all groups apply to them. One matching
                        # rule is enough, and this one matches every user
                        **rule, 'name': f'{login} everything',
                        'groups': [('add', [everything.id])],
                        }])
            self.addCleanup(self.delete, 'ir.rule.group', map(int, rules))
        return login, user_id

    def delete(self, model, ids):
        with self.transaction():
            Model = Pool().get(model)
            Model.delete(Model.browse(list(ids)))

    def client(self, login):
        "Log the user in with the password alone, and return the client"
        restore = set_config('session', 'authentications', 'password')
        try:
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            return rpc
        finally:
            restore()

    def add_authenticator(self, user_id, code=None, name=None):
        """Add an authenticator as the user, and return its key

        code: the code that allows it, by default the current one of KEY
        """
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            key = user.start_totp_setup(
                code or self.code()).text.replace(' ', '')
            user.finish_totp_setup(right_code(key, self.now), name=name)
        return key

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
        "Store the sealed text as the secrets in force of the user"
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret], [stored],
                    where=table.id == user_id))

    def forget_others(self):
        "Remove the data of other tests that the server reports at start"
        with self.transaction() as transaction:
            pool = Pool()
            user = pool.get('res.user').__table__()
            counter = pool.get('res.user.totp_counter').__table__()
            cursor = transaction.connection.cursor()
            cursor.execute(*user.update(
                    [user.totp_secret, user.totp_pending_secret],
                    [None, None]))
            cursor.execute(*counter.update([counter.last_used], [None]))

    def load(self):
        "Run the checks that a new process runs after it loads the database"
        with patch.object(notice, '_told', set()), self.transaction():
            Pool().get('ir.configuration')(1).check()

    def counters(self, user_id):
        "Return the time steps of the last code of each authenticator in use"
        with self.transaction():
            table = Pool().get('res.user.totp_counter').__table__()
        return [counter for counter, in self.sql(table.select(
                    table.counter,
                    where=(table.user == user_id) & (table.counter >= 0)))]

    def failures(self, user_id, kind='elsewhere'):
        "Return how many failures of the user count towards the lockout"
        with self.transaction():
            table = Pool().get('res.user.totp_guess').__table__()
        (failures,), = self.sql(table.select(
                table.failures,
                where=(table.user == user_id) & (table.kind == kind)))
        return failures

    def forget_failures(self, user_id):
        "Forget the failures of the user, without an event"
        with self.transaction():
            Pool().get('res.user.totp_guess').unlock([user_id])

    def drift(self, user_id):
        "Return how many steps the user's only authenticator is ahead"
        with self.transaction():
            table = Pool().get('res.user.totp_counter').__table__()
        (drift,), = self.sql(
            table.select(table.drift, where=table.user == user_id))
        return drift

    def events(self, user_id):
        "Return the kinds of the events of the user, oldest first"
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            return [e.kind for e in Event.search(
                    [('user', '=', user_id)], order=[('id', 'ASC')])]

    def send_emails(self):
        "Send the e-mails, as the thread of the server does"
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

    def lock_guesses(self, cursor, user_id=None):
        "Lock the rows that count the failures of the user, or all decoys"
        table = Pool().get('res.user.totp_guess').__table__()
        where = table.user == user_id if user_id else table.user < 0
        cursor.execute(*table.select(
                table.id, where=where, for_=For('UPDATE')))

    def attempts(self, login):
        with self.transaction():
            return Pool().get('res.user.login.attempt').count(login)

    def network_attempts(self):
        "Return how many failed logins count for the network only"
        return self.attempts('')

    def forget_attempts(self):
        with self.transaction() as transaction:
            table = Pool().get('res.user.login.attempt').__table__()
            transaction.connection.cursor().execute(*table.delete())

    def dialogue(self, login, device_cookie=None, **answers):
        """Log in as a client does, with all answers so far in each request

        answers: for each question, a list of what the user types in turn
        Return the id of the user, or None without a login, and a list of the
        name and the message of each question.
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
