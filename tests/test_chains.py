# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import random
import string
from unittest.mock import patch

from trytond import security
from trytond.exceptions import LoginException, RateLimitException
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    ADDRESS, KEY, PASSWORD, RPC, Refused, TOTPTestCase)

LOGGER = 'trytond.modules.authentication_totp'
CANNOT = "You cannot log in at the moment. Tell your administrator."
# Each with the name that is not a login method
MISPRINTS = [
    ('password+topt', 'topt'),
    ('password+ totp', ' totp'),
    ('password+TOTP', 'TOTP'),
    ('password+t\u043etp', 't\u043etp'),
    ('password+totp ; since May', 'totp ; since May'),
    ('password+totp # strict', 'totp # strict'),
    ('password+totp ?no_totp_secret', 'totp '),
    ('password+totp\t?no_totp_secret', 'totp\t'),
    ('password+totp\n+sms', 'totp\n'),
    ('password+sns+totp', 'sns'),
    ('password+topt?no_totp_secret', 'topt'),
    ('password+topt?device_cookie', 'topt'),
    ('password+totp?device_cookie+topt?ip_address', 'topt'),
    ('password+', ''),
    ('password++totp', ''),
    ('password+topt,password+ totp', 'topt'),
    # Options are not methods
    ('password+setup_totp', 'setup_totp'),
    ('password+no_totp_secret', 'no_totp_secret'),
    # Methods of a module that the database has not activated
    ('password+ldap', 'ldap'),
    ('password+ldap+totp', 'ldap'),
    ]
# Misprints with which no first factor passes
MISPRINTS_FIRST = [
    ('topt', 'topt'),
    ('topt+password', 'topt'),
    ('ldap+totp', 'ldap'),
    ('password +totp', 'password '),
    ('"password+totp"', '"password'),
    ('password;totp', 'password;totp'),
    ('', ''),
    ]
WITH_TOTP = [
    'password+totp',
    'password+totp?no_totp_secret',
    'password+totp?setup_totp',
    'password+totp?no_totp_secret:setup_totp',
    'password+totp?device_cookie:ip_address',
    'totp,password',
    'password+totp,password+sms',
    'totp+password',
    'password+totp+sms',
    ]
WITHOUT_TOTP = [
    'password',
    'password+sms',
    'password+sms?ip_address:device_cookie',
    'sms+password?ip_address',
    'password,totp',
    ]


