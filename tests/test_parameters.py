# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

import pyotp

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.pyson import PYSONDecoder, PYSONEncoder

from .tools import KEY, PASSWORD, RPC, TOTPTestCase, right_code

# The settings that differ, and the text about them
PARAMETERS = [
    ({}, ""),
    ({'algorithm': 'sha256'}, "algorithm SHA-256"),
    ({'algorithm': 'sha512'}, "algorithm SHA-512"),
    ({'digits': '8'}, "8 digits"),
    ({'period': '60'}, "a new code every 60 seconds"),
    ({'period': '15'}, "a new code every 15 seconds"),
    ({'digits': '8', 'period': '60'},
        "8 digits, a new code every 60 seconds"),
    ({'algorithm': 'sha256', 'digits': '8', 'period': '60'},
        "algorithm SHA-256, 8 digits, a new code every 60 seconds"),
    ]
NAMES = ["algorithm", "digits,", "8 digits", "a new code every"]


class ParametersTestCase(TOTPTestCase):
    "Test that users who type the key are told what else to enter"

    def set_parameters(self, parameters):
        for option, value in {
                'algorithm': 'sha1', 'digits': '6', 'period': '30',
                **parameters}.items():
            self.set_totp(option, value)

    def test_wizard(self):
        "Test the wizard"
        for parameters, text in PARAMETERS:
            with self.subTest(**parameters):
                self.set_parameters(parameters)
                login, _ = self.user()
                rpc = self.client(login)
                session_id, shown = rpc.start_setup()
                self.assertEqual(shown.get('parameters') or "", text)
                # An authenticator with these parameters makes a right code
                authenticator = pyotp.TOTP(
                    shown['secret'].replace(' ', ''),
                    digits=int(parameters.get('digits', 6)),
                    digest=parameters.get('algorithm', 'sha1'),
                    interval=int(parameters.get('period', 30)))
                self.assertEqual(
                    rpc.confirm_setup(
                        session_id, shown, code=authenticator.at(self.now)),
                    'done')

    def test_dialog(self):
        "Test the login dialog"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        for parameters, text in PARAMETERS:
            with self.subTest(**parameters):
                self.set_parameters(parameters)
                login, _ = self.user()
                answer = RPC().post(
                    'common.db.login', login, {'password': PASSWORD},
                    'en').json
                message = answer['error'][1][1]
                self.assertIn("time-based", message)
                self.assertIn(text, message)
                if not text:
                    for name in NAMES:
                        self.assertNotIn(name, message)

    def test_view(self):
        "Test that the view shows the field, unless it is empty"
        login, _ = self.user()
        rpc = self.client(login)
        session_id, start, _ = rpc.wizard('create')
        view = rpc.wizard('execute', session_id, {}, start)['view']
        self.assertIn('name="parameters"', view['fields_view']['arch'])
        definition = view['fields_view']['fields']['parameters']
        self.assertEqual(definition['type'], 'char')
        self.assertTrue(definition['readonly'])
        with self.transaction():
            Start = Pool().get('res.user.setup_totp.start')
            invisible = PYSONEncoder().encode(
                Start.parameters.states['invisible'])
        for value, expected in [
                (None, True), ("", True), ("8 digits", False)]:
            self.assertEqual(
                PYSONDecoder({'parameters': value}).decode(invisible),
                expected)

    def test_sent_back(self):
        "Test that the text changes nothing when a client sends it back"
        login, user_id = self.user()
        rpc = self.client(login)
        session_id, shown = rpc.start_setup()
        shown['parameters'] = "algorithm SHA-512, 8 digits"
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=right_code(shown['secret'], self.now)),
            'done')
        self.now += 30
        self.assertEqual(
            RPC().login(
                login, password=PASSWORD,
                totp_code=right_code(shown['secret'], self.now)),
            user_id)

    def test_help(self):
        "Test that the help of the key makes no promise about spaces"
        with self.transaction():
            Start = Pool().get('res.user.setup_totp.start')
            self.assertNotIn("not matter", Start.secret.help)
            self.assertIn("spaces", Start.secret.help)
            self.assertIn("refused", Start.secret.help)

    def test_qr_code(self):
        "Test that key and URI are shown if the URI is too long for a QR code"
        uri = totp.Secret.uri

        def long_uri(*args, **kwargs):
            return uri(*args, **kwargs) + '&image=' + 'x' * 4000
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        with patch.object(totp.Secret, 'uri', long_uri):
            session_id, shown = rpc.start_setup(self.code())
        self.assertIsNone(shown['secret_qr_code'])
        key = shown['secret'].replace(' ', '')
        self.assertEqual(pyotp.parse_uri(shown['secret_uri']).secret, key)
        self.assertEqual(
            rpc.confirm_setup(
                session_id, shown, code=right_code(key, self.now)),
            'done')
