# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Fill a database with everything that an update must keep, and dump it

Its users do what users do: nothing is written into the tables directly.
"""

import datetime as dt
import sys
import unittest
from contextlib import contextmanager

from cryptography.fernet import Fernet
from sql import Null

from trytond import security
from trytond.exceptions import LoginException
from trytond.model import ModelSQL, fields
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction

from . import dumps
from .mail import MailTestCase
from .token_tools import SEEDS, TokensTestCase
from .tools import ADDRESS, KEY, OTHER_KEY, PASSWORD, RPC, Refused

OFFICE, ATTACKER = '198.51.100.7', '203.0.113.7'
WRONG_RECOVERY_CODE = 'ACDEF-GHJKM-NPQRT-WXYAC-DEFGH'
DAY = 24 * 60 * 60
# The columns that Tryton itself fills
LOG = {'create_uid', 'create_date', 'write_uid', 'write_date'}
TOKENS = [*SEEDS, OTHER_KEY]
PARAMETERS = {'algorithm': 'sha1', 'digits': 6, 'period': 30}


class Dump(TokensTestCase, MailTestCase):
    "What the users of the dump do"
    modules = ['authentication_totp']
    authentications = 'password+totp?no_totp_secret:totp_device'

    def user(self, **kwargs):
        "Return the login and the id of the administrator"
        with self.transaction():
            User = Pool().get('res.user')
            admins = User.search([('login', '=', 'admin')])
            if not admins:
                # Tryton 8.2 creates no administrator
                admins = User.create([{
                            'name': "Administrator", 'login': 'admin',
                            'administrator': True}])
            User.write(admins, {
                    'password': PASSWORD, 'email': 'admin@example.com'})
            return 'admin', admins[0].id

    def make(self):
        "Fill the database and dump it"
        self.now = dumps.TIME
        self.facts = {'users': {self.admin: self.knowledge(self.admin_id)}}
        self.fill()
        self.facts['time'] = self.now
        print(dumps.dump(self.facts))

    def fill(self):
        old, new = [Fernet.generate_key().decode() for _ in range(2)]
        self.facts['encryption_keys'] = [new, old]
        # Dave sets up TOTP before encryption keys are configured
        self.set_up('dave')
        self.import_tokens(0)
        self.set_keys(old)
        self.set_up('erin')
        self.set_up('judy')
        self.set_keys(new, old)
        self.set_up('admin')
        # The setup has ended the session
        self.rpc = self.client('admin')
        self.alice()
        self.bob()
        self.carol()
        self.lock('erin')
        self.grace()
        self.ivan()
        self.requirements()
        # This encrypts her secret again
        self.log_in('judy', self.code('judy'))
        self.received()
        # The e-mails about what follows are not sent
        for _ in range(3):
            self.refused('judy', self.wrong('judy'))
        self.know('judy')['failed'] = self.now
        self.decoys()
        self.know('alice')['cookie'] = self.remember('alice')
        self.unfinished()
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            self.assertEqual(
                {e.kind for e in Event.search([])},
                {kind for kind, _ in Event.kind.selection})
            self.check_filled()

    def check_filled(self):
        "Check that each column of the module has a value in some row"
        cursor = Transaction().connection.cursor()
        empty = []
        for _, Model in Pool().iterobject():
            if (not issubclass(Model, ModelSQL) or callable(Model.table_query)
                    # Only Tryton 8.0 has a group of administrators
                    or (Model.__name__ == 'res.user.totp_administrators'
                        and dumps.SERIES != '80')):
                continue
            table = Model.__table__()
            for name, field in Model._fields.items():
                if (name in LOG or isinstance(field, fields.Function)
                        or not field.sql_type()
                        or 'totp' not in f'{Model.__name__}.{name}'):
                    continue
                cursor.execute(*table.select(
                        table.id, where=getattr(table, name) != Null, limit=1))
                if not cursor.fetchone():
                    empty.append(f'{Model.__name__}.{name}')
        self.assertEqual(empty, [])

    def alice(self):
        self.set_up('alice')
        # Three recovery codes are left, so that she gets a notification
        for _ in range(7):
            self.now += 60
            self.recover('alice')

    def bob(self):
        self.set_up('bob')
        self.add('bob', "Tablet", algorithm='sha256', digits=8)
        self.add('bob', "Laptop", algorithm='sha512', period=60)
        self.client('bob').overview(
            'rename', code=self.code('bob', 1), authenticator='2',
            name="Old tablet")
        self.log_in('bob', self.code('bob', 2))
        # The clock of his phone is two time steps ahead
        for steps in [1, 2]:
            self.log_in('bob', self.code('bob', steps=steps))

    def carol(self):
        "Use hardware tokens"
        free, carol, mike, lost = self.import_tokens(1, 2, 3, 4)
        for login, index, id_ in [('carol', 2, carol), ('mike', 3, mike)]:
            self.assign(login, index, id_)
            with self.setup_in_dialog():
                self.log_in(login, self.code(login))
        # His token waits again. Its clock is wrong: the next code will
        # correct it.
        self.manage('reset_totp', 'reset', 'mike')
        with self.setup_in_dialog():
            self.refused('mike', self.code('mike', steps=8))
        self.act('assign', free, user=self.id_of('carol'))
        self.act('take_back', free)
        # The first token, which is stored unencrypted, waits for a code
        waiting, = self.rpc.model(
            'res.user.totp_token', 'search', [('serial', '=', 'T0')])
        self.assign('heidi', 0, waiting)
        self.act('assign', lost, user=self.id_of('heidi'))
        self.act('lose', lost)

    def assign(self, login, index, id_):
        "Assign the token to a new user"
        self.person(login)
        self.act('assign', id_, user=self.id_of(login))
        self.know(login)['authenticators'] = [
            {'key': TOKENS[index], **PARAMETERS}]

    @contextmanager
    def setup_in_dialog(self):
        "Let users confirm their authenticators when they log in"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        yield
        self.set_config('session', 'authentications', self.authentications)

    def grace(self):
        self.set_up('grace')
        self.log_in('grace', self.code('grace'))
        # The clock of her phone is wrong: the next code will correct it
        self.refused('grace', self.code('grace', steps=8))

    def ivan(self):
        "Cause the events that nobody else causes"
        self.set_up('ivan')
        self.add('ivan', "Watch")
        self.client('ivan').overview(
            'remove', code=self.code('ivan'), authenticator='2')
        rpc = self.client('ivan')
        self.confirm_setup(
            'ivan', rpc, *rpc.start_setup(self.code('ivan')))
        self.client('ivan').overview('renew', code=self.code('ivan'))
        for _ in range(3):
            self.refused('ivan', WRONG_RECOVERY_CODE)
        used = self.code('ivan')
        self.log_in('ivan', used)
        self.now += 120
        self.refused('ivan', used)
        cookie = self.remember('ivan')
        self.lock('ivan', device_cookie=cookie)
        self.rpc.model('res.user', 'unlock_totp', [self.id_of('ivan')])
        rpc = self.client('ivan')
        rpc.overview('forget', code=self.code('ivan'), device='all')
        rpc.turn_off(self.code('ivan'))
        self.set_up('ivan')
        self.manage('reset_totp', 'reset', 'ivan')
        self.manage('invite_totp', 'send', 'ivan')
        self.know('ivan')['authenticators'] = []

    def requirements(self):
        "Require TOTP for users and groups"
        day = dt.date.fromtimestamp(dumps.TIME + 60 * DAY)
        self.facts['day'] = day.isoformat()
        self.person('kevin')
        self.person('leo')
        self.confirm('res.group', 'create', [{
                    'name': "Accounting", 'totp_required': True,
                    'users': [('add', [self.id_of('leo')])]}])
        later = {'totp_required': True, 'totp_required_from': day}
        self.confirm('res.user', 'write', [self.id_of('kevin')], later)
        groups = self.rpc.model(
            'res.group', 'search', [('name', '=', "Administration")])
        # Tryton 8.2 has no group of administrators
        if not groups:
            groups = self.rpc.model(
                'res.group', 'create', [{'name': "Management"}])
        self.confirm('res.group', 'write', groups, later)

    def decoys(self):
        "Enter wrong codes for logins without TOTP, before the password"
        self.set_config('session', 'authentications', 'totp+password')
        for login in ['nobody', 'kevin', 'nobody', 'nobody']:
            self.refused(login, '123456')
        self.set_config('session', 'authentications', self.authentications)

    def unfinished(self):
        "Begin what the users can finish for a while"
        self.person('frank')
        _, shown = self.client('frank').start_setup()
        self.know('frank')['authenticators'] = [
            {'key': shown['secret'].replace(' ', ''), **PARAMETERS}]
        self.facts['wizard'], _ = self.read_file(f'T5,{KEY}'.encode())

    # How they do it

    def person(self, login):
        "Let the administrator create a user"
        id_, = self.rpc.model('res.user', 'create', [{
                    'name': login.title(), 'login': login,
                    'password': PASSWORD, 'email': f'{login}@example.com'}])
        self.facts['users'][login] = self.knowledge(id_)

    @staticmethod
    def knowledge(id_):
        return {
            'id': id_, 'authenticators': [], 'recovery_codes': [],
            'used_recovery_codes': []}

    def know(self, login):
        return self.facts['users'][login]

    def id_of(self, login):
        return self.know(login)['id']

    def set_up(self, login):
        "Let the user set up TOTP, a new user if there is none"
        if login not in self.facts['users']:
            self.person(login)
        rpc = self.client(login)
        self.confirm_setup(login, rpc, *rpc.start_setup())

    def confirm_setup(self, login, rpc, session_id, shown):
        "Confirm the only authenticator of the user"
        known = self.know(login)
        known['authenticators'] = []
        codes = self.confirm_key(login, rpc, session_id, shown)
        known['recovery_codes'] = codes.splitlines()

    def add(self, login, name, **parameters):
        "Add an authenticator with these settings"
        for setting, value in {**PARAMETERS, **parameters}.items():
            self.set_totp(setting, str(value))
        rpc = self.client(login)
        session_id, shown = rpc.overview('add', code=self.code(login))
        self.confirm_key(
            login, rpc, session_id, {**shown, 'name': name}, **parameters)
        for setting, value in PARAMETERS.items():
            self.set_totp(setting, str(value))

    def confirm_key(self, login, rpc, session_id, shown, **parameters):
        "Confirm the key, and return the recovery codes that are shown, if any"
        self.know(login)['authenticators'].append({
                'key': shown['secret'].replace(' ', ''),
                **PARAMETERS, **parameters})
        self.now += 60
        return rpc.wizard(
            'execute', session_id, {'start': {
                    **shown, 'code': self.code(login, -1)}},
            'confirm')['view']['defaults'].get('recovery_codes')

    def code(self, login, index=0, steps=0):
        "Return a code of the user's authenticator that is not used yet"
        self.now += 60
        authenticator = self.know(login)['authenticators'][index]
        authenticator['last'] = [self.now, steps]
        return dumps.code(authenticator, self.now, steps)

    def wrong(self, login):
        "Return a code that the user's authenticator shows much later"
        return dumps.code(
            self.know(login)['authenticators'][0], self.now, 99)

    def log_in(self, login, code):
        "Log in and return the client"
        rpc = RPC()
        rpc.login(login, password=PASSWORD, totp_code=code)
        return rpc

    def refused(self, login, code, address=ADDRESS, **parameters):
        "Enter a code that is refused"
        with self.assertRaises(LoginException):
            security.login(
                DB_NAME, login,
                {'password': PASSWORD, 'totp_code': code, **parameters},
                cache=False, context={'_request': {'remote_addr': address}})

    def recover(self, login):
        "Log in with a recovery code"
        known = self.know(login)
        code = known['recovery_codes'].pop()
        known['used_recovery_codes'].append(code)
        self.log_in(login, code)

    def remember(self, login):
        "Return the cookie of a new device that skips the code"
        rpc = self.log_in(login, self.code(login))
        return rpc.model('res.user.device', 'renew', None)

    def lock(self, login, **parameters):
        "Enter wrong codes until the lockout, from two networks"
        # No remembered device skips the code
        self.set_config('session', 'authentications', 'password+totp')
        for i in range(100):
            self.refused(
                login, self.wrong(login),
                OFFICE if i % 3 else ATTACKER, **parameters)
            self.now += 3600
        self.set_config('session', 'authentications', self.authentications)

    def import_tokens(self, *indices):
        return self.import_(*[f'T{i},{TOKENS[i]}' for i in indices])

    def confirm(self, model, method, *params):
        "Let the administrator call the method and confirm its warning"
        try:
            return self.rpc.model(model, method, *params)
        except Refused as refused:
            self.rpc.accept(refused)
        return self.rpc.model(model, method, *params)

    def manage(self, name, state, login):
        "Let the administrator run the wizard on the user"
        super(TokensTestCase, self).wizard(
            self.rpc, name, state, user_ids=[self.id_of(login)])


if __name__ == '__main__':
    result = unittest.TextTestRunner().run(
        unittest.TestSuite([Dump('make')]))
    sys.exit(not result.wasSuccessful())
