# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging

import pyotp

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool

from .tools import (
    BLANK, KEY, OTHER_KEY, PASSWORD, WRONG, WRONG_RECOVERY, Refused,
    TOTPTestCase, right_code)

MAX = "You cannot add another authenticator. Remove one first."
NO_AUTHENTICATOR = (
    "No authenticator is selected, or it no longer exists. "
    "Select one and try again.")
TURN_OFF = (
    "You will log in with the password alone, "
    "and your recovery codes will no longer work.")
BUTTONS = ['add', 'replace', 'rename', 'remove', 'renew', 'turn_off']


class OverviewTestCase(TOTPTestCase):
    "Test the page where users manage their own TOTP"
    authentications = 'password'

    def setUp(self):
        super().setUp()
        self.login, self.user_id = self.user(KEY)
        self.codes = self.renew()
        self.rpc = self.client(self.login)

    def renew(self):
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            return RecoveryCode.renew(self.user_id)

    def add(self, name):
        "Add an authenticator and return its key"
        self.now += 30
        key = self.add_authenticator(self.user_id, name=name)
        self.now += 30
        # The new authenticator has ended the session
        self.rpc = self.client(self.login)
        return key

    def told(self, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        self.assertEqual(context.exception.args[0], 'UserError')
        return context.exception.args[1][0]

    def press(self, button, code, **values):
        "Press the button, and confirm its warning"
        values = {'authenticator': '1', 'name': 'x', 'code': code, **values}
        try:
            return self.rpc.overview(button, **values)
        except Refused as refused:
            if refused.args[0] != 'UserWarning':
                raise
            self.rpc.accept(refused)
        return self.rpc.overview(button, **values)

    def state(self):
        "Return everything that the buttons can change"
        stored = self.stored_secret(self.user_id)
        with self.transaction(self.user_id):
            user = Pool().get('res.user')(self.user_id)
            return (
                stored, user.totp_recovery_codes,
                user.has_pending_totp_secret(),
                [a['name'] for a in user.list_totp_authenticators()])

    def names(self):
        return self.state()[-1]

    def logs_in(self, code):
        self.set_config('session', 'authentications', 'password+totp')
        try:
            return self.dialogue(
                self.login, password=[PASSWORD], totp_code=[code])[0] \
                == self.user_id
        finally:
            self.set_config('session', 'authentications', 'password')

    def test_shown(self):
        "Test the content of the page"
        key = self.add("Tablet")
        self.logs_in(right_code(key, self.now))
        _, shown = self.rpc.overview()
        self.assertEqual(
            [a['name'] for a in shown['authenticators']],
            ["Authenticator", "Tablet"])
        first, second = shown['authenticators']
        self.assertEqual(second['last_used'].timestamp(), self.now)
        self.assertEqual(second['since'].timestamp(), self.now - 30)
        self.assertLess(first['since'], second['since'])
        self.assertEqual(shown['recovery_codes'], 10)
        self.assertEqual(
            self.rpc.model('res.user.setup_totp.overview',
                'get_authenticators'),
            [[None, ''], ['1', "Authenticator"], ['2', "Tablet"]])

    def test_shown_of_others(self):
        "Test that users do not see the authenticators of others"
        self.add("Tablet")
        other, _ = self.user(OTHER_KEY)
        rpc = self.client(other)
        _, shown = rpc.overview()
        self.assertEqual(
            [a['name'] for a in shown['authenticators']], ["Authenticator"])
        for context in [{}, {'user': self.user_id}]:
            self.assertEqual(
                rpc.call(
                    'model.res.user.setup_totp.overview.get_authenticators',
                    context),
                [[None, ''], ['1', "Authenticator"]])

    def test_nothing_required(self):
        "Test that no field stops a button that does not need it"
        fields = self.rpc.model('res.user.setup_totp.overview', 'fields_get')
        self.assertIn('device', fields)
        for name, definition in fields.items():
            with self.subTest(name=name):
                self.assertFalse(definition['required'])
                self.assertNotIn('required', definition['states'])

    def test_blank(self):
        "Test that each button requires a code, and does not count a blank one"
        before = self.state()
        for button in BUTTONS:
            for code in [None, '', '  ', '\u200b']:
                with self.subTest(button=button, code=code):
                    self.assertEqual(
                        self.told(self.press, button, code), BLANK)
        self.assertEqual(self.state(), before)
        self.assertEqual(self.failures(self.user_id), 0)
        self.assertEqual(self.failures(self.user_id, 'recovery'), 0)

    def test_wrong(self):
        "Test that each button counts a wrong code and changes nothing"
        before = self.state()
        for count, button in enumerate(BUTTONS, 1):
            with self.subTest(button=button):
                self.assertEqual(
                    self.told(self.press, button, self.code(95)), WRONG)
                self.assertEqual(
                    self.told(
                        self.press, button, totp.new_recovery_code()),
                    WRONG_RECOVERY)
                self.assertEqual(self.failures(self.user_id), 1)
                self.assertEqual(
                    self.failures(self.user_id, 'recovery'), count)
            self.forget_elsewhere()
        self.assertEqual(self.state(), before)

    def forget_elsewhere(self):
        with self.transaction() as transaction:
            table = Pool().get('res.user.totp_guess').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.failures, table.consecutive], [0, 0],
                    where=(table.user == self.user_id)
                    & (table.kind == 'elsewhere')))

    def test_without_totp(self):
        "Test that the buttons change nothing for a user without TOTP"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, _ = rpc.start_setup()
        for button in ['rename', 'remove', 'renew', 'turn_off']:
            for code in [None, self.code(), self.codes[0]]:
                with self.subTest(button=button, code=code):
                    with self.assertRaises(Refused) as context:
                        rpc.wizard('execute', session_id, {'overview': {
                                    'code': code, 'authenticator': '1',
                                    'name': 'x'}}, button)
                    self.assertIn(
                        context.exception.args[0],
                        {'UserError', 'UserWarning'})
        self.assertIsNone(self.stored_secret(user_id))

    def test_add(self):
        "Test that a code or a recovery code adds an authenticator"
        for code in [self.code(), self.codes.pop()]:
            with self.subTest(code=code):
                before = self.names()
                session_id, shown = self.press('add', code)
                number = len(before) + 1
                self.assertEqual(shown['account'], f'{self.login} ({number})')
                self.assertEqual(shown['name'], "Authenticator 2")
                self.assertEqual(
                    pyotp.parse_uri(shown['secret_uri']).name,
                    shown['account'])
                self.assertEqual(self.names(), before)
                key = shown['secret']
                result = self.rpc.wizard(
                    'execute', session_id, {'start': {
                            **shown, 'name': f"Phone {number}",
                            'code': right_code(key, self.now)}},
                    'confirm')
                # The recovery codes stay valid
                self.assertFalse(
                    result['view']['defaults'].get('recovery_codes'))
                self.assertEqual(self.names(), [*before, f"Phone {number}"])
                self.now += 30
                for each in [KEY, key]:
                    self.assertTrue(
                        self.logs_in(right_code(each, self.now)))
                self.now += 30
                self.rpc = self.client(self.login)
        self.assertTrue(self.logs_in(self.codes[0]))

    def test_add_without_recovery_codes(self):
        "Test that users without any recovery codes get new ones"
        with self.transaction():
            Pool().get('res.user.totp_recovery_code').clear([self.user_id])
        session_id, shown = self.press('add', self.code())
        result = self.rpc.wizard(
            'execute', session_id, {'start': {
                    'code': right_code(shown['secret'], self.now)}},
            'confirm')
        codes = result['view']['defaults']['recovery_codes'].splitlines()
        self.assertEqual(len(codes), 10)
        self.assertTrue(self.logs_in(codes[0]))

    def test_add_too_many(self):
        "Test that the limit is reported before a code is used"
        self.set_totp('max_authenticators', '2')
        self.add("Tablet")
        before = self.state()
        for code in [self.code(), self.codes[0], None, self.code(95)]:
            self.assertEqual(self.told(self.press, 'add', code), MAX)
        self.assertEqual(self.state(), before)
        self.assertEqual(self.failures(self.user_id), 0)
        # The limit does not prevent replacing all authenticators
        _, shown = self.press('replace', self.code())
        self.assertTrue(shown['secret'])

    def test_replace(self):
        "Test that one recovery code is enough for a new phone, in two pages"
        old = self.add("Tablet")
        session_id, shown = self.press('replace', self.codes[0])
        self.assertEqual(shown['account'], f'{self.login} (3)')
        self.assertEqual(shown['name'], "Authenticator")
        self.assertEqual(self.names(), ["Authenticator", "Tablet"])
        key = shown['secret']
        result = self.rpc.wizard(
            'execute', session_id,
            {'start': {**shown, 'code': right_code(key, self.now)}}, 'confirm')
        self.assertEqual(result['view']['state'], 'done')
        codes = result['view']['defaults']['recovery_codes'].splitlines()
        self.assertEqual(len(codes), 10)
        self.assertEqual(len(self.names()), 1)
        self.now += 30
        for code in [
                self.code(), right_code(old, self.now), self.codes[1]]:
            self.assertFalse(self.logs_in(code))
        self.assertTrue(self.logs_in(codes[0]))
        self.assertTrue(self.logs_in(right_code(key, self.now)))
        self.assertEqual(self.events(self.user_id)[:4], [
                'set_up', 'added', 'recovered', 'replaced'])

    def test_replace_or_add(self):
        "Test that only the button decides whether the new key replaces others"
        for button, count in [('add', 2), ('replace', 1)]:
            for forged in [{}, {'secret': KEY, 'account': self.login}]:
                self.now += 30
                session_id, shown = self.press(button, self.code())
                # Neither values from the client nor another button change it
                with self.assertRaises(Refused):
                    self.rpc.wizard(
                        'execute', session_id, {'overview': {}},
                        'replace' if button == 'add' else 'add')
                with self.assertRaises(Refused):
                    self.rpc.confirm_setup(
                        session_id, shown, code='000000', **forged)
            self.rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now))
            self.assertEqual(len(self.names()), count)
            self.rpc = self.client(self.login)

    def test_started_again(self):
        "Test that a second start tells the user to delete the first entry"
        _, shown = self.press('add', self.code())
        self.assertFalse(shown['again'])
        self.now += 30
        for button in ['add', 'replace']:
            _, again = self.press(button, self.code())
            self.assertNotEqual(again['secret'], shown['secret'])
            self.assertTrue(again['again'])
            self.now += 30
        # The first key has expired, and is no longer mentioned
        self.now += 600
        _, shown = self.press('add', self.code())
        self.assertFalse(shown['again'])

    def test_rename(self):
        "Test that a code or a recovery code renames an authenticator"
        self.add("Tablet")
        for code, name in [(self.code(), "iPad"), (self.codes[0], "Old iPad")]:
            _, shown = self.press(
                'rename', code, authenticator='2', name=name)
            self.assertEqual(
                [a['name'] for a in shown['authenticators']],
                ["Authenticator", name])
            self.assertFalse(shown.get('code'))
        self.assertEqual(self.names(), ["Authenticator", "Old iPad"])

    def test_rename_blank(self):
        "Test that an authenticator cannot have a blank name"
        for name in [None, '', ' ']:
            with self.subTest(name=name):
                with self.assertRaises(Refused):
                    self.press('rename', self.code(), name=name)
                self.assertEqual(self.names(), ["Authenticator"])
        self.assertTrue(self.logs_in(self.code()))

    def test_no_authenticator(self):
        "Test values from a client that are the number of no authenticator"
        self.add("Tablet")
        for number in [None, '', '0', '999', 'x', '-1', [], 5, True]:
            for button in ['rename', 'remove']:
                with self.subTest(button=button, number=number):
                    self.assertEqual(
                        self.told(
                            self.press, button, self.code(),
                            authenticator=number),
                        NO_AUTHENTICATOR)
        self.assertEqual(self.names(), ["Authenticator", "Tablet"])

    def test_remove(self):
        "Test that a code or a recovery code removes an authenticator"
        keys = {2: self.add("Tablet"), 3: self.add("Token")}
        for number, code in [(3, self.code()), (2, self.codes[0])]:
            _, shown = self.press('remove', code, authenticator=str(number))
            self.assertIsNone(shown)
            self.assertEqual(len(self.names()), number - 1)
            self.now += 30
            self.rpc = self.client(self.login)
            self.assertFalse(
                self.logs_in(right_code(keys[number], self.now)))
            self.assertTrue(self.logs_in(self.code()))
            self.now += 30
        self.assertEqual(self.names(), ["Authenticator"])

    def test_remove_last(self):
        "Test that removing the last one warns, and then turns off TOTP"
        with self.assertRaises(Refused) as context:
            self.rpc.overview('remove', code=self.code(), authenticator='1')
        self.assertEqual(context.exception.args[0], 'UserWarning')
        self.assertTrue(self.stored_secret(self.user_id))
        self.rpc.accept(context.exception)
        _, shown = self.rpc.overview(
            'remove', code=self.code(), authenticator='1')
        self.assertIsNone(shown)
        self.assertIsNone(self.stored_secret(self.user_id))

    def test_renew(self):
        "Test that a code or a recovery code makes new recovery codes"
        for recovery in [False, True]:
            old = self.codes[1]
            _, shown = self.press(
                'renew', self.codes[0] if recovery else self.code())
            self.codes = shown['recovery_codes'].splitlines()
            self.assertEqual(len(self.codes), 10)
            self.assertIn(self.login, shown['recovery_codes_name'])
            self.assertFalse(shown.get('saved'))
            self.assertFalse(self.logs_in(old))
            self.assertTrue(self.logs_in(self.codes[5]))
            # A login with a recovery code has ended the other sessions
            self.rpc = self.client(self.login)

    def test_turn_off(self):
        "Test that a code or a recovery code turns off TOTP after a warning"
        for recovery in [False, True]:
            with self.subTest(recovery=recovery):
                code = self.codes[0] if recovery else self.code()
                with self.assertRaises(Refused) as context:
                    self.rpc.overview('turn_off', code=code)
                error, (_, message, *_) = context.exception.args
                self.assertEqual(error, 'UserWarning')
                self.assertEqual(message, TURN_OFF)
                self.assertTrue(self.stored_secret(self.user_id))
                self.rpc.accept(context.exception)
                _, shown = self.rpc.overview('turn_off', code=code)
                self.assertIsNone(shown)
                self.assertIsNone(self.stored_secret(self.user_id))
                self.assertEqual(self.events(self.user_id)[-1], 'removed')
            with self.transaction():
                Pool().get('res.user')(self.user_id).set_totp_key(KEY)
            self.codes = self.renew()
            self.now += 30
            self.rpc = self.client(self.login)

    def test_required(self):
        "Test that users for whom TOTP is required cannot turn it off"
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(self.user_id)], {'totp_required': True})
        before = self.state()
        for button in ['turn_off', 'remove']:
            for code in [self.code(), self.codes[0], None, '000000']:
                message = self.told(
                    self.rpc.overview, button, code=code, authenticator='1')
                self.assertIn("You cannot turn TOTP off", message)
        self.assertEqual(self.state(), before)
        self.assertEqual(self.failures(self.user_id), 0)
        # Removing one of several authenticators is allowed
        self.add("Tablet")
        self.press('remove', self.code(), authenticator='2')
        self.assertEqual(self.names(), ["Authenticator"])

    def test_done(self):
        "Test the page with the recovery codes, which the server closes"
        session_id, shown = self.press('renew', self.code())
        self.assertEqual(
            shown['recovery_codes_name'],
            f'recovery-codes-{self.login}-2033-05-18.txt')
        self.assertIn(
            self.codes and shown['recovery_codes'],
            shown['recovery_codes_file'].decode())
        for values in [{}, {'saved': True, **shown}]:
            self.assertEqual(
                self.rpc.wizard(
                    'execute', session_id, {'done': values}, 'close'), {})

    def test_logs(self):
        "Test that no code from a client is in the log at INFO"
        sent = []
        with self.assertLogs(level=logging.INFO) as logs:
            for button, code in [
                    ('add', '123456'), ('add', self.codes[0]),
                    ('replace', self.code())]:
                session_id, start, _ = self.rpc.wizard('create')
                shown = self.rpc.wizard(
                    'execute', session_id, {}, start)['view']['defaults']
                try:
                    shown = self.execute(
                        session_id, 'overview', button, sent,
                        {**shown, 'code': code})
                except Refused:
                    pass
            shown = self.execute(
                session_id, 'start', 'confirm', sent, {
                    **shown,
                    'code': right_code(shown['secret'], self.now)})
            self.rpc = self.client(self.login)
            self.execute(
                session_id, 'done', 'close', sent, {**shown, 'saved': True})
        output = '\n'.join(logs.output)
        self.assertIn('setup_totp.execute(...)', output)
        self.assertGreater(len(sent), 5)
        for text in sent:
            self.assertNotIn(text if '//' in text else text[:6], output)

    def execute(self, session_id, state, button, sent, values):
        "Send the values as sao does, add secret ones to sent, return the next"
        for name in ['secret', 'code', 'recovery_codes']:
            # On the page overview, recovery_codes is the number of those left
            if isinstance(values.get(name), str):
                sent += values[name].split()[:1]
        sent += [values[name] for name in ['secret_uri'] if name in values]
        values = dict(sorted({**values, 'id': -1}.items()))
        values.pop('authenticators', None)
        result = self.rpc.wizard(
            'execute', session_id, {state: values}, button)
        return result['view']['defaults'] if result.get('view') else None

    def test_done_ended_session(self):
        "Test that the page can be closed in the session of a new login"
        session_id, shown = self.press('replace', self.code())
        self.rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        with self.assertRaises(Refused) as context:
            self.rpc.wizard('execute', session_id, {}, 'close')
        self.assertEqual(context.exception.args, (401,))
        self.rpc = self.client(self.login)
        self.assertEqual(
            self.rpc.wizard('execute', session_id, {}, 'close'), {})
