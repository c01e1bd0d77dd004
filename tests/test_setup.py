# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import importlib
import logging
import sys
from io import BytesIO
from unittest.mock import patch

import pyotp
import zxingcpp
from PIL import Image

from trytond import backend
from trytond.modules.authentication_totp import settings, user
from trytond.modules.authentication_totp.exceptions import (
    TOTPAccessError, TOTPSetupError)
from trytond.pool import Pool

from .tools import (
    BLANK, ISSUER, KEY, OTHER_KEY, PASSWORD, RPC, USED, WAIT, WRONG,
    WRONG_DIGITS, WRONG_NEW, Refused, TOTPTestCase, right_code, seal_set,
    secret_from)

EXPIRED = (
    "The new key is no longer valid. "
    "Close the wizard, start it again and scan the new QR code.")
ANOTHER = "Another user started this wizard. Close it and start it again."


class SetupTestCase(TOTPTestCase):
    "Test the wizard by JSON-RPC"
    authentications = 'password'

    def client(self, login):
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        return rpc

    def assertRefused(self, message, function, *args, **kwargs):
        with self.assertRaises(Refused) as context:
            function(*args, **kwargs)
        self.assertEqual(context.exception.args[0], 'UserError')
        self.assertEqual(context.exception.args[1][0], message)

    def assertGetsIn(self, login, user_id, code):
        self.set_config('session', 'authentications', 'password+totp')
        self.assertEqual(
            self.dialogue(login, password=[PASSWORD], totp_code=[code])[0],
            user_id)

    def assertStaysOut(self, login, code):
        self.set_config('session', 'authentications', 'password+totp')
        self.assertIsNone(
            self.dialogue(login, password=[PASSWORD], totp_code=[code])[0])

    def test_set_up(self):
        "Test that an ordinary user sets up TOTP and logs in with a code"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        self.assertEqual(shown['account'], login)
        self.assertEqual(shown['issuer'], ISSUER)
        self.assertEqual(shown['name'], "Authenticator")
        self.assertRegex(shown['secret'], r'^([A-Z2-7]{4} ){7}[A-Z2-7]{4}$')
        authenticator = pyotp.parse_uri(shown['secret_uri'])
        self.assertEqual(
            authenticator.secret, shown['secret'].replace(' ', ''))
        self.assertEqual(authenticator.name, login)
        self.assertEqual(
            rpc.model('res.user', 'read', [user_id], ['totp_enabled'])[0][
                'totp_enabled'], False)

        code = authenticator.at(self.now)
        self.assertEqual(
            rpc.confirm_setup(session_id, shown, code=code), 'done')

        # The setup has ended all sessions
        with self.assertRaises(Refused) as context:
            rpc.model('res.user', 'get_preferences', False)
        self.assertEqual(context.exception.args, (401,))
        preferences = self.client(login).model(
            'res.user', 'get_preferences', False)
        self.assertTrue(preferences['totp_enabled'])
        self.assertEqual(preferences['totp_since'].timestamp(), self.now)
        # The code that confirmed the setup is used
        self.assertStaysOut(login, code)
        self.assertGetsIn(login, user_id, authenticator.at(self.now + 30))

    def test_qr_code(self):
        "Test that the QR code contains the URI"
        login, _ = self.user()
        _, shown = self.client(login).start_setup()
        image = Image.open(BytesIO(shown['secret_qr_code']))
        self.assertEqual(image.format, 'PNG')
        barcode, = zxingcpp.read_barcodes(image)
        self.assertEqual(barcode.text, shown['secret_uri'])

    def test_qr_code_largest(self):
        "Test that the longest names fit into a QR code"
        login, user_id = self.user()
        for option, value in [
                ('issuer', '\U0001f511' * 100),
                ('image', 'https://example.com/' + '?' * 230),
                ('algorithm', 'sha512'),
                ('key_length', '1024'),
                ('digits', '8'),
                ('period', '120'),
                ]:
            self.set_totp(option, value)
        login = '\U0001f512' * 100
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'login': login})
        with self.transaction(user_id):
            Wizard = Pool().get('res.user.setup_totp', type='wizard')
            session_id, start, _ = Wizard.create()
            shown = Wizard.execute(session_id, {}, start)['view']['defaults']
        self.assertTrue(shown['secret_qr_code'])

    def test_without_qr_code(self):
        "Test that the wizard works if the libraries for QR codes are missing"
        for library in ['qrcode', 'PIL', 'webcolors']:
            login, _ = self.user()
            rpc = self.client(login)
            with self.subTest(library=library), \
                    patch.dict(vars(user)), \
                    patch.dict(sys.modules, {library: None}):
                for name in ['qrcode.image.pil', 'trytond.tools.qrcode']:
                    sys.modules.pop(name, None)
                importlib.reload(user)
                with self.assertNoLogs(user.logger, 'ERROR'):
                    session_id, shown = rpc.start_setup()
                self.assertIsNone(shown['secret_qr_code'])
                self.assertTrue(shown['secret_uri'])
                self.assertEqual(
                    rpc.confirm_setup(
                        session_id, shown,
                        code=right_code(shown['secret'], self.now)),
                    'done')

    def test_wrong(self):
        "Test that a wrong code sets up nothing and can be corrected"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        for code in ['', None, '000000x', right_code(OTHER_KEY, self.now), 5]:
            with self.subTest(code=code):
                message = WRONG_DIGITS % 6 if code == 5 else WRONG_NEW
                self.assertRefused(
                    message, rpc.confirm_setup, session_id, shown, code=code)
        self.assertIsNone(self.stored_secret(user_id))
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now)),
            'done')

    def test_replace(self):
        "Test that replacing requires a code of the current key"
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        for code in ['000000', '000000x', right_code(OTHER_KEY, self.now)]:
            with self.subTest(code=code):
                message = WAIT % '30 seconds' if code.isdecimal() \
                    and code != '000000' else WRONG
                self.assertRefused(message, rpc.start_setup, code)
        # Wrong codes also cause delays here
        self.assertRefused(
            WAIT % '30 seconds', rpc.start_setup, self.code())
        self.assertEqual(self.failures(user_id), 3)
        self.now += 30
        session_id, shown = rpc.start_setup(self.code())
        # Each code works only once
        self.assertRefused(USED, rpc.start_setup, self.code())
        code = right_code(shown['secret'], self.now)
        self.assertRefused(
            WRONG_NEW, rpc.confirm_setup, session_id, shown, code='000000')
        # The old key still works
        self.assertEqual(
            seal_set(user_id, secret_from(KEY)), self.stored_secret(user_id))
        self.assertEqual(
            rpc.confirm_setup(session_id, shown, code=code), 'done')
        self.assertEqual(self.counters(user_id), [self.now // 30])
        self.assertStaysOut(login, self.code(1))
        self.assertStaysOut(login, code)
        self.assertGetsIn(
            login, user_id, right_code(shown['secret'], self.now, 1))

    def test_replace_used(self):
        "Test that a code used for login cannot replace the authenticator"
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        self.assertGetsIn(login, user_id, self.code())
        self.assertRefused(USED, rpc.start_setup, self.code())

    def test_replace_other_period(self):
        "Test that the counter restarts with a key of another period"
        login, user_id = self.user(KEY)
        self.assertGetsIn(login, user_id, self.code(-1))
        self.set_config('session', 'authentications', 'password')
        self.set_totp('period', '60')
        rpc = self.client(login)
        session_id, shown = rpc.start_setup(self.code())
        authenticator = pyotp.parse_uri(shown['secret_uri'])
        self.assertEqual(authenticator.interval, 60)
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=authenticator.at(self.now)),
            'done')
        self.assertEqual(self.counters(user_id), [self.now // 60])
        self.assertGetsIn(login, user_id, authenticator.at(self.now + 60))

    def test_expired(self):
        "Test that a new key is valid for setup_timeout seconds"
        login, user_id = self.user()
        rpc = self.client(login)
        for timeout in [600, 60]:
            self.set_totp('setup_timeout', str(timeout))
            session_id, shown = rpc.start_setup()
            self.now += timeout
            self.assertRefused(
                EXPIRED, rpc.confirm_setup, session_id, shown,
                code=right_code(shown['secret'], self.now))
        self.assertIsNone(self.stored_secret(user_id))
        session_id, shown = rpc.start_setup()
        self.now += timeout - 1
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now)),
            'done')

    def test_dies_with_use(self):
        "Test that a new key can be confirmed only once"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        code = right_code(shown['secret'], self.now)
        rpc.confirm_setup(session_id, shown, code=code)
        self.now += 30
        rpc = self.client(login)
        self.assertRefused(
            EXPIRED, rpc.confirm_setup, session_id, shown,
            code=right_code(shown['secret'], self.now))

    def test_confirmed_by_another(self):
        "Test that a key that another request has confirmed is refused"
        login, user_id = self.user()
        with self.transaction():
            User = Pool().get('res.user')
            user = User(user_id)
            secret = user.start_totp_setup()
            pending = user.get_pending_totp_secret()
            code = right_code(secret.text, self.now)
            user.finish_totp_setup(code)
        with self.transaction():
            user = User(user_id)
            with patch.object(
                    User, 'get_pending_totp_secret', return_value=pending):
                with self.assertRaises(TOTPSetupError):
                    user.finish_totp_setup(
                        right_code(secret.text, self.now, 1))

    def test_started_again(self):
        "Test that a second start shows another key and drops the first"
        login, _ = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        _, again = rpc.start_setup()
        self.assertNotEqual(shown['secret'], again['secret'])
        self.assertFalse(shown['again'])
        self.assertTrue(again['again'])
        self.assertRefused(
            WRONG_NEW, rpc.confirm_setup, session_id, shown,
            code=right_code(shown['secret'], self.now))

    def test_chosen_by_client(self):
        "Test that no value from a client becomes the key"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        chosen = {
            'secret': KEY,
            'secret_uri': f'otpauth://totp/x?secret={KEY}',
            'account': 'x', 'issuer': 'x', 'again': False,
            'code': self.code()}
        self.assertRefused(
            WRONG_NEW, rpc.confirm_setup, session_id, shown, **chosen)
        chosen['code'] = right_code(shown['secret'], self.now)
        rpc.confirm_setup(session_id, shown, **chosen)
        self.assertStaysOut(login, self.code(1))
        self.assertGetsIn(
            login, user_id, right_code(shown['secret'], self.now, 1))

    def test_started_directly(self):
        "Test that a client cannot skip the page that asks for a code"
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        stored = self.stored_secret(user_id)
        session_id, start, _ = rpc.wizard('create')
        self.assertEqual(start, 'overview')
        for values in [
                {}, {'start': {'secret': KEY, 'code': self.code()}},
                {'overview': {'code': self.code()}}]:
            self.assertRefused(
                BLANK, rpc.wizard, 'execute', session_id, values, 'start')
            self.assertRefused(
                EXPIRED, rpc.wizard, 'execute', session_id, values, 'confirm')
            result = rpc.wizard('execute', session_id, values, 'done')
            self.assertEqual(result['view']['defaults'], {'saved': True})
        self.assertEqual(self.stored_secret(user_id), stored)
        self.assertEqual(self.failures(user_id), 0)

    def test_other_user(self):
        "Test that users cannot continue the wizard of another user"
        owner, owner_id = self.user()
        other, other_id = self.user()
        session_id, shown = self.client(owner).start_setup()
        rpc = self.client(other)
        self.assertRefused(
            ANOTHER, rpc.confirm_setup, session_id, shown,
            code=right_code(shown['secret'], self.now))
        for values in [{}, {'start': shown}]:
            for state in ['start', 'overview', 'add', 'done', 'close']:
                self.assertRefused(
                    ANOTHER, rpc.wizard, 'execute', session_id, values, state)
        self.assertRefused(ANOTHER, rpc.wizard, 'delete', session_id)
        self.assertIsNone(self.stored_secret(owner_id))
        self.assertIsNone(self.stored_secret(other_id))

    def test_menu(self):
        "Test that ordinary users find the wizard in the menu, with an icon"
        login, _ = self.user()
        rpc = self.client(login)
        menu, = rpc.model(
            'ir.ui.menu', 'search_read',
            [
                ('parent', '=', None),
                ('name', '=', "Set up TOTP (Two-Factor Login)"),
                ], 0, None, None, ['icon', 'action'])
        icons = rpc.model('ir.ui.icon', 'list_icons')
        self.assertIn(menu['icon'], [name for _, name in icons])
        self.assertTrue(menu['action'].startswith('ir.action.wizard,'))
        session_id, start, _ = rpc.call(
            'wizard.res.user.setup_totp.create', {
                'active_model': 'ir.ui.menu',
                'active_id': menu['id'],
                'active_ids': [menu['id']],
                })
        self.assertEqual(start, 'start')

    def test_menu_words(self):
        "Test that the clients find the wizard by the other words for TOTP"
        login, _ = self.user()
        rpc = self.client(login)

        def find(text):
            return [
                name for _, _, _, _, name, _ in rpc.model(
                    'ir.model', 'global_search', text, 10, 'ir.ui.menu')
                if name.startswith("Set up TOTP")]

        for text in [
                "totp", "two-factor", "Two Factor", "2FA", "2fa", "mfa",
                "authenticator", "one-time", "set up"]:
            with self.subTest(text=text):
                self.assertEqual(
                    find(text), ["Set up TOTP (Two-Factor Login)"])
        for text in ["invoice", "2fa2", "%2fa%", " / ", ["2FA"]]:
            with self.subTest(text=text):
                self.assertEqual(find(text), [])

    def test_administrator(self):
        "Test that administrators can set up their own TOTP"
        login, user_id = self.user(administrator=True)
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        self.assertGetsIn(
            login, user_id, right_code(shown['secret'], self.now, 1))

    def test_set_totp_key(self):
        "Test that server code sets a key with the current settings"
        login, user_id = self.user(KEY)
        self.assertGetsIn(login, user_id, self.code())
        with self.transaction():
            user = Pool().get('res.user')(user_id)
            for key in ['', 'short', 'A' * 24, KEY[:-1] + '1']:
                with self.subTest(key=key), self.assertRaises(ValueError):
                    user.set_totp_key(key)
            self.set_totp('digits', '8')
            user.set_totp_key(OTHER_KEY.lower())
            self.assertTrue(user.totp_enabled)
        self.assertStaysOut(login, self.code(1))
        self.assertGetsIn(
            login, user_id, pyotp.TOTP(OTHER_KEY, digits=8).at(self.now))

    def test_set_totp_key_not_by_rpc(self):
        "Test that methods that set a secret cannot be called by RPC"
        login, user_id = self.user(administrator=True)
        rpc = self.client(login)
        for method in [
                'set_totp_key', 'start_totp_setup', 'finish_totp_setup']:
            with self.subTest(method=method):
                response = rpc.post(
                    f'model.res.user.{method}', [user_id], KEY, {})
                self.assertEqual(response.status_code, 403)

    def test_no_other_road(self):
        "Test that nothing else sets, moves or removes a secret (law 2)"
        login, user_id = self.user(KEY)
        admin, admin_id = self.user(administrator=True)
        stored = self.stored_secret(user_id)
        planted = seal_set(1, secret_from(OTHER_KEY))
        for name in [login, admin]:
            rpc = self.client(name)
            for field in [
                    'totp_secret', 'totp_generation', 'totp_pending_secret',
                    'totp_pending_expire', 'totp_since', 'totp_enabled']:
                for value in [planted, None, False]:
                    with self.subTest(user=name, field=field, value=value):
                        with self.assertRaises(Refused) as context:
                            rpc.model(
                                'res.user', 'write', [user_id],
                                {field: value})
                        self.assertEqual(
                            context.exception.args[0], 'UserError')
            rpc.model(
                'res.user', 'set_preferences', {
                    'totp_secret': planted,
                    'totp_generation': 2,
                    'totp_pending_secret': planted,
                    'totp_pending_expire': None,
                    })
            with self.assertRaises(Refused):
                rpc.model('res.user', 'create', [{
                            'name': 'planted', 'login': f'planted {name}',
                            'totp_secret': planted}])
            with self.assertRaises(Refused):
                rpc.model(
                    'res.user', 'import_data', ['login', 'totp_secret'],
                    [[f'imported {name}', planted]])
        self.assertEqual(self.stored_secret(user_id), stored)
        self.assertEqual(self.stored_secret(admin_id), None)

        copy_id, = self.client(admin).model('res.user', 'copy', [user_id])
        self.assertIsNone(self.stored_secret(copy_id))
        copy_id, = self.client(admin).model(
            'res.user', 'copy', [admin_id], {'totp_secret': planted})
        self.assertIsNone(self.stored_secret(copy_id))

        with self.transaction():
            User = Pool().get('res.user')
            user = User(user_id)
            user.totp_secret = planted
            with self.assertRaises(TOTPAccessError):
                user.save()

    def test_preferences_readonly(self):
        "Test that the preferences cannot set the status"
        login, user_id = self.user()
        rpc = self.client(login)
        for field, value in [('totp_enabled', True), ('totp_since', None)]:
            with self.assertRaises(Refused) as context:
                rpc.model('res.user', 'set_preferences', {field: value})
            self.assertEqual(context.exception.args[0], 'UserError')

    def test_search_enabled(self):
        "Test the search for users with and without TOTP"
        _, with_ = self.user(KEY)
        _, without = self.user()
        with self.transaction():
            User = Pool().get('res.user')
            for clause, expected in [
                    (('totp_enabled', '=', True), {with_}),
                    (('totp_enabled', '=', False), {without}),
                    (('totp_enabled', '!=', True), {without}),
                    (('totp_enabled', '!=', False), {with_}),
                    (('totp_enabled', 'in', [True]), {with_}),
                    (('totp_enabled', 'in', [True, False]), {with_, without}),
                    (('totp_enabled', 'not in', [True]), {without}),
                    ]:
                with self.subTest(clause=clause):
                    users = User.search(
                        [clause, ('id', 'in', [with_, without])])
                    self.assertEqual({u.id for u in users}, expected)
            self.assertTrue(User(with_).totp_enabled)
            self.assertFalse(User(without).totp_enabled)

    def test_filter(self):
        "Test that administrators have a filter for users without TOTP"
        login, _ = self.user(administrator=True)
        with self.transaction():
            ModelData = Pool().get('ir.model.data')
            Domain = Pool().get('ir.action.act_window.domain')
            action = ModelData.get_id('res', 'act_user_form')
            domains = Domain.search([('act_window', '=', action)])
            self.assertEqual(
                [d.name for d in domains], [
                    "All", "Without TOTP", "Required but without TOTP",
                    "TOTP Locked"])

    def test_views(self):
        "Test that no view shows the secret"
        login, _ = self.user(administrator=True)
        rpc = self.client(login)
        view = rpc.model('res.user', 'get_preferences_fields_view')
        self.assertNotIn('totp_secret', view['fields'])
        for name in ['totp_enabled', 'totp_since']:
            self.assertTrue(view['fields'][name]['readonly'])
        self.assertFalse(view['fields']['email']['readonly'])
        with self.transaction():
            ModelData = Pool().get('ir.model.data')
            view_id = ModelData.get_id('res', 'user_view_form')
        view = rpc.model('res.user', 'fields_view_get', view_id, 'form')
        self.assertIn('totp_enabled', view['fields'])
        self.assertIn('totp_authenticators', view['fields'])
        self.assertNotIn('totp_secret', view['fields'])

    def test_logs(self):
        "Test that the log at INFO or above contains neither key nor code"
        login, user_id = self.user()
        with self.assertLogs(level=logging.INFO) as logs:
            rpc = self.client(login)
            session_id, shown = rpc.start_setup()
            code = right_code(shown['secret'], self.now)
            with self.assertRaises(Refused):
                rpc.confirm_setup(session_id, shown, code='123456')
            rpc.confirm_setup(session_id, shown, code=code)
            self.assertStaysOut(login, code)
            next_code = right_code(shown['secret'], self.now, 1)
            self.assertGetsIn(login, user_id, next_code)
        output = '\n'.join(logs.output)
        self.assertIn('res.user.setup_totp.execute', output)
        for text in [
                shown['secret'], shown['secret'].replace(' ', ''),
                code, next_code, '123456']:
            self.assertNotIn(text, output)

    def test_wizard_session(self):
        "Test that the database stores no data of the wizard"
        for key, code in [(None, None), (KEY, self.code())]:
            login, user_id = self.user(key)
            rpc = self.client(login)
            session_id, shown = rpc.start_setup(code)
            values = {'start': {**shown, 'code': '123456'}}
            if key:
                values['overview'] = {'code': code}
                rpc.wizard('execute', session_id, values, 'overview')
            else:
                rpc.wizard('execute', session_id, values, 'start')
            with self.transaction():
                table = Pool().get('ir.session.wizard').__table__()
            (data,), = self.sql(
                table.select(table.data, where=table.id == session_id))
            for text in [
                    shown['secret'], shown['secret'].replace(' ', ''),
                    '123456', 'otpauth', 'PNG', code or '123456']:
                self.assertNotIn(text, data)

    def test_consumed_by_another(self):
        "Test that a checked code is refused if another request uses it first"
        login, user_id = self.user(KEY)
        with self.transaction():
            Counter = Pool().get('res.user.totp_counter')
            match = Counter.verify(user_id, self.code())
        with self.transaction():
            Counter.consume(match)
        for steps in [0, -1]:
            with self.transaction():
                with self.assertRaises(backend.DatabaseOperationalError):
                    Counter.consume(match._replace(
                            state=match.state._replace(
                                counter=match.state.counter + steps)))

    def test_replaced_by_another(self):
        "Test that a code is refused if its key is replaced before it is used"
        login, user_id = self.user(KEY)
        for period in ['15', '30', '60']:
            with self.subTest(period=period):
                with self.transaction():
                    user = Pool().get('res.user')(user_id)
                    user.set_totp_key(KEY)
                    Counter = Pool().get('res.user.totp_counter')
                    match = Counter.verify(
                        user_id, pyotp.TOTP(
                            KEY, interval=settings.get('period')
                            ).at(self.now))
                self.set_totp('period', period)
                with self.transaction():
                    user = Pool().get('res.user')(user_id)
                    with patch.object(user.__class__, 'verify_totp_code'):
                        secret = user.start_totp_setup(replaces=True)
                    authenticator = pyotp.TOTP(
                        secret.text.replace(' ', ''), interval=int(period))
                    user.finish_totp_setup(authenticator.at(self.now))
                with self.transaction():
                    with self.assertRaises(backend.DatabaseOperationalError):
                        Counter.consume(match)
                self.assertGetsIn(
                    login, user_id,
                    authenticator.at(self.now + int(period)))

    def test_late_login(self):
        "Test that an unfinished login from before set_totp_key has no effect"
        login, user_id = self.user(KEY)
        with self.transaction():
            Counter = Pool().get('res.user.totp_counter')
            match = Counter.verify(user_id, self.code())
        self.set_totp('period', '60')
        with self.transaction():
            Pool().get('res.user')(user_id).set_totp_key(OTHER_KEY)
        with self.transaction():
            with self.assertRaises(backend.DatabaseOperationalError):
                Counter.consume(match)
        self.assertGetsIn(
            login, user_id, pyotp.TOTP(OTHER_KEY, interval=60).at(self.now))
