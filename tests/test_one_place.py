# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt

from trytond.pool import Pool

from .test_devices import DevicesTestCase
from .test_login_setup import KEY_SHOWN
from .tools import (
    BLANK, KEY, OTHER_KEY, PASSWORD, RPC, WAIT, WRONG, Refused, TOTPTestCase,
    right_code, secret_from)


class WizardMixin:

    def start_state(self, rpc):
        "Return the state in which the wizard begins"
        return rpc.wizard('create')[1]

    def opens(self, rpc):
        "Return whether the wizard opens by itself after login"
        with self.transaction():
            wizard = Pool().get('ir.model.data').get_id(
                'authentication_totp', 'wizard_setup_totp')
            action = Pool().get('ir.action.wizard')(wizard).action.id
        return action in rpc.model(
            'res.user', 'get_preferences', False)['actions']

    def told(self, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        return context.exception.args[1][0]

    def recovery_codes(self, user_id):
        with self.transaction():
            return Pool().get('res.user.totp_recovery_code').renew(user_id)

    def logs_in(self, login, code):
        return self.dialogue(
            login, password=[PASSWORD], totp_code=[code])[0] is not None


class LostPhoneTestCase(WizardMixin, TOTPTestCase):
    "Test that one recovery code is enough to set up a new phone"

    def recover(self):
        "Log in with a recovery code"
        login, user_id = self.user(KEY)
        code, *others = self.recovery_codes(user_id)
        rpc = RPC()
        rpc.login(login, password=PASSWORD, totp_code=code)
        return login, user_id, rpc, others

    def test_new_phone(self):
        "Test the way from the login to the codes of the new phone"
        login, user_id, rpc, others = self.recover()
        self.assertTrue(self.opens(rpc))
        self.assertEqual(self.start_state(rpc), 'start')
        session_id, shown = rpc.overview()
        result = rpc.wizard(
            'execute', session_id, {'start': {
                    **shown, 'code': right_code(shown['secret'], self.now)}},
            'confirm')
        codes = result['view']['defaults']['recovery_codes'].splitlines()
        self.assertEqual(len(codes), 10)
        self.assertEqual(
            self.events(user_id), ['set_up', 'recovered', 'replaced'])
        self.now += 30
        self.assertFalse(self.logs_in(login, self.code()))
        self.assertFalse(self.logs_in(login, others[0]))
        self.assertTrue(self.logs_in(
                login, right_code(shown['secret'], self.now)))
        self.assertTrue(self.logs_in(login, codes[0]))

    def test_other_sessions(self):
        "Test that a login with a recovery code ends the user's other sessions"
        login, user_id = self.user(KEY)
        neighbour, _ = self.user(KEY)
        old, other = RPC(), RPC()
        old.login(login, password=PASSWORD, totp_code=self.code())
        other.login(neighbour, password=PASSWORD, totp_code=self.code())
        rpc = RPC()
        rpc.login(
            login, password=PASSWORD,
            totp_code=self.recovery_codes(user_id)[0])
        with self.assertRaises(Refused):
            old.model('res.user', 'get_preferences', False)
        for alive in [other, rpc]:
            alive.model('res.user', 'get_preferences', False)

    def test_expired(self):
        "Test that after setup_timeout seconds the session needs a code"
        for seconds, state in [
                (599, 'start'), (600, 'overview'), (-1, 'overview')]:
            with self.subTest(seconds=seconds):
                _, user_id, rpc, _ = self.recover()
                self.now += seconds
                self.assertEqual(self.start_state(rpc), state)
                if state == 'overview':
                    session_id, _, _ = rpc.wizard('create')
                    self.assertEqual(
                        self.told(
                            rpc.wizard, 'execute', session_id, {}, 'start'),
                        BLANK)
                    self.assertEqual(self.failures(user_id), 0)

    def test_other_logins(self):
        "Test that other sessions get no key without a code"
        login, user_id, _, others = self.recover()
        by_code, by_password = RPC(), RPC()
        by_code.login(login, password=PASSWORD, totp_code=self.code())
        self.set_config('session', 'authentications', 'password')
        by_password.login(login, password=PASSWORD)
        for rpc in [by_code, by_password]:
            self.assertEqual(self.start_state(rpc), 'overview')
            self.assertFalse(self.opens(rpc))
            session_id, _, _ = rpc.wizard('create')
            self.assertEqual(
                self.told(rpc.wizard, 'execute', session_id, {}, 'start'),
                BLANK)

    def test_replaces_only(self):
        "Test that all other buttons require a code"
        login, user_id, rpc, others = self.recover()
        session_id, _, _ = rpc.wizard('create')
        for button in ['add', 'rename', 'renew', 'forget']:
            self.assertEqual(
                self.told(
                    rpc.wizard, 'execute', session_id, {'overview': {
                            'authenticator': '1', 'name': 'x'}}, button),
                BLANK)

    def test_wizard_code(self):
        "Test that a recovery code in the wizard does not open the setup"
        login, user_id = self.user(KEY)
        codes = self.recovery_codes(user_id)
        rpc = self.client(login)
        rpc.overview('rename', code=codes[0], authenticator='1', name='x')
        self.assertEqual(self.start_state(rpc), 'overview')


class DialogTestCase(WizardMixin, TOTPTestCase):
    "Test the recovery codes after a setup in the login dialog"
    authentications = 'password+totp?setup_totp'

    def set_up(self):
        login, user_id = self.user()
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD)
        key, = KEY_SHOWN.findall(context.exception.args[1][1])
        rpc = RPC()
        rpc.login(
            login, password=PASSWORD, totp_code=right_code(key, self.now))
        return login, user_id, key, rpc

    def test_at_once(self):
        "Test that the codes are shown once, without another code"
        login, _, _, rpc = self.set_up()
        self.assertTrue(self.opens(rpc))
        self.assertEqual(self.start_state(rpc), 'done')
        _, shown = rpc.overview()
        codes = shown['recovery_codes'].splitlines()
        self.assertEqual(len(codes), 10)
        self.assertFalse(self.opens(rpc))
        self.assertEqual(self.start_state(rpc), 'overview')
        session_id, _, _ = rpc.wizard('create')
        result = rpc.wizard('execute', session_id, {}, 'done')
        self.assertNotIn('recovery_codes', result['view']['defaults'])
        self.assertTrue(self.logs_in(login, codes[0]))

    def test_other_sessions(self):
        "Test that only the session of the setup gets the codes, for a while"
        login, _, key, rpc = self.set_up()
        self.now += 30
        later = RPC()
        later.login(
            login, password=PASSWORD, totp_code=right_code(key, self.now))
        self.now += 570
        for session in [later, rpc]:
            self.assertEqual(self.start_state(session), 'overview')
            session_id, _, _ = session.wizard('create')
            result = session.wizard('execute', session_id, {}, 'done')
            self.assertNotIn('recovery_codes', result['view']['defaults'])

    def test_none(self):
        "Test that no codes are shown if recovery codes are turned off"
        self.set_totp('recovery_codes', '0')
        _, _, _, rpc = self.set_up()
        self.assertEqual(self.start_state(rpc), 'overview')


