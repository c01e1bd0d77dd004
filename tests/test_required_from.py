# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
from unittest.mock import patch
from zoneinfo import ZoneInfo

from sql import Null

from trytond.pool import Pool
from trytond.pyson import PYSONDecoder
from trytond.tools import timezone

from .tools import (
    KEY, PASSWORD, RPC, WITHOUT, Refused, TOTPTestCase, right_code)

# By the clock of the tests, it is 03:33:20 UTC on 2033-05-18
TODAY = dt.date(2033, 5, 18)
DAY = dt.timedelta(days=1)
TOMORROW = TODAY + DAY
OTHER = (
    "You have not set up TOTP, so you have no code. To log in another way, "
    "leave the code blank, or ask your administrator.")
DIALOG = "They must set it up when they log in."
LOCKED_OUT = (
    "They cannot log in until they have set it up. Invite them first, enter "
    "a later day, or add the option setup_totp to the setting "
    "authentications.")


class RequiredTestCase(TOTPTestCase):
    authentications = 'password+totp?no_totp_secret'

    def setUp(self):
        super().setUp()
        with self.transaction():
            pool = Pool()
            self.boolean = hasattr(pool.get('res.user'), 'administrator')
            Group = pool.get('res.group')
            group, = Group.create([{'name': self.id()}])
            self.group = group.id
            subgroup, = Group.create([
                    {'name': f'{self.id()} sub', 'parent': self.group}])
            self.subgroup = subgroup.id
        # The group would also require TOTP for administrators of other tests
        self.addCleanup(
            self.write, 'res.group', [self.group, self.subgroup],
            totp_required=False)

    def write(self, model, ids, **values):
        with self.transaction():
            Model = Pool().get(model)
            Model.write(Model.browse(ids), values)

    def require(self, day, *user_ids):
        "Require TOTP for the users, or for the group if there are none"
        values = {'totp_required': True, 'totp_required_from': day}
        if user_ids:
            self.write('res.user', user_ids, **values)
        else:
            self.write('res.group', [self.group], **values)

    def member(self, group=None, **kwargs):
        login, user_id = self.user(**kwargs)
        self.write(
            'res.user', [user_id], groups=[('add', [group or self.group])])
        return login, user_id

    def request(self, login, **parameters):
        "Return the id of the user whom the request accepts, or the answer"
        try:
            return RPC().login(login, password=PASSWORD, **parameters)
        except Refused as refused:
            error, *details = refused.args
            if not details:
                return error
            name, message, _ = details[0]
            self.assertEqual((error, name), ('LoginException', 'totp_code'))
            return message

    def mandatory(self, user_id):
        with self.transaction():
            User = Pool().get('res.user')
            user = User(user_id)
            self.assertEqual(
                bool(User.search([
                            ('id', '=', user_id),
                            ('totp_mandatory', '=', True)])),
                user.totp_mandatory)
            return user.totp_mandatory, user.totp_mandatory_from

    def assertRequired(self, login, user_id, required, day):
        self.assertEqual(self.mandatory(user_id), (required, day))
        self.assertEqual(
            self.request(login), WITHOUT if required else user_id)


