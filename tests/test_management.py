# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import json
from xml.etree import ElementTree

from trytond.pool import Pool
from trytond.pyson import PYSONDecoder

from .tools import KEY, PASSWORD, Refused, TOTPTestCase, right_code

PREFIX = 'wizard.res.user.remove_totp_authenticator'
START = 'res.user.remove_totp_authenticator.start'


class ManagementTestCase(TOTPTestCase):
    "Test how administrators see and change authenticators"

    def setUp(self):
        super().setUp()
        self.admin, self.admin_id = self.user(KEY, administrator=True)
        self.rpc = self.client(self.admin)

    def context(self, *user_ids):
        return {
            'active_model': 'res.user', 'active_id': user_ids[0],
            'active_ids': user_ids}

    def start(self, rpc, *user_ids):
        context = self.context(*user_ids)
        session_id, start, _ = rpc.call(f'{PREFIX}.create', context)
        result = rpc.call(
            f'{PREFIX}.execute', session_id, {}, start, context)
        return session_id, result['view']['defaults']

    def remove(self, rpc, number, *user_ids):
        session_id, _ = self.start(rpc, *user_ids)
        rpc.call(
            f'{PREFIX}.execute', session_id,
            {'start': {
                    'user': user_ids[0], 'authenticator': str(number)}},
            'remove', self.context(*user_ids))

    def lines(self, rpc, user_id):
        values, = rpc.model(
            'res.user', 'read', [user_id], ['totp_authenticators'])
        return values['totp_authenticators']

    def test_list(self):
        "Test that administrators see only name, setup date and last use"
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.lines(self.rpc, user_id),
            "Authenticator: since 05/18/2033, never used")
        self.add_authenticator(user_id, name="Old phone")
        self.now += 86400
        self.dialogue(login, password=[PASSWORD], totp_code=[self.code()])
        self.assertEqual(
            self.lines(self.rpc, user_id),
            "Authenticator: since 05/18/2033, last used 05/19/2033\n"
            "Old phone: since 05/18/2033, last used 05/18/2033")
        _, without = self.user()
        self.assertFalse(self.lines(self.rpc, without))
        # Owners see their own authenticators, and other users see none
        self.assertIn(
            "Old phone", self.lines(self.client(login), user_id))
        other, _ = self.user(KEY)
        self.assertIsNone(self.lines(self.client(other), user_id))

    def test_remove(self):
        "Test that an administrator removes one authenticator, and others stay"
        login, user_id = self.user(KEY)
        key = self.add_authenticator(user_id, name="Tablet")
        rpc = self.client(login)
        _, shown = self.start(self.rpc, user_id)
        self.assertEqual(shown['user'], user_id)
        self.assertEqual(
            self.rpc.model(START, 'get_authenticators', {'user': user_id}), [
                [None, ''],
                ['1', "Authenticator: since 05/18/2033, "
                    "last used 05/18/2033"],
                ['2', "Tablet: since 05/18/2033, last used 05/18/2033"]])
        self.mailer.reset_mock()
        self.remove(self.rpc, 1, user_id)
        self.assertTrue(self.mailer.submit.called)
        with self.assertRaises(Refused):
            rpc.model('res.user', 'read', [user_id], ['login'])
        self.now += 60
        self.assertIsNone(self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0])
        self.assertEqual(
            self.dialogue(login, password=[PASSWORD], totp_code=[
                    right_code(key, self.now)])[0], user_id)
        self.assertEqual(
            self.events(user_id), ['set_up', 'added', 'authenticator_removed'])
        with self.transaction():
            event, = Pool().get('res.user.totp_event').search([
                    ('user', '=', user_id),
                    ('kind', '=', 'authenticator_removed')])
            self.assertEqual(event.actor.id, self.admin_id)

    def test_remove_last(self):
        "Test that removing the last authenticator resets TOTP"
        login, user_id = self.user(KEY)
        self.remove(self.rpc, 1, user_id)
        self.assertIsNone(self.stored_secret(user_id))
        self.assertEqual(self.events(user_id), ['set_up', 'reset'])

    def test_remove_none(self):
        "Test that the number of no authenticator is refused"
        login, user_id = self.user(KEY)
        self.add_authenticator(user_id)
        for number in [0, 3, -1]:
            with self.assertRaises(Refused):
                self.remove(self.rpc, number, user_id)
        self.assertEqual(self.events(user_id), ['set_up', 'added'])

    def test_remove_own(self):
        "Test that administrators need a code for their own authenticators"
        self.add_authenticator(self.admin_id)
        # The new authenticator has ended the session
        self.rpc = self.client(self.admin)
        with self.assertRaises(Refused) as context:
            self.remove(self.rpc, 1, self.admin_id)
        self.assertIn(
            "You cannot reset or unlock your own TOTP",
            context.exception.args[1][0])
        self.assertEqual(self.events(self.admin_id), ['set_up', 'added'])

    def test_remove_others(self):
        "Test that users without write access neither see nor remove"
        login, user_id = self.user(KEY)
        _, managed = self.user(KEY)
        self.add_authenticator(user_id)
        manager, _ = self.manager(managed)
        user, _ = self.user(KEY)
        for visitor in [manager, user, login]:
            rpc = self.client(visitor)
            with self.assertRaises(Refused):
                self.start(rpc, user_id)
            with self.assertRaises(Refused):
                rpc.model(START, 'get_authenticators', {'user': user_id})
            if visitor == manager:
                # The last request names another user than the first
                session_id, _ = self.start(rpc, managed)
                with self.assertRaises(Refused):
                    rpc.call(
                        f'{PREFIX}.execute', session_id,
                        {'start': {'user': managed, 'authenticator': '1'}},
                        'remove',
                        {**self.context(managed), 'active_id': user_id})
        self.remove(self.client(manager), 1, managed)
        self.assertEqual(self.events(managed), ['set_up', 'reset'])
        self.assertEqual(self.events(user_id), ['set_up', 'added'])

    def test_buttons(self):
        "Test that the buttons of the form open the wizards"
        _, user_id = self.user(KEY)
        user, without = self.user()
        for button, wizard in [
                ('open_reset_totp', 'wizard_reset_totp'),
                ('open_invite_totp', 'wizard_invite_totp'),
                ('open_remove_totp_authenticator',
                    'wizard_remove_totp_authenticator')]:
            with self.transaction():
                pool = Pool()
                action = pool.get('ir.action').get_action_id(
                    pool.get('ir.model.data').get_id(
                        'authentication_totp', wizard))
            id_ = without if button == 'open_invite_totp' else user_id
            self.assertEqual(
                self.rpc.model('res.user', button, [id_]), action)
            with self.assertRaises(Refused):
                self.client(user).model('res.user', button, [user_id])