class DevicePageTestCase(WizardMixin, DevicesTestCase):
    "Test the remembered devices in the wizard"

    def test_forget(self):
        "Test that the devices are shown, and a code is needed to forget them"
        login, user_id = self.user(KEY)
        cookie = self.remember(login)
        rpc = RPC()
        self.now += 30
        rpc.login(login, password=PASSWORD, totp_code=self.code())
        _, shown = rpc.overview()
        device, = shown['devices']
        self.assertTrue(device['last_used'])
        self.now += 30
        self.assertEqual(self.told(rpc.overview, 'forget'), BLANK)
        self.assertEqual(
            self.told(rpc.overview, 'forget', code=self.code(99)), WRONG)
        self.assertTrue(self.skips(login, cookie))
        _, shown = rpc.overview('forget', code=self.code(), device='all')
        self.assertEqual(shown['devices'], [])
        self.assertFalse(self.skips(login, cookie))
        self.assertEqual(
            self.events(user_id)[-1], 'devices_forgotten')


class TokenPageTestCase(WizardMixin, TOTPTestCase):
    "Test a hardware token in the wizard"
    authentications = 'password'

    def assign(self, user_id):
        "Assign a token with OTHER_KEY to the user and return its serial"
        with self.transaction():
            pool = Pool()
            Token = pool.get('res.user.totp_token')
            serial = f'T{user_id}'
            Token.store([(serial, secret_from(OTHER_KEY))])
            Token.assign(
                Token.search([('serial', '=', serial)]),
                pool.get('res.user')(user_id))
        return serial

    def test_first(self):
        "Test a user whose first authenticator is a token"
        login, user_id = self.user()
        serial = self.assign(user_id)
        rpc = self.client(login)
        self.assertEqual(self.start_state(rpc), 'token')
        session_id, shown = rpc.overview()
        self.assertEqual(shown['serial'], serial)
        values = {'token': {**shown, 'code': '000000'}}
        with self.assertRaises(Refused):
            rpc.wizard('execute', session_id, values, 'confirm_token')
        values['token']['code'] = right_code(OTHER_KEY, self.now)
        result = rpc.wizard('execute', session_id, values, 'confirm_token')
        self.assertEqual(
            len(result['view']['defaults']['recovery_codes'].split()), 10)
        self.assertEqual(
            self.events(user_id), ['token_assigned', 'set_up'])

    def test_phone_instead(self):
        "Test that a user with an assigned token may use a phone instead"
        login, user_id = self.user()
        self.assign(user_id)
        rpc = self.client(login)
        session_id, _ = rpc.overview()
        result = rpc.wizard('execute', session_id, {}, 'start')
        self.assertTrue(result['view']['defaults']['secret'])

    def test_further(self):
        "Test that adding a token requires a code"
        login, user_id = self.user(KEY)
        serial = self.assign(user_id)
        rpc = self.client(login)
        session_id, shown = rpc.overview()
        self.assertEqual(shown['tokens'], 1)
        shown = rpc.wizard(
            'execute', session_id, {}, 'token')['view']['defaults']
        values = {**shown, 'code': right_code(OTHER_KEY, self.now)}
        which = (
            "The code from your current authenticator is wrong. "
            "The code of the token was not checked.")
        for current_code, message, description in [
                (None, BLANK, ''), ('000000', WRONG, which),
                ('000000', WRONG, which),
                ('000000', WAIT % "30 seconds", which),
                # No code is checked now, not even a right one
                (self.code(), WAIT % "30 seconds", '')]:
            with self.subTest(current_code=current_code):
                with self.assertRaises(Refused) as context:
                    rpc.wizard(
                        'execute', session_id,
                        {'token': {**values, 'current_code': current_code}},
                        'confirm_token')
                _, (told, more, _) = context.exception.args
                self.assertEqual((told, more), (message, description))
        self.now += 30
        values['code'] = right_code(OTHER_KEY, self.now)
        rpc.wizard(
            'execute', session_id,
            {'token': {**values, 'current_code': self.code()}},
            'confirm_token')
        self.assertEqual(
            self.events(user_id),
            ['set_up', 'token_assigned', 'failed', 'added'])
        with self.transaction(user_id):
            names = [
                a['name'] for a in Pool().get('res.user')(
                    user_id).list_totp_authenticators()]
        self.assertEqual(names, ['Authenticator', f'Token {serial}'])


class RequiredPageTestCase(WizardMixin, TOTPTestCase):
    "Test that the wizard says from which day on TOTP is required"
    authentications = 'password+totp?no_totp_secret'

    def test_day(self):
        "Test the day on the page with a new key"
        login, user_id = self.user()
        day = dt.date(2033, 6, 1)
        for required, expected in [(False, None), (True, day)]:
            with self.transaction():
                User = Pool().get('res.user')
                User.write([User(user_id)], {
                        'totp_required': required,
                        'totp_required_from': day,
                        })
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            self.assertTrue(self.opens(rpc))
            _, shown = rpc.overview()
            self.assertEqual(shown['required_from'], expected)