class DayTestCase(RequiredTestCase):
    "Test the first day on which TOTP is required"

    def test_user(self):
        "Test the day before, the day, and the day after"
        login, user_id = self.user()
        self.assertRequired(login, user_id, False, None)
        self.require(TOMORROW, user_id)
        self.assertRequired(login, user_id, False, TOMORROW)
        # Begin with the last second of the day before
        self.now = int(
            dt.datetime(2033, 5, 19, tzinfo=dt.timezone.utc).timestamp()) - 1
        self.assertRequired(login, user_id, False, TOMORROW)
        self.now += 1
        self.assertRequired(login, user_id, True, TOMORROW)
        self.now += 10 * 86400
        self.assertRequired(login, user_id, True, TOMORROW)
        self.write('res.user', [user_id], totp_required=False)
        self.assertRequired(login, user_id, False, None)

    def test_at_once(self):
        "Test that without a day TOTP is required at once"
        login, user_id = self.user()
        self.require(None, user_id)
        self.assertRequired(login, user_id, True, TODAY)

    def test_day_alone(self):
        "Test that a day without the checkbox requires nothing"
        login, user_id = self.member()
        self.write('res.user', [user_id], totp_required_from=TODAY)
        self.write('res.group', [self.group], totp_required_from=TODAY)
        self.assertRequired(login, user_id, False, None)

    def test_group(self):
        "Test the day of a group, for its members and those of its subgroup"
        members = [self.member(), self.member(self.subgroup)]
        other = self.user()
        self.require(TOMORROW)
        for member in members:
            self.assertRequired(*member, False, TOMORROW)
        self.assertRequired(*other, False, None)
        self.now += 86400
        for member in members:
            self.assertRequired(*member, True, TOMORROW)
        self.assertRequired(*other, False, None)
        self.write('res.group', [self.group], active=False)
        for member in members:
            self.assertRequired(*member, False, None)

    def test_earliest(self):
        "Test that the earliest day of the user and the groups counts"
        login, user_id = self.member(self.subgroup)
        self.require(TODAY + 3 * DAY)
        self.require(TODAY + 5 * DAY, user_id)
        self.assertRequired(login, user_id, False, TODAY + 3 * DAY)
        self.write(
            'res.group', [self.subgroup], totp_required=True,
            totp_required_from=TODAY + 2 * DAY)
        self.assertRequired(login, user_id, False, TODAY + 2 * DAY)
        self.now += 2 * 86400
        self.assertRequired(login, user_id, True, TODAY + 2 * DAY)

    def test_administrator(self):
        "Test that the day of any group applies to administrators"
        admin = self.user(administrator=True)
        self.require(TOMORROW)
        day = TOMORROW if self.boolean else None
        self.assertRequired(*admin, False, day)
        self.now += 86400
        self.assertRequired(*admin, self.boolean, day)

    def test_time_zone(self):
        "Test that the day begins at midnight in the time zone of the server"
        login, user_id = self.user()
        self.require(TOMORROW, user_id)
        # It is 10:30 in UTC, and 00:30 on the next day at UTC+14
        self.now = int(dt.datetime(
                2033, 5, 18, 10, 30, tzinfo=dt.timezone.utc).timestamp())
        self.assertRequired(login, user_id, False, TOMORROW)
        for zone, required in [
                ('Pacific/Kiritimati', True), ('Pacific/Honolulu', False),
                ('UTC', False)]:
            with self.subTest(zone=zone), \
                    patch.object(timezone, 'SERVER', ZoneInfo(zone)):
                self.assertRequired(login, user_id, required, TOMORROW)
        # The context of a client has no effect
        self.assertEqual(
            self.request(login, timezone='Pacific/Kiritimati'), user_id)

    def test_wizard_opens(self):
        "Test that the wizard opens after each login before the day"
        login, user_id = self.user()
        self.require(TOMORROW, user_id)
        for _ in range(2):
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            action, *_ = rpc.model(
                'res.user', 'get_preferences', False)['actions']
            with self.transaction():
                pool = Pool()
                self.assertEqual(action, pool.get(
                        'ir.action').get_action_id(
                            pool.get('ir.model.data').get_id(
                                'authentication_totp', 'wizard_setup_totp')))

    def test_enrol_before(self):
        "Test that users who set up TOTP before the day log in with it later"
        login, user_id = self.user()
        self.require(TOMORROW, user_id)
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        key, _ = rpc.set_up(self.now)
        self.now += 86400
        self.assertEqual(
            self.request(login, totp_code=right_code(key, self.now)),
            user_id)

    def test_enrol_in_dialog(self):
        "Test that from the day on the login dialog sets up TOTP"
        self.set_config(
            'session', 'authentications',
            'password+totp?no_totp_secret:setup_totp')
        login, user_id = self.user()
        self.require(TOMORROW, user_id)
        self.assertEqual(self.request(login), user_id)
        self.now += 86400
        self.assertRegex(
            self.request(login), '([A-Z2-7]{4} ){7}[A-Z2-7]{4}')

    def test_turn_off(self):
        "Test that TOTP can be turned off before the day"
        for days, kind in [(1, 'removed'), (0, 'set_up')]:
            with self.subTest(days=days):
                login, user_id = self.user(KEY)
                self.require(TODAY + days * DAY, user_id)
                rpc = self.client(login)
                for _ in range(2):
                    try:
                        rpc.overview('turn_off', code=self.code())
                    except Refused as refused:
                        if refused.args[0] == 'UserWarning':
                            rpc.accept(refused)
                self.assertEqual(self.events(user_id)[-1], kind)

    def test_tab(self):
        "Test that the tab lists the users for whom TOTP is required today"
        login, admin_id = self.user(KEY, administrator=True)
        users = [self.user()[1] for _ in range(3)]
        enrolled, enrolled_id = self.user(KEY)
        self.require(TODAY, users[0], enrolled_id)
        self.require(TOMORROW, users[1])
        rpc = self.client(login)
        with self.transaction():
            domain, = Pool().get('ir.action.act_window.domain').search([
                    ('name', '=', "Required but without TOTP")])
            domain = PYSONDecoder().decode(domain.domain)
        own = ('id', 'in', [*users, enrolled_id])
        for count in [1, 2]:
            self.assertEqual(
                rpc.model('res.user', 'search', [own, domain], 0, None,
                    [('id', 'ASC')]), users[:count])
            self.assertEqual(
                rpc.model('res.user', 'search_count', [own, domain]), count)
            self.now += 86400
            rpc = self.client(login)

    def test_not_self(self):
        "Test that users cannot change the day for themselves"
        login, user_id = self.member()
        self.require(TOMORROW, user_id)
        rpc = self.client(login)
        later = {'totp_required_from': TODAY + 9 * DAY}
        for model, id_ in [
                ('res.user', user_id), ('res.group', self.group)]:
            with self.assertRaises(Refused):
                rpc.model(model, 'write', [id_], later)
        rpc.model('res.user', 'set_preferences', later)
        self.assertEqual(self.mandatory(user_id), (False, TOMORROW))


