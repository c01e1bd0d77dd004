# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch
from zoneinfo import ZoneInfo

from trytond import security
from trytond.pool import Pool
from trytond.pyson import PYSONDecoder
from trytond.tests.test_tryton import DB_NAME
from trytond.tools import timezone

from .test_devices import DEVICE, DevicesTestCase
from .tools import ADDRESS, BLANK, KEY, PASSWORD, WRONG, Refused

OVERVIEW = 'res.user.setup_totp.overview'
PREFIX = 'wizard.res.user.forget_totp_devices'
START = 'res.user.forget_totp_devices.start'
ALL = [[None, ''], ['all', "All devices"]]
GONE = (
    "No device is selected, or it is no longer remembered. "
    "Select one and try again.")


class ChosenTestCase(DevicesTestCase):
    "A user with two remembered devices, and another user with one"

    def setUp(self):
        super().setUp()
        self.other, self.other_id = self.user(KEY)
        self.other_cookie = self.remember(self.other)
        self.login, self.user_id = self.user(KEY)
        self.cookies = [self.remember(self.login) for _ in range(2)]
        self.now += 30

    @property
    def ids(self):
        "Return the ids of the devices, in the order of the cookies"
        return sorted(device.id for device in self.devices(self.user_id))

    @property
    def other_device(self):
        device, = self.devices(self.other_id)
        return device.id

    def assertSkip(self, *skip):
        "Check which cookies skip the code; that of the other user must"
        self.assertEqual(
            [self.skips(self.login, c) for c in self.cookies], list(skip))
        self.assertTrue(self.skips(self.other, self.other_cookie))

    def told(self, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        error, (message, *_) = context.exception.args
        self.assertEqual(error, 'UserError')
        return message

    def forgotten(self, user_id=None):
        return self.events(user_id or self.user_id).count('devices_forgotten')

    def move(self, cookie):
        "Use the device in another network a day and a minute later"
        self.now += 86460
        self.assertTrue(security.login(
                DB_NAME, self.login,
                {'password': PASSWORD, 'device_cookie': cookie}, cache=False,
                context={'_request': {'remote_addr': '198.51.100.9'}}))

    def lines(self):
        "Return the lines of the devices, after the first device has moved"
        first, second = self.ids
        with self.transaction():
            Device = Pool().get(DEVICE)
            days = {
                id_: Device(id_).create_date.strftime('%m/%d/%Y')
                for id_ in [first, second]}
        return [
            [str(first), f"198.51.100.9: first seen {days[first]}, "
                "last used 05/19/2033\xa003:36"],
            [str(second), f"{ADDRESS}: first seen {days[second]}, "
                "last used 05/18/2033\xa003:34"]]


class OwnerTestCase(ChosenTestCase):
    "Test how owners forget one of their devices"

    def setUp(self):
        super().setUp()
        self.rpc = self.client(self.login)

    def choices(self, rpc, context=None):
        return rpc.call(f'model.{OVERVIEW}.get_devices', context or {})

    def test_choices(self):
        "Test that the owner can choose one device or all of them"
        with patch.object(timezone, 'SERVER', timezone.UTC):
            self.move(self.cookies[0])
            self.rpc = self.client(self.login)
            self.assertEqual(self.choices(self.rpc), [*ALL, *self.lines()])
        _, shown = self.rpc.overview()
        self.assertIsNone(shown.get('device'))
        self.assertEqual(len(shown['devices']), 2)

    def test_time_zone(self):
        "Test that times are in the time zone of the server"
        with patch.object(
                timezone, 'SERVER', ZoneInfo('Pacific/Kiritimati')):
            self.assertIn(
                "last used 05/18/2033\xa017:34", self.choices(self.rpc)[2][1])

    def test_choices_of_others(self):
        "Test that users are not shown the devices of others"
        choices = self.choices(self.client(self.other))
        self.assertEqual(
            [key for key, _ in choices], [None, 'all', str(self.other_device)])
        stranger, _ = self.user(KEY)
        rpc = self.client(stranger)
        for context in [
                {}, {'user': self.user_id}, {'active_id': self.user_id}]:
            self.assertEqual(self.choices(rpc, context), ALL)

    def test_not_cached(self):
        "Test that clients cache neither the devices nor the authenticators"
        with self.transaction():
            Overview = Pool().get(OVERVIEW)
            for name in ['get_devices', 'get_authenticators']:
                self.assertIsNone(Overview.__rpc__[name].cache, name)

    def test_visible(self):
        "Test that the choice is hidden if there is no device"
        definition = self.rpc.model(OVERVIEW, 'fields_get', ['device'])
        for devices, invisible in [([], True), ([1], False)]:
            states = PYSONDecoder({'devices': devices}).decode(
                definition['device']['states'])
            self.assertEqual(states['invisible'], invisible)
        stranger, _ = self.user(KEY)
        _, shown = self.client(stranger).overview()
        self.assertEqual(shown['devices'], [])

    def test_one(self):
        "Test that only the chosen device is forgotten"
        first, second = self.ids
        _, shown = self.rpc.overview(
            'forget', code=self.code(), device=str(first))
        self.assertEqual(len(shown['devices']), 1)
        self.assertIsNone(shown.get('device'))
        self.assertEqual(self.ids, [second])
        self.assertSkip(False, True)
        self.assertEqual(self.forgotten(), 1)

    def test_all(self):
        "Test that all devices are forgotten"
        _, shown = self.rpc.overview('forget', code=self.code(), device='all')
        self.assertEqual(shown['devices'], [])
        self.assertSkip(False, False)
        self.assertEqual(self.forgotten(), 1)

    def test_code_first(self):
        "Test that each choice requires a code, and counts a wrong one"
        for count, device in enumerate(['all', str(self.ids[0])], 1):
            self.assertEqual(
                self.told(self.rpc.overview, 'forget', device=device), BLANK)
            self.assertEqual(
                self.told(
                    self.rpc.overview, 'forget', code=self.code(95),
                    device=device), WRONG)
            self.assertEqual(self.failures(self.user_id), count)
        self.assertSkip(True, True)

    def test_none(self):
        "Test that values that are no device of the user have no effect"
        (known, *_), *_ = self.rows(self.login)
        with self.transaction(self.user_id):
            Device = Pool().get(DEVICE)
            cookie = Device.renew(None)
        for device in [
                None, '', 'x', '0', 'ALL', ' all', True, [], {}, ['all'], 1.5,
                -1, [self.ids[0]], f'0{self.ids[0]}',
                str(self.other_device), self.other_device]:
            with self.subTest(device=device):
                self.assertEqual(
                    self.told(
                        self.rpc.overview, 'forget', code=self.code(),
                        device=device), GONE)
                self.now += 30
        self.assertSkip(True, True)
        self.assertEqual(self.forgotten(), 0)
        self.assertEqual(self.forgotten(self.other_id), 0)
        # A known device that is not remembered is refused too
        with self.transaction():
            known, = Device.search([('cookie', '=', cookie)])
        self.assertEqual(
            self.told(
                self.rpc.overview, 'forget', code=self.code(),
                device=str(known.id)), GONE)

    def test_twice(self):
        "Test that forgetting a device twice is refused with a message"
        first, _ = self.ids
        self.rpc.overview('forget', code=self.code(), device=str(first))
        self.now += 30
        self.assertEqual(
            self.told(
                self.rpc.overview, 'forget', code=self.code(),
                device=str(first)), GONE)
        self.assertEqual(self.forgotten(), 1)


class AdministratorTestCase(ChosenTestCase):
    "Test that administrators see and forget the devices of a user"

    def setUp(self):
        super().setUp()
        self.admin, self.admin_id = self.user(KEY, administrator=True)
        self.rpc = self.client(self.admin)

    def context(self, user_id):
        return {
            'active_model': 'res.user', 'active_id': user_id,
            'active_ids': [user_id]}

    def start(self, rpc, user_id):
        context = self.context(user_id)
        session_id, start, _ = rpc.call(f'{PREFIX}.create', context)
        result = rpc.call(
            f'{PREFIX}.execute', session_id, {}, start, context)
        return session_id, result['view']['defaults']

    def forget(self, rpc, user_id, device, then=None):
        """Run the wizard

        then: the user that the last request names instead, if any
        """
        session_id, _ = self.start(rpc, user_id)
        rpc.call(
            f'{PREFIX}.execute', session_id,
            {'start': {'user': user_id, 'device': device}}, 'forget',
            self.context(then or user_id))

    def choices(self, rpc, user_id):
        return rpc.model(START, 'get_devices', {'user': user_id})

    def shown(self, rpc, user_id):
        values, = rpc.model(
            'res.user', 'read', [user_id], ['totp_remembered_devices'])
        return values['totp_remembered_devices']

    def test_list(self):
        "Test that only the owner and users who may write it see the devices"
        with patch.object(timezone, 'SERVER', timezone.UTC):
            self.move(self.cookies[0])
            lines = self.lines()
            text = '\n'.join(line for _, line in lines)
            manager, _ = self.manager(self.user_id)
            for login in [self.admin, self.login, manager]:
                self.assertEqual(
                    self.shown(self.client(login), self.user_id), text)
            other_manager, _ = self.manager(self.other_id)
            for login in [self.other, other_manager]:
                self.assertFalse(
                    self.shown(self.client(login), self.user_id))
            rpc = self.client(self.admin)
            self.assertFalse(self.shown(rpc, self.admin_id))
            _, shown = self.start(rpc, self.user_id)
            self.assertEqual(shown['user'], self.user_id)
            self.assertEqual(shown['device'], 'all')
            self.assertEqual(
                self.choices(rpc, self.user_id), [*ALL, *lines])
            self.assertEqual(rpc.model(START, 'get_devices', {}), [])

    def test_statements(self):
        "Test that reading users who are not visible costs no more for many"
        rpc = self.client(self.user()[0])
        ids = [self.user()[1] for _ in range(5)]
        for name in ['totp_remembered_devices', 'totp_authenticators']:
            counts = set()
            # Fill the caches
            rpc.model('res.user', 'read', ids, [name])
            for read in [ids[:1], ids]:
                with self.count_statements() as statements:
                    rpc.model('res.user', 'read', read, [name])
                counts.add(len(statements))
            with self.subTest(name=name):
                self.assertEqual(len(counts), 1, counts)

    def test_button(self):
        "Test that the button of the form opens the wizard"
        with self.transaction():
            pool = Pool()
            action = pool.get('ir.action').get_action_id(
                pool.get('ir.model.data').get_id(
                    'authentication_totp', 'wizard_forget_totp_devices'))
        self.assertEqual(
            self.rpc.model(
                'res.user', 'open_forget_totp_devices', [self.user_id]),
            action)
        # The button of a user without devices is hidden
        with self.assertRaises(Refused):
            self.rpc.model(
                'res.user', 'open_forget_totp_devices', [self.admin_id])

    def test_read_only(self):
        "Test that the list can be neither set nor searched"
        for method, *args in [
                ('write', [self.user_id], {'totp_remembered_devices': 'x'}),
                ('search', [('totp_remembered_devices', 'like', '%')])]:
            with self.assertRaises(Refused):
                self.rpc.model('res.user', method, *args)
        self.assertSkip(True, True)

    def test_one(self):
        "Test that an administrator forgets one device, and the owner is told"
        first, second = self.ids
        self.mailer.reset_mock()
        self.forget(self.rpc, self.user_id, str(second))
        self.assertTrue(self.mailer.submit.called)
        self.assertSkip(True, False)
        self.assertEqual(self.ids, [first])
        with self.transaction():
            event, = Pool().get('res.user.totp_event').search([
                    ('user', '=', self.user_id),
                    ('kind', '=', 'devices_forgotten')])
            self.assertEqual(event.actor.id, self.admin_id)

    def test_all(self):
        "Test that an administrator forgets all devices, and no session ends"
        rpc = self.client(self.login)
        self.forget(self.rpc, self.user_id, 'all')
        self.assertSkip(False, False)
        self.assertEqual(self.forgotten(), 1)
        self.assertTrue(rpc.model('res.user', 'read', [self.user_id], ['id']))

    def test_none(self):
        "Test that values that are no device of the user are refused"
        for device in [
                None, '', 'x', [], True, str(self.other_device)]:
            with self.subTest(device=device):
                self.assertEqual(
                    self.told(
                        self.forget, self.rpc, self.user_id, device), GONE)
        self.assertSkip(True, True)
        self.assertEqual(self.forgotten(), 0)
        self.assertEqual(self.forgotten(self.other_id), 0)

    def test_own(self):
        "Test that administrators can forget their own devices without a code"
        cookie = self.remember(self.admin)
        device, = self.devices(self.admin_id)
        self.rpc = self.client(self.admin)
        self.assertEqual(
            [key for key, _ in self.choices(self.rpc, self.admin_id)],
            [None, 'all', str(device.id)])
        self.forget(self.rpc, self.admin_id, str(device.id))
        self.assertFalse(self.skips(self.admin, cookie))
        self.assertEqual(self.forgotten(self.admin_id), 1)
        self.assertTrue(self.stored_secret(self.admin_id))

    def test_others(self):
        "Test that users without write access neither see nor forget devices"
        manager, _ = self.manager(self.other_id)
        for visitor in [manager, self.other, self.login]:
            rpc = self.client(visitor)
            for function, *args in [
                    (self.start, rpc, self.user_id),
                    (self.choices, rpc, self.user_id),
                    (rpc.model, 'res.user', 'open_forget_totp_devices',
                        [self.user_id])]:
                with self.subTest(visitor=visitor, function=function), \
                        self.assertRaises(Refused):
                    function(*args)
        rpc = self.client(manager)
        # The last request names another user than the first
        with self.assertRaises(Refused):
            self.forget(rpc, self.other_id, 'all', then=self.user_id)
        self.assertSkip(True, True)
        self.assertEqual(self.forgotten(), 0)
        # The record of the request counts, not the user that the page names
        session_id, _ = self.start(rpc, self.other_id)
        rpc.call(
            f'{PREFIX}.execute', session_id,
            {'start': {'user': self.user_id, 'device': 'all'}}, 'forget',
            self.context(self.other_id))
        self.assertEqual(self.devices(self.other_id), [])
        self.assertEqual(len(self.ids), 2)

    def test_without_user(self):
        "Test that the wizard refuses requests without a user"
        for context in [
                {}, {'active_model': 'res.user'},
                {'active_model': 'res.user', 'active_id': None},
                {'active_model': 'res.user', 'active_id': 10**6}]:
            with self.subTest(context=context), \
                    self.assertRaises(Refused):
                session_id, start, _ = self.rpc.call(
                    f'{PREFIX}.create', context)
                self.rpc.call(
                    f'{PREFIX}.execute', session_id,
                    {'start': {'device': 'all'}}, 'forget', context)
        self.assertSkip(True, True)