class ViewTestCase(TOTPTestCase):
    "Test the form and the lists that administrators use"

    def setUp(self):
        super().setUp()
        self.admin, self.admin_id = self.user(administrator=True)
        self.rpc = self.client(self.admin)

    def view(self, model, module, xml_id, type_):
        with self.transaction():
            view_id = Pool().get('ir.model.data').get_id(module, xml_id)
        return ElementTree.fromstring(self.rpc.model(
                model, 'fields_view_get', view_id, type_)['arch'])

    def test_form(self):
        "Test that the form has its fields on one page, and none above it"
        form = self.view('res.user', 'res', 'user_view_form', 'form')
        page, = form.findall(".//page[@id='totp']")

        def names(element):
            return {
                e.get('name') for e in element.iter()
                if 'totp' in (e.get('name') or '')}
        self.assertEqual(names(form), names(page))
        self.assertLessEqual({
                'totp_required', 'totp_required_from', 'totp_mandatory',
                'totp_mandatory_from', 'totp_enabled', 'totp_authenticators',
                'totp_failures', 'unlock_totp', 'open_reset_totp',
                'open_invite_totp', 'open_remove_totp_authenticator',
                'totp_remembered_devices', 'open_forget_totp_devices',
                }, names(page))

    def test_labels(self):
        "Test that all labels are different"
        with self.transaction():
            User = Pool().get('res.user')
            labels = [
                field.string for name, field in User._fields.items()
                if 'totp' in name]
            self.assertEqual(len(labels), len(set(labels)))

    def test_list(self):
        "Test that the list marks locked users and has a button to unlock them"
        tree = self.view('res.user', 'res', 'user_view_tree', 'tree')
        self.assertEqual(
            [e.get('optional') for e in tree.iter()
                if e.get('name') == 'totp_mandatory'], ['1'])
        self.assertTrue([
                e for e in tree.iter('button')
                if e.get('name') == 'unlock_totp'])
        for locked, visual in [(True, 'danger'), (False, '')]:
            self.assertEqual(
                PYSONDecoder({'totp_locked': locked}).decode(
                    tree.get('visual')), visual)

    def test_events(self):
        "Test that the tabs of the events overlap in no kind"
        tree = self.view(
            'res.user.totp_event', 'authentication_totp', 'event_view_list',
            'tree')
        # All columns have different headings
        names = [
            e.get('string', e.get('name')) for e in tree.iter('field')]
        self.assertEqual(len(names), len(set(names)))
        with self.transaction():
            pool = Pool()
            Event = pool.get('res.user.totp_event')
            kinds = {kind for kind, _ in Event.kind.selection}
            tabs = {
                d.name: d.domain for d in pool.get(
                    'ir.action.act_window.domain').search([
                        ('act_window.res_model', '=', 'res.user.totp_event'),
                        ])}
            user = pool.get('res.user')(self.admin_id)
            for kind in sorted(kinds):
                Event.record([user], kind, tell=False)
        found = {}
        for tab in ["Attacks", "Changes"]:
            events = self.rpc.model(
                'res.user.totp_event', 'search_read', [
                    ('user', '=', self.admin_id),
                    PYSONDecoder().decode(tabs[tab])],
                0, None, None, ['kind'])
            found[tab] = {e['kind'] for e in events}
        self.assertFalse(found["Attacks"] & found["Changes"])
        # Neither tab shows events that are neither attacks nor changes
        self.assertEqual(
            kinds - found["Attacks"] - found["Changes"],
            {'invited', 'resealed'})
        self.assertFalse(tabs["All"] and json.loads(tabs["All"]))

    def test_reset_warns(self):
        "Test that Reset lists the users who cannot log in afterwards"
        _, required = self.user(KEY)
        _, other = self.user(KEY)
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(required)], {
                    'totp_required': True,
                    'totp_required_from': dt.date(2033, 5, 18)})
        context = {
            'active_model': 'res.user', 'active_id': required,
            'active_ids': [required, other]}
        for authentications, expected in [
                ('password+totp', [required, other]),
                ('password+totp?no_totp_secret', [required]),
                ('password+totp?no_totp_secret:setup_totp', []),
                ('password+totp?setup_totp', []),
                ('password', [])]:
            with self.subTest(authentications=authentications):
                self.set_config('session', 'authentications', authentications)
                session_id, start, _ = self.rpc.call(
                    'wizard.res.user.reset_totp.create', context)
                result = self.rpc.call(
                    'wizard.res.user.reset_totp.execute', session_id, {},
                    start, context)
                self.assertEqual(
                    result['view']['defaults']['locked_out'], expected)