class WithoutTestCase(RequiredTestCase):
    "Test the message for users who need TOTP and have not set it up"

    def test_required(self):
        "Test that the message comes for each code, and no attempt is counted"
        login, user_id = self.user()
        self.require(None, user_id)
        before = self.network_attempts()
        self.assertEqual(self.request(login), WITHOUT)
        for code in ['000000', 'x', 5, ['x'], '-'.join(['AAAAA'] * 5)]:
            for _ in range(3):
                self.assertEqual(
                    self.request(login, totp_code=code), WITHOUT)
        self.assertEqual(
            (self.attempts(login), self.network_attempts()), (0, before))
        self.assertEqual(self.events(user_id), [])
        self.assertEqual(self.request(login, totp_code=''), WITHOUT)

    def test_everybody(self):
        "Test the message if all users need TOTP"
        self.set_config('session', 'authentications', 'password+totp')
        login, _ = self.user()
        enrolled, enrolled_id = self.user(KEY)
        self.assertEqual(self.request(login), WITHOUT)
        self.assertIn("Enter the code", self.request(enrolled))
        self.assertIn("is wrong", self.request(enrolled, totp_code='000000'))
        self.assertEqual(
            self.request(enrolled, totp_code=self.code()), enrolled_id)

    def test_other(self):
        "Test that the message mentions other ways to log in, if there are any"
        self.set_config(
            'session', 'authentications', 'password+totp,password+sms')
        login, user_id = self.user()
        got_id, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[''],
            sms_code=[self.sms_code(user_id)])
        self.assertEqual(got_id, user_id)
        self.assertIn(('totp_code', OTHER), questions)

    def test_silent(self):
        "Test that the message comes only after a first factor"
        login, user_id = self.user()
        self.require(None, user_id)
        self.assertNotEqual(
            self.dialogue(login, password=['x'])[1][-1][1], WITHOUT)
        for authentications in [
                'totp', 'totp+password', 'totp,password',
                'totp?no_totp_secret+password']:
            self.set_config('session', 'authentications', authentications)
            for parameters in [{}, {'totp_code': '000000'}]:
                answer = self.request(login, **parameters)
                self.assertNotIn("set it up", str(answer))
                self.assertNotIn("set up", str(answer))

    def test_statements(self):
        "Test that a login with a code needs no more statements"
        self.set_config('session', 'authentications', 'password+totp')
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.request(login, totp_code=self.code()), user_id)
        self.now += 30
        with self.count_statements() as statements:
            self.assertEqual(
                self.request(login, totp_code=self.code()), user_id)
        self.assertEqual(
            len([s for s, _ in statements if 'totp_secret' in s]), 1)