class ChainsTestCase(TOTPTestCase):
    "Test that no misprint turns TOTP off (law 10)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.set_config(
            'session', 'authentication_ip_network', '198.51.100.0/24')

    def chains(self, value):
        self.set_config('session', 'authentications', value)

    def answer(self, login, **parameters):
        """Return the answer of the front door

        The id of the user, the name of the error with its first text, or the
        HTTP status.
        """
        self.forget_attempts()
        try:
            return RPC().login(login, **parameters)
        except Refused as refused:
            error, *details = refused.args
            if isinstance(error, int):
                return error
            name, *texts = details[0]
            if CANNOT in texts:
                name = CANNOT
            return error, name

    def cookie(self, user_id):
        with self.transaction(user_id):
            return Pool().get('res.user.device').renew(None)

    def assertLine(self, logs, name):
        "Check that one line names the mistake in the setting"
        lines = [
            record.getMessage() for record in logs.records
            if repr(name) in record.getMessage()]
        self.assertEqual(len(lines), 1, logs.output)
        self.assertIn('authentications', lines[0])
        self.assertEqual(len(lines[0].splitlines()), 1)

    def users(self):
        return [
            (login, user_id, self.cookie(user_id))
            for login, user_id in [self.user(KEY), self.user()]]

    def test_misprint(self):
        "Test that a chain with an unknown name admits nobody"
        users = self.users()
        for value, name in MISPRINTS:
            self.chains(value)
            for login, _, cookie in users:
                for others in [
                        {}, {'totp_code': self.code()}, {'totp_code': ''},
                        {'totp_code': self.code(), 'sms_code': 'x'}]:
                    with self.subTest(
                            value=value, user=login, others=others):
                        with self.assertLogs(LOGGER, 'ERROR') as logs:
                            self.assertEqual(
                                self.answer(
                                    login, password=PASSWORD,
                                    device_cookie=cookie, **others),
                                ('LoginException', CANNOT))
                        self.assertLine(logs, name)
        self.chains('password+totp')
        # None of these logins has used up the code
        login, user_id, _ = users[0]
        self.assertEqual(
            self.answer(login, password=PASSWORD, totp_code=self.code()),
            user_id)

    def test_same_options(self):
        "Test that no option of an unknown method skips another method"
        (login, _, cookie), _ = self.users()
        self.chains('password+totp?device_cookie+topt?device_cookie')
        for code, answer in [
                ({}, ('LoginException', 'totp_code')),
                ({'totp_code': self.code()}, ('LoginException', CANNOT))]:
            self.assertEqual(
                self.answer(
                    login, password=PASSWORD, device_cookie=cookie, **code),
                answer)

    def test_misprint_wrong_password(self):
        "Test that a stranger gets the same answer as with a valid chain"
        (login, _, cookie), _ = self.users()
        for value, _ in MISPRINTS:
            for user in [login, 'nobody']:
                with self.subTest(value=value, user=user):
                    answers = []
                    for authentications in ['password+totp', value]:
                        self.chains(authentications)
                        answers.append([
                                self.answer(user, **parameters)
                                for parameters in [
                                    {},
                                    {'password': 'x'},
                                    {'password': 'x', 'totp_code': 'x'},
                                    {'password': 'x',
                                        'device_cookie': cookie}]])
                    self.assertEqual(*answers)
                    self.assertEqual(
                        answers[0], [('LoginException', 'password')]
                        + [401] * 3)

    def test_misprint_first(self):
        "Test that an unknown name in front admits nobody, as in core"
        users = self.users()
        for value, name in MISPRINTS_FIRST:
            self.chains(value)
            for login, _, cookie in users:
                with self.subTest(value=value, user=login):
                    with self.assertLogs(LOGGER, 'ERROR') as logs:
                        self.assertEqual(
                            self.answer(
                                login, password=PASSWORD,
                                totp_code=self.code(),
                                device_cookie=cookie),
                            401)
                    self.assertLine(logs, name)

    def test_misprint_at_start(self):
        "Test that the server reports unknown names when it starts"
        self.forget_others()
        for value, name in MISPRINTS + MISPRINTS_FIRST + [
                ('password+totp?no_totp_secrt', 'no_totp_secrt'),
                ('password+totp,password+totp?device_cookie:ip', 'ip'),
                ('totp,password+topt', 'topt')]:
            with self.subTest(value=value):
                self.chains(value)
                with self.assertLogs(LOGGER, 'ERROR') as logs:
                    self.load()
                self.assertLine(logs, name)

    def test_start(self):
        "Test that loading the database runs the check"
        self.forget_others()
        self.chains('password+topt')
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            Pool(DB_NAME).init()
        self.assertLine(logs, 'topt')

    def test_no_totp(self):
        "Test that the server reports a policy that asks nobody for a code"
        _, user_id = self.user()
        for value in ['password', 'password,password+sms']:
            self.chains(value)
            with self.subTest(value=value):
                with self.transaction() as transaction:
                    User = Pool().get('res.user')
                    with self.assertLogs(LOGGER, 'ERROR') as logs:
                        User.write([User(user_id)], {'totp_required': True})
                        User.check_authentications()
                    transaction.rollback()
                self.assertLine(logs, 'password')
                self.assertIn('names no totp', logs.output[0])
        with self.transaction():
            User = Pool().get('res.user')
            with patch.object(
                    User, '_is_totp_in_use', return_value=False), \
                    self.assertNoLogs(LOGGER, 'ERROR'):
                User.check_authentications()

    def test_without_code(self):
        "Test that the server reports a chain that makes another one useless"
        for value in ['password+totp,password', 'password,password+totp']:
            with self.subTest(value=value):
                self.chains(value)
                with self.assertLogs(LOGGER, 'ERROR') as logs:
                    self.load()
                self.assertIn(
                    "'password' lets users log in without the code that "
                    "'password+totp' asks for", logs.output[0])
        for value in ['totp,password', 'password+totp,password+sms']:
            with self.subTest(value=value):
                self.chains(value)
                with self.transaction(), \
                        self.assertNoLogs(LOGGER, 'ERROR'):
                    Pool().get('res.user').check_authentications()

    def test_following_chain(self):
        "Test that a valid chain works after one with an unknown name"
        login, user_id = self.user(KEY)
        without, without_id = self.user()
        self.chains('password+topt,password+totp')
        for user in [login, without]:
            self.assertEqual(self.answer(user, password='x'), 401)
            self.assertEqual(
                self.answer(user, password=PASSWORD),
                ('LoginException', 'totp_code'))
            self.assertEqual(
                self.answer(
                    user, password=PASSWORD, totp_code=self.code(95)),
                ('LoginException', 'totp_code'))
        self.assertEqual(
            self.answer(login, password=PASSWORD, totp_code=self.code()),
            user_id)
        self.chains('password+topt,password+sms')
        for user, id_ in [(login, user_id), (without, without_id)]:
            self.assertEqual(
                self.answer(user, password=PASSWORD),
                ('LoginException', 'sms_code'))
            self.assertEqual(
                self.answer(
                    user, password=PASSWORD, sms_code=self.sms_code(id_)),
                id_)

    def test_earlier_chain(self):
        "Test that an unknown name admits nobody after a valid chain"
        users = self.users()
        self.chains('password+totp,password+topt')
        for login, _, _ in users:
            self.assertEqual(
                self.answer(login, password=PASSWORD),
                ('LoginException', 'totp_code'))
            for blank in ['', ' ', None]:
                self.assertEqual(
                    self.answer(
                        login, password=PASSWORD, totp_code=blank),
                    ('LoginException', CANNOT))
            self.assertEqual(self.answer(login, password='x'), 401)
        login, user_id, _ = users[0]
        self.assertEqual(
            self.answer(login, password=PASSWORD, totp_code=self.code()),
            user_id)

    def test_unknown_option(self):
        "Test that an unknown option skips nothing, and is reported"
        login, user_id = self.user(KEY)
        without, _ = self.user()
        for value, name in [
                ('password+totp?no_totp_secrt', 'no_totp_secrt'),
                ('password+totp?no_totp_secrt:ip_address', 'no_totp_secrt'),
                ('password+totp?ip_address:NO_TOTP_SECRET',
                    'NO_TOTP_SECRET'),
                ('password+totp?no_totp_secret ; since May',
                    'no_totp_secret ; since May'),
                ('password+totp? no_totp_secret', ' no_totp_secret'),
                ('password+totp??no_totp_secret', '?no_totp_secret'),
                ('password+totp?', ''),
                ('password+totp?totp', 'totp'),
                ]:
            self.chains(value)
            for user in [login, without]:
                with self.subTest(value=value, user=user):
                    with self.assertLogs(LOGGER, 'ERROR') as logs:
                        self.assertEqual(
                            self.answer(user, password=PASSWORD),
                            ('LoginException', 'totp_code'))
                    self.assertLine(logs, name)
        self.assertEqual(
            self.answer(login, password=PASSWORD, totp_code=self.code()),
            user_id)

    def test_blanks_around(self):
        "Test that blanks around the whole value do not matter"
        (login, user_id, cookie), (without, without_id, _) = self.users()
        for form in [' {}\t', '{} ', '\t{}', '\n{}\n', '{}\r\n', ' \t{}\n ']:
            with self.subTest(form=form), self.assertNoLogs(LOGGER, 'ERROR'):
                self.chains(form.format('password+totp'))
                for user in [login, without]:
                    self.assertEqual(
                        self.answer(user, password=PASSWORD),
                        ('LoginException', 'totp_code'))
                self.assertEqual(
                    self.answer(
                        login, password=PASSWORD, totp_code=self.code()),
                    user_id)
                self.now += 30
                self.chains(form.format('password+totp?no_totp_secret'))
                self.assertEqual(
                    self.answer(login, password=PASSWORD),
                    ('LoginException', 'totp_code'))
                self.assertEqual(
                    self.answer(without, password=PASSWORD), without_id)
                self.chains(form.format('password+totp?device_cookie'))
                self.assertEqual(
                    self.answer(
                        login, password=PASSWORD, device_cookie=cookie),
                    user_id)
                self.assertEqual(
                    self.answer(login, password=PASSWORD),
                    ('LoginException', 'totp_code'))
                self.chains(form.format('password'))
                self.assertEqual(
                    self.answer(login, password=PASSWORD), user_id)

    def test_valid(self):
        "Test that valid settings work and log nothing"
        self.forget_others()
        (login, user_id, _), (without, without_id, _) = self.users()
        for value in WITH_TOTP + WITHOUT_TOTP:
            with self.subTest(value=value):
                self.chains(value)
                sms_code = self.sms_code(user_id)
                with self.assertNoLogs(LOGGER, 'ERROR'):
                    if value in WITH_TOTP:
                        self.load()
                    self.assertEqual(
                        self.answer(
                            login, password=PASSWORD, totp_code=self.code(),
                            sms_code=sms_code),
                        user_id)
                    self.answer(without, password=PASSWORD)
                    self.answer(login, password=PASSWORD)
                    self.assertEqual(self.answer(login, password='x'), {
                            'totp,password': ('LoginException', 'totp_code'),
                            'totp+password': ('LoginException', 'totp_code'),
                            'password,totp': ('LoginException', 'totp_code'),
                            'sms+password?ip_address': (
                                'LoginException', 'sms_code'),
                            }.get(value, 401))
                self.now += 30

    def test_other_module(self):
        "Test that the methods and options of other modules are known"
        login, user_id = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')

        def login_ldap(login, parameters):
            if parameters.get('password') == 'of the directory':
                return user_id

        def skip(login, parameters):
            return True
        self.chains('ldap+totp')
        parameters = {'password': 'of the directory'}
        with patch.object(User, '_login_ldap', login_ldap, create=True), \
                patch.object(
                    User, '_check_login_options_skip', skip, create=True), \
                self.assertNoLogs(LOGGER, 'ERROR'):
            self.assertEqual(
                self.answer(login, **parameters),
                ('LoginException', 'totp_code'))
            self.assertEqual(
                self.answer(login, totp_code=self.code(), **parameters),
                user_id)
            self.chains('ldap+totp?skip')
            self.assertEqual(self.answer(login, **parameters), user_id)
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            self.assertEqual(self.answer(login, **parameters), 401)
        self.assertLine(logs, 'ldap')

    def edited(self, random_):
        "Return a valid setting with one to three small edits"
        value = random_.choice(WITH_TOTP)
        for _ in range(random_.choice([1, 1, 1, 2, 3])):
            at = random_.randrange(len(value) + 1)
            # Mostly characters that have a meaning
            character = random_.choice(
                random_.choice(['+,?:', ' \t\n', string.printable]))
            edit = random_.choice(['insert', 'delete', 'replace', 'swap'])
            if edit == 'insert':
                value = value[:at] + character + value[at:]
            elif edit == 'delete':
                value = value[:at] + value[at + 1:]
            elif edit == 'replace':
                value = value[:at] + character + value[at + 1:]
            else:
                value = value[:at] + value[at:at + 2][::-1] + value[at + 2:]
        return value

    def admits(self, value, known_device):
        "Return whether the setting literally asks for the password alone"
        for chain in value.strip().split(','):
            first, *methods = chain.split('+')
            if first == 'password' and all(
                    method.partition('?')[0] == 'password'
                    or (known_device
                        and method.partition('?')[0] in {'totp', 'sms'}
                        and 'device_cookie' in
                        method.partition('?')[2].split(':'))
                    for method in methods):
                return True
        return False

    def test_edited(self):
        "Test that no small edit lets a user log in with the password alone"
        login, user_id = self.user(KEY)
        cookie = self.cookie(user_id)
        random_ = random.Random(12)
        admitted = 0
        for _ in range(200):
            value = self.edited(random_)
            self.chains(value)
            self.forget_attempts()
            for parameters in [
                    {}, {'totp_code': '', 'sms_code': ''},
                    {'device_cookie': cookie}]:
                with self.subTest(value=value, parameters=parameters):
                    try:
                        got_id = security.login(
                            DB_NAME, login,
                            {'password': PASSWORD, **parameters},
                            cache=False, context={
                                '_request': {'remote_addr': ADDRESS}})
                    except LoginException:
                        got_id = None
                    except RateLimitException:
                        self.fail("not evaluated")
                    if not self.admits(value, 'device_cookie' in parameters):
                        self.assertIsNone(got_id)
                    elif got_id:
                        admitted += 1
        # These logins show that only the setting refused the others
        self.assertGreater(admitted, 10)
