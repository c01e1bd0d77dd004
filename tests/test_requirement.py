# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import unittest

from trytond import __version__
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import PASSWORD, TOTPTestCase

FLAG = not __version__.startswith('8.0.')


class RequirementTestCase(TOTPTestCase):
    "Test the users for whom TOTP is required"

    def setUp(self):
        super().setUp()
        with self.transaction():
            Group = Pool().get('res.group')
            self.before = {
                g.id: g.totp_required for g in Group.search([])}
        self.addCleanup(self.restore_groups)

    def restore_groups(self):
        with self.transaction():
            Group = Pool().get('res.group')
            for group in Group.search([]):
                Group.write([group], {
                        'totp_required': self.before.get(group.id, False)})

    def remembered(self):
        with self.transaction():
            table = Pool().get(
                'res.user.totp_administrators').__table__()
        return self.sql(table.select(table.required, table.required_from))

    def mandatory(self, user_id):
        with self.transaction():
            User = Pool().get('res.user')
            return User(user_id).totp_mandatory, bool(User.search([
                        ('id', '=', user_id), ('totp_mandatory', '=', True)]))

    @unittest.skipUnless(FLAG, "administrators are a group")
    def test_administrator(self):
        "Test that the requirement of any group applies to administrators"
        _, admin_id = self.user(administrator=True)
        _, user_id = self.user()
        self.assertEqual(self.mandatory(admin_id), (False, False))
        with self.transaction():
            Group = Pool().get('res.group')
            group, = Group.create([{
                        'name': self.id(), 'totp_required': True}])
        self.assertEqual(self.mandatory(admin_id), (True, True))
        self.assertEqual(self.mandatory(user_id), (False, False))
        with self.transaction():
            Group.write([Group(group.id)], {'active': False})
        self.assertEqual(self.mandatory(admin_id), (False, False))

    @unittest.skipUnless(FLAG, "administrators are a group")
    def test_upgrade(self):
        "Test that an update from Tryton 8.0 keeps the requirement"
        login, admin_id = self.user(administrator=True)
        with self.transaction():
            pool = Pool()
            Group = pool.get('res.group')
            # The state after Tryton 8.0
            pool.get('res.user.totp_administrators')._put(
                True, dt.date(2026, 5, 5))
            group, = Group.create([{
                        'name': "Administration", 'totp_required': True}])
            pool.get('ir.model.data').create([{
                        'fs_id': 'group_admin', 'module': 'res',
                        'model': 'res.group', 'db_id': group.id}])
        Pool(DB_NAME).init(
            update=['res', 'authentication_totp'], lang=['en'])
        with self.transaction():
            Group = Pool().get('res.group')
            self.assertTrue(Group(group.id).totp_required)
            self.assertEqual(
                Group(group.id).totp_required_from, dt.date(2026, 5, 5))
        self.assertEqual(self.mandatory(admin_id), (True, True))
        self.assertEqual(self.remembered(), [(False, None)])
        self.set_config(
            'session', 'authentications', 'password+totp?no_totp_secret')
        self.assertIsNone(self.dialogue(login, password=[PASSWORD])[0])
        # Later updates must not restore what an administrator has lifted
        self.restore_groups()
        Pool(DB_NAME).init(update=['authentication_totp'], lang=['en'])
        self.assertEqual(self.mandatory(admin_id), (False, False))

    @unittest.skipIf(FLAG, "there is no group of administrators")
    def test_remember(self):
        "Test that the requirement for administrators is stored for the update"
        for required, day in [
                (True, None), (False, dt.date(2026, 5, 5)),
                (True, dt.date(2026, 5, 5))]:
            with self.transaction():
                pool = Pool()
                Group = pool.get('res.group')
                ModelData = pool.get('ir.model.data')
                Group.write(
                    [Group(ModelData.get_id('res', 'group_admin'))],
                    {'totp_required': required, 'totp_required_from': day})
            self.assertEqual(self.remembered(), [(required, day)])