class WarningTestCase(RequiredTestCase):
    "Test the warning before TOTP is required for users who have not set it up"

    def setUp(self):
        super().setUp()
        self.admin, self.admin_id = self.user(KEY, administrator=True)
        self.rpc = self.client(self.admin)

    def assertWarned(self, model, method, *args):
        "Check that the call warns; return name, message and description"
        with self.assertRaises(Refused) as context:
            self.rpc.model(model, method, *args)
        error, (name, message, description) = context.exception.args
        self.assertEqual(error, 'UserWarning')
        return name, message, description

    def test_user(self):
        "Test that requiring TOTP for users warns about those without it"
        (_, first), (_, second), (_, enrolled) = (
            self.user(), self.user(), self.user(KEY))
        values = {'totp_required': True}
        name, message, description = self.assertWarned(
            'res.user', 'write', [first, second, enrolled], values)
        names = [f'test_user-{number}' for number in [1, 2]]
        self.assertEqual(
            message, "TOTP is now required for users who have not set it up "
            f"(2): {', '.join(names)}.")
        self.assertEqual(description, LOCKED_OUT)
        self.assertEqual(self.mandatory(first), (False, None))
        # The change is saved once the user has confirmed
        self.rpc.model('res.user.warning', 'skip', name)
        self.rpc.model(
            'res.user', 'write', [first, second, enrolled], values)
        self.assertEqual(self.mandatory(first), (True, TODAY))
        # Neither other changes nor users with TOTP cause a warning
        self.rpc.model('res.user', 'write', [first], {'name': 'x'})
        self.rpc.model('res.user', 'write', [enrolled], values)

    def test_lift(self):
        "Test that lifting the requirement does not warn"
        _, user_id = self.user()
        self.require(None, user_id)
        self.rpc.model(
            'res.user', 'write', [user_id], {'totp_required': False})

    def test_day(self):
        "Test that the warning names the day"
        _, user_id = self.user()
        values = {'totp_required': True, 'totp_required_from': TOMORROW}
        _, message, _ = self.assertWarned(
            'res.user', 'write', [user_id], values)
        self.assertEqual(
            message, "From 05/19/2033 on, TOTP is required for users who "
            "have not set it up (1): test_day-1.")

    def test_create(self):
        "Test that a new user for whom TOTP is required causes a warning"
        values = {'name': 'New', 'login': self.id(), 'totp_required': True}
        self.assertIn(
            "(1): New.", self.assertWarned('res.user', 'create', [values])[1])

    def test_actor(self):
        "Test that the warning names the actor first, and at most five users"
        login, user_id = self.user(administrator=True)
        others = [self.user()[1] for _ in range(6)]
        self.rpc = self.client(login)
        _, message, _ = self.assertWarned(
            'res.user', 'write', [*others, user_id], {'totp_required': True})
        names = [login, *(f'test_actor-{number}' for number in range(2, 6))]
        self.assertIn(f"(7): {', '.join(names)}, ….", message)

    def test_group(self):
        "Test that requiring TOTP for a group warns about its members"
        for kwargs in [{}, {'group': self.subgroup}, {'key': KEY}]:
            self.member(**kwargs)
        inactive, inactive_id = self.member()
        self.write('res.user', [inactive_id], active=False)
        self.user()
        _, message, _ = self.assertWarned(
            'res.group', 'write', [self.group], {'totp_required': True})
        self.assertIn("test_group-1", message)
        self.assertIn("test_group-2", message)
        for number in [3, 4, 5]:
            self.assertNotIn(f"test_group-{number}", message)
        if not self.boolean:
            self.assertIn("(2): test_group-1, test_group-2.", message)

    def test_group_of_administrators(self):
        "Test that requiring TOTP for a group warns about administrators"
        login, user_id = self.user(administrator=True)
        self.rpc = self.client(login)
        values = {'totp_required': True}
        if self.boolean:
            self.assertIn(f": {login}", self.assertWarned(
                    'res.group', 'write', [self.group], values)[1])
        else:
            self.rpc.model('res.group', 'write', [self.group], values)

    def assertWarnedOnce(self, expected, model, method, *args):
        "Check the users in the warning, and that the confirmed call succeeds"
        name, message, _ = self.assertWarned(model, method, *args)
        self.assertIn(f"({len(expected)}): {', '.join(expected)}.", message)
        self.rpc.model('res.user.warning', 'skip', name)
        return self.rpc.model(model, method, *args)

    def without_administrators(self):
        "Give TOTP to administrators of other tests, whom a group may affect"
        with self.transaction() as transaction:
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret], ['x'],
                    where=(table.totp_secret == Null)
                    & ~table.login.like(f'{self._testMethodName}-%')))

    def test_members_of_user(self):
        "Test that adding a user to a group that requires TOTP warns"
        self.without_administrators()
        self.require(None)
        for group in [self.group, self.subgroup]:
            login, user_id = self.user()
            for operation in [('add', [group]), ('remove', [group])]:
                values = {'groups': [operation]}
                if operation[0] == 'add':
                    self.assertWarnedOnce(
                        [login], 'res.user', 'write', [user_id], values)
                    self.assertEqual(self.mandatory(user_id), (True, TODAY))
                    # TOTP is already required for the user
                    self.rpc.model('res.user', 'write', [user_id], {
                            'totp_required': True})
                    self.rpc.model('res.user', 'write', [user_id], {
                            'totp_required': False})
                else:
                    self.rpc.model('res.user', 'write', [user_id], values)
        _, enrolled = self.user(KEY)
        self.rpc.model('res.user', 'write', [enrolled], {
                'groups': [('add', [self.group])]})

    def test_members_of_group(self):
        "Test that adding users to such a group warns about only these users"
        self.without_administrators()
        self.member()
        self.require(TOMORROW)
        _, enrolled = self.user(KEY)
        (first, first_id), (second, second_id), (third, third_id) = (
            self.user() for _ in range(3))
        _, message, _ = self.assertWarned('res.group', 'write', [self.group], {
                'users': [('add', [first_id])]})
        self.assertEqual(
            message, "From 05/19/2033 on, TOTP is required for users who "
            f"have not set it up (1): {first}.")
        self.assertWarnedOnce(
            [first, second], 'res.group', 'write', [self.group],
            {'users': [('add', [first_id, second_id, enrolled])]})
        self.assertWarnedOnce(
            [third], 'res.group', 'write', [self.subgroup],
            {'users': [('add', [third_id])]})
        self.assertEqual(self.mandatory(third_id), (False, TOMORROW))
        self.rpc.model('res.group', 'write', [self.group], {
                'users': [('remove', [first_id])]})

    def test_members_actor(self):
        "Test that the warning names the actor first"
        if self.boolean:
            self.skipTest("administrators are required already")
        self.without_administrators()
        self.require(None)
        other, other_id = self.user()
        login, user_id = self.user(administrator=True)
        self.rpc = self.client(login)
        self.assertWarnedOnce(
            [login, other], 'res.group', 'write', [self.group],
            {'users': [('add', [other_id, user_id])]})

    def test_members_at_once(self):
        "Test that requiring TOTP in two ways at once warns once"
        self.without_administrators()
        self.require(TOMORROW)
        login, user_id = self.user()
        self.assertWarnedOnce(
            [login], 'res.user', 'write', [user_id],
            {'totp_required': True, 'groups': [('add', [self.group])]})
        other, other_id = self.user()
        # For the member the day is earlier, for the other user it is new
        name, message, _ = self.assertWarned(
            'res.group', 'write', [self.group], {
                'totp_required': True, 'totp_required_from': TODAY,
                'users': [('add', [other_id])]})
        self.assertIn(f"TOTP is now required for users who have not set it up "
            f"(1): {other}.", message)
        self.rpc.model('res.user.warning', 'skip', name)
        self.rpc.model('res.group', 'write', [self.group], {
                'totp_required': True, 'totp_required_from': TODAY,
                'users': [('add', [other_id])]})

    def test_members_earlier(self):
        "Test that an earlier day warns, and a later one does not"
        self.without_administrators()
        self.require(TOMORROW)
        login, user_id = self.member()
        for day in [TODAY + 3 * DAY, TOMORROW]:
            self.rpc.model('res.user', 'write', [user_id], {
                    'totp_required': True, 'totp_required_from': day})
        self.assertWarnedOnce(
            [login], 'res.group', 'write', [self.group],
            {'totp_required_from': None})

    def test_members_of_new(self):
        "Test that a new group with members warns, and a new user in a group"
        self.without_administrators()
        self.require(None)
        login, user_id = self.user()
        self.assertWarnedOnce(
            [login], 'res.group', 'create', [{
                    'name': f'{self.id()} new', 'parent': self.group,
                    'users': [('add', [user_id])]}])
        login = f'{self._testMethodName}-new'
        self.assertWarnedOnce(
            [login], 'res.user', 'create', [{
                    'name': login, 'login': login,
                    'groups': [('add', [self.group])]}])

    def test_members_of_subgroup(self):
        "Test that a group that becomes a subgroup warns about its members"
        self.without_administrators()
        self.require(None)
        self.write('res.group', [self.subgroup], parent=None)
        login, user_id = self.member(self.subgroup)
        self.assertWarnedOnce(
            [login], 'res.group', 'write', [self.subgroup],
            {'parent': self.group})

    def test_members_of_other(self):
        "Test that groups that do not require TOTP cause no warning"
        self.without_administrators()
        _, user_id = self.user()
        self.rpc.model('res.user', 'write', [user_id], {
                'groups': [('add', [self.group])]})
        self.rpc.model('res.group', 'write', [self.group], {
                'users': [('remove', [user_id])]})
        self.require(None)
        self.write('res.group', [self.group], active=False)
        self.rpc.model('res.user', 'write', [user_id], {
                'groups': [('add', [self.group])]})
        self.assertEqual(self.mandatory(user_id), (False, None))
        self.assertWarnedOnce(
            [f'{self._testMethodName}-1'], 'res.group', 'write', [self.group],
            {'active': True})

    def test_active(self):
        "Test that activating a user for whom TOTP is required warns"
        _, other_id = self.user()
        login, user_id = self.user()
        self.require(None, user_id)
        for id_ in [user_id, other_id]:
            self.rpc.model('res.user', 'write', [id_], {'active': False})
        self.rpc.model('res.user', 'write', [other_id], {'active': True})
        self.assertWarnedOnce(
            [login], 'res.user', 'write', [user_id], {'active': True})

    def test_new_administrator(self):
        "Test that making a user an administrator warns"
        if not self.boolean:
            self.skipTest("administrators are a group")
        self.without_administrators()
        self.require(None)
        login, user_id = self.user()
        self.assertWarnedOnce(
            [login], 'res.user', 'write', [user_id], {'administrator': True})

    def test_create_once(self):
        "Test that a new user is created once the warning is confirmed"
        login = f'{self._testMethodName}-new'
        user_id, = self.assertWarnedOnce(
            [login], 'res.user', 'create', [{
                    'name': login, 'login': login, 'totp_required': True}])
        self.assertEqual(self.mandatory(user_id), (True, TODAY))

    def test_policy(self):
        "Test that the warning explains the effect of the policy"
        for authentications, expected in [
                ('password+totp?no_totp_secret', LOCKED_OUT),
                ('password+totp', LOCKED_OUT),
                ('password+totp?no_totp_secret:setup_totp', DIALOG),
                ('password', '')]:
            _, user_id = self.user()
            self.set_config('session', 'authentications', authentications)
            self.assertEqual(self.assertWarned(
                    'res.user', 'write', [user_id],
                    {'totp_required': True})[2], expected)

    def test_hidden(self):
        "Test that the warning does not name users whose status is hidden"
        _, user_id = self.member()
        login, manager_id = self.manager()
        with self.transaction():
            pool = Pool()
            group, = pool.get('res.group').search([('name', '=', login)])
            pool.get('ir.model.access').create([{
                        'model': 'res.group', 'group': group.id,
                        'perm_read': True, 'perm_write': True}])
        self.client(login).model(
            'res.group', 'write', [self.group], {'totp_required': True})
        self.assertEqual(self.mandatory(user_id), (True, TODAY))
