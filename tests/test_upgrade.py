# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import trytond.config as config
from trytond import backend, security
from trytond.exceptions import LoginException
from trytond.modules.authentication_totp import seal
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from . import dumps
from .test_command import CommandMixin
from .tools import (
    ADDRESS, LOCKED, PASSWORD, USED, WAIT, WITHOUT, WRONG_RECOVERY,
    TOTPTestCase)

DAY = 24 * 60 * 60
# Without this entry, Tryton 8.2.1 itself cannot update a database of 8.0: its
# update would create the root user a second time
ROOT = """
INSERT INTO ir_model_data (
    fs_id, model, module, db_id, noupdate, field_names)
VALUES (
    'user_root', 'res.user', 'res', 0, FALSE, '["login", "name", "active"]')
"""


class DumpsTestCase(unittest.TestCase):
    "Test that there are dumps to update"

    def test_released(self):
        "Test that there is a dump of this version of the module"
        self.assertIn(
            f'{dumps.version()}-trytond{dumps.SERIES}-{backend.name}',
            dumps.names())


class UpgradeMixin(CommandMixin):
    """Test that an update of the database in a dump loses nothing

    The database is restored only once, but no test depends on what another
    test changes.
    """
    modules = ['authentication_totp']
    authentications = 'password+totp?no_totp_secret:totp_device'
    # The commands need not load the database again
    loaded = True

    @classmethod
    def create_database(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.facts = dumps.facts(cls.dump)
        cls.migrates = dumps.series(cls.dump) != dumps.SERIES
        dumps.restore(cls.dump, cls.folder)
        cls.rows = [cls.read()]
        args = ['-u', 'authentication_totp']
        if cls.migrates:
            args = ['--all']
            with dumps.connect(cls.folder) as connection:
                connection.cursor().execute(ROOT)
        # The second update must change nothing more
        for _ in range(2):
            cls.admin(*args)
            cls.rows.append(cls.read())
        if cls.migrates:
            # The update by Tryton has deactivated the only administrator
            cls.admin('--administrator')
        dumps.use(cls.folder)

    @classmethod
    def read(cls):
        with dumps.connect(cls.folder) as connection:
            return dumps.rows(connection)

    @classmethod
    def admin(cls, *args):
        "Run trytond-admin on the restored database"
        path, keys = cls.folder / 'trytond.conf', cls.folder / 'keys'
        keys.write_text('\n'.join(cls.facts['encryption_keys']))
        keys.chmod(0o600)
        path.write_text(
            f'[database]\nuri = {config.get("database", "uri")}\n'
            f'path = {cls.folder}\n'
            f'[session]\nauthentications = {cls.authentications}\n'
            f'[authentication_totp]\nencryption_keys = {keys}\n')
        environ = {
            name: value for name, value in os.environ.items()
            if not name.startswith('TRYTOND_')}
        run = subprocess.run(
            [sys.executable, '-m', 'trytond.cli.admin', '-c', path,
                '-d', dumps.database(), *args],
            env=environ, stdin=subprocess.DEVNULL, capture_output=True,
            text=True)
        if run.returncode:
            raise AssertionError(run.stderr)

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.set_keys(*self.facts['encryption_keys'])
        self.now = self.facts['time'] + 60

    def know(self, login):
        return self.facts['users'][login]

    def authenticator(self, login):
        authenticator, = self.know(login)['authenticators']
        return authenticator

    def answer(self, login, code=None, address=ADDRESS, **parameters):
        "Log in. Return what the server asks, None if it asks nothing"
        parameters['password'] = PASSWORD
        if code:
            parameters['totp_code'] = code
        try:
            self.assertEqual(
                security.login(
                    DB_NAME, login, parameters, cache=False,
                    context={'_request': {'remote_addr': address}}),
                self.know(login)['id'])
        except LoginException as question:
            return question.message

    def expected(self, table):
        "Return the rows of the table that the updates must keep"
        rows = self.rows[0][table]
        if not self.migrates:
            return rows
        # From 8.0 to 8.2, Tryton itself deactivates the user admin and
        # removes the group of administrators. The module requires TOTP for a
        # group of the same name instead.
        root, admin = 0, self.know('admin')['id']
        if table == 'res_user':
            rows = [
                row if row['id'] not in {root, admin} else {
                    name: value for name, value in row.items()
                    if name not in {'active', 'write_date', 'write_uid'}}
                for row in rows]
        elif table == 'res_user-res_group':
            rows = [row for row in rows if row['user'] != admin]
        elif table == 'ir_session':
            rows = [row for row in rows if row['create_uid'] != admin]
        elif table == 'res_user_totp_administrators':
            rows = [
                {**row, 'required': False, 'required_from': None}
                for row in rows]
        return rows

    def test_rows(self):
        "Test that both updates keep all rows and their values"
        for after in self.rows[1:]:
            for table in self.rows[0]:
                with self.subTest(table=table):
                    expected = self.expected(table)
                    found = after.get(table, [])
                    self.assertEqual(
                        [row['id'] for row in found],
                        [row['id'] for row in expected])
                    # An update may add columns
                    for old, new in zip(expected, found, strict=True):
                        self.assertEqual(
                            {name: new.get(name, "no such column")
                                for name in old},
                            old)

    def test_codes(self):
        "Test that each authenticator works, and its used codes do not"
        for login in ['admin', 'alice', 'bob', 'carol']:
            for authenticator in self.know(login)['authenticators']:
                with self.subTest(login=login, authenticator=authenticator):
                    self.now, steps = authenticator['last']
                    used = dumps.code(authenticator, self.now, steps)
                    self.assertEqual(self.answer(login, used), USED)
                    self.now += authenticator['period']
                    # The steps of a clock that is ahead
                    code = dumps.code(authenticator, self.now, steps)
                    self.assertIsNone(self.answer(login, code))
        self.assertEqual(len(self.know('bob')['authenticators']), 3)

    def test_unencrypted(self):
        "Test that an unencrypted secret works and is encrypted at the login"
        user_id = self.know('dave')['id']
        self.assertTrue(self.stored_secret(user_id).startswith(seal.CLEAR))
        self.assertIsNone(self.answer(
                'dave', dumps.code(self.authenticator('dave'), self.now)))
        self.assertFalse(self.stored_secret(user_id).startswith(seal.CLEAR))
        self.assertEqual(self.events(user_id), ['set_up', 'resealed'])

    def finish_resync(self, login):
        "Log in with the second of two codes that correct the clock"
        authenticator = self.authenticator(login)
        self.now, steps = authenticator['last']
        self.now += 30
        self.assertIsNone(self.answer(
                login, dumps.code(authenticator, self.now, steps)))

    def test_resync(self):
        "Test that the second of two codes corrects the clock"
        self.finish_resync('grace')

    def test_wait(self):
        "Test that a delay after wrong codes is as long as before"
        authenticator = self.authenticator('judy')
        for seconds, answer in [(10, WAIT % "20 seconds"), (30, None)]:
            self.now = self.know('judy')['failed'] + seconds
            self.assertEqual(
                self.answer('judy', dumps.code(authenticator, self.now)),
                answer)

    def test_recovery_codes(self):
        "Test that each recovery code works once, and not if it was used"
        known = self.know('alice')
        self.assertEqual(len(known['used_recovery_codes']), 7)
        self.assertEqual(len(known['recovery_codes']), 3)
        for code in known['used_recovery_codes']:
            self.assertEqual(self.answer('alice', code), WRONG_RECOVERY)
        for code in known['recovery_codes']:
            self.assertIsNone(self.answer('alice', code))
            self.assertEqual(self.answer('alice', code), WRONG_RECOVERY)

    def test_locked(self):
        "Test that a lockout lasts until an administrator unlocks the user"
        def code():
            self.now += 3600
            return dumps.code(self.authenticator('erin'), self.now)
        id_ = self.know('erin')['id']
        for address in [ADDRESS, '198.51.100.7', '203.0.113.7']:
            self.assertEqual(self.answer('erin', code(), address), LOCKED)
        rpc = self.client('admin')
        status, = rpc.model(
            'res.user', 'read', [id_], ['totp_locked', 'totp_failures'])
        self.assertEqual(
            status, {'id': id_, 'totp_locked': True, 'totp_failures': 100})
        rpc.model('res.user', 'unlock_totp', [id_])
        self.assertIsNone(self.answer('erin', code()))

    def test_pending(self):
        "Test that a setup that had begun can be finished"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        self.now = self.facts['time'] + 500
        code = dumps.code(self.authenticator('frank'), self.now)
        self.assertIsNone(self.answer('frank', code))
        self.assertEqual(self.answer('frank', code), USED)

    def test_tokens(self):
        "Test that tokens keep their states, and assigned ones work"
        rpc = self.client('admin')
        tokens = rpc.model(
            'res.user.totp_token', 'search_read', [], 0, None,
            [('serial', 'ASC')], ['serial', 'state', 'user'])
        carol, heidi, mike = [
            self.know(login)['id'] for login in ['carol', 'heidi', 'mike']]
        self.assertEqual(
            [(t['serial'], t['state'], t['user']) for t in tokens], [
                ('T0', 'assigned', heidi), ('T1', 'free', None),
                ('T2', 'in_use', carol), ('T3', 'assigned', mike),
                ('T4', 'lost', heidi)])
        # What had begun can be finished
        result = rpc.call(
            'wizard.res.user.import_totp_tokens.execute',
            self.facts['wizard'], {}, 'store', {})
        self.assertEqual(result['view']['defaults']['imported'], 1)
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        self.assertIsNone(self.answer(
                'heidi', dumps.code(self.authenticator('heidi'), self.now)))
        self.finish_resync('mike')

    def test_device(self):
        "Test that a device skips the code for as long as before"
        cookie = self.know('alice')['cookie']
        for days, skips in [(0, True), (29, True), (31, False)]:
            self.now = self.facts['time'] + days * DAY
            answer = self.answer('alice', device_cookie=cookie)
            self.assertEqual(answer is None, skips, answer)
        self.now = self.facts['time']
        self.assertTrue(self.answer('alice'))

    def test_required(self):
        "Test that TOTP is required for the same users from the same day"
        day = dt.datetime.fromisoformat(self.facts['day'])
        for login, hours, question in [
                # The time zone of the server may be any
                ('leo', -15, WITHOUT), ('kevin', -15, None),
                ('kevin', 15, WITHOUT)]:
            with self.subTest(login=login, hours=hours):
                self.now = (day + dt.timedelta(hours=hours)).timestamp()
                self.assertEqual(self.answer(login), question)

    def test_groups(self):
        "Test that TOTP stays required for groups, even for administrators"
        groups = self.client('admin').model(
            'res.group', 'search_read', [('totp_required', '=', True)], 0,
            None, [('name', 'ASC')], ['name', 'totp_required_from'])
        later = (
            "Administration" if dumps.series(self.dump) == '80'
            else "Management")
        self.assertEqual(
            [(g['name'], g['totp_required_from']) for g in groups], [
                ("Accounting", None),
                (later, dt.date.fromisoformat(self.facts['day']))])

    def test_status(self):
        "Test that the keys decrypt all secrets"
        self.assertDone('status')

    def test_names(self):
        "Test that users see the names of their authenticators"
        _, shown = self.client('bob').overview()
        self.assertEqual(
            [a['name'] for a in shown['authenticators']],
            ["Authenticator", "Old tablet", "Laptop"])

    def test_events(self):
        "Test that administrators see all events"
        rows = self.rows[0]['res_user_totp_event']
        names = [
            'id', 'user', 'kind', 'actor', 'address', 'authenticator', 'told']
        events = self.client('admin').model(
            'res.user.totp_event', 'search_read',
            [('id', 'in', [row['id'] for row in rows])], 0, None,
            [('id', 'ASC')], names)
        self.assertEqual(
            events, [{name: row[name] for name in names} for row in rows])

    def test_decoys(self):
        "Test that a login without TOTP keeps its decoy"
        def decoys():
            with self.transaction():
                guess = Pool().get('res.user.totp_guess').__table__()
            return self.sql(guess.select(
                    guess.user, guess.failures,
                    where=(guess.user < 0) & (guess.failures > 0),
                    order_by=guess.failures))
        (kevin, one), (nobody, three) = decoys()
        self.assertEqual((one, three), (1, 3))
        self.set_config('session', 'authentications', 'totp+password')
        self.now += 60
        with self.assertRaises(LoginException):
            security.login(
                DB_NAME, 'nobody', {'totp_code': '123456'}, cache=False)
        self.assertEqual(decoys(), [(kevin, 1), (nobody, 4)])


for _name in dumps.names():
    _class = 'Upgrade_{}_{}_TestCase'.format(
        *_name.replace('.', '_').split('-'))
    globals()[_class] = type(
        _class, (UpgradeMixin, TOTPTestCase),
        {'__module__': __name__, 'dump': _name})
