# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import os
import subprocess
import sys
import unittest
from unittest.mock import patch

from trytond.modules.authentication_totp import notice, settings

from .tools import set_config


class SettingsTestCase(unittest.TestCase):
    "Test the section of the configuration, without database"

    def set(self, option, value):
        self.addCleanup(set_config('authentication_totp', option, value))

    def test_defaults(self):
        "Test the default of each setting"
        self.assertEqual(
            {name: settings.get(name) for name in settings._SETTINGS}, {
                'issuer': 'Tryton {database}',
                'image': '',
                'algorithm': 'sha1',
                'digits': 6,
                'period': 30,
                'tolerance': 1,
                'key_length': 160,
                'encryption_keys': (),
                'max_authenticators': 5,
                'recovery_codes': 10,
                'max_failures': 100,
                'setup_timeout': 600,
                'device_days': 30,
                'event_retention': 365,
                })
        settings.check()

    def test_refused(self):
        "Test that a setting out of range is refused with its name"
        for option, value in [
                ('issuer', '{login}'),
                ('issuer', '{database.name}'),
                ('issuer', '{database!r}'),
                ('issuer', '{}'),
                ('issuer', '{database'),
                ('image', 'http://example.com/logo.png'),
                ('image', 'https://'),
                ('image', 'https://[example'),
                ('image', 'logo.png'),
                ('image', 'https://example.com/' + 'x' * 256),
                ('image', 'https://example.com/' + '\u00e9' * 236),
                ('image', 'https://m\u00fcller.example.com/logo.png'),
                ('image', 'https://example.com/my logo.png'),
                ('algorithm', 'md5'),
                ('algorithm', ''),
                ('digits', '7'),
                ('digits', '10'),
                ('digits', 'six'),
                ('period', '14'),
                ('period', '121'),
                ('period', '30.0'),
                ('period', '-30'),
                ('period', '3_0'),
                ('period', '３０'),
                ('tolerance', '11'),
                ('tolerance', '-1'),
                ('tolerance', ''),
                ('key_length', '127'),
                ('key_length', '1025'),
                ('max_authenticators', '0'),
                ('max_authenticators', '11'),
                ('max_authenticators', ''),
                ('recovery_codes', '-1'),
                ('recovery_codes', '26'),
                ('max_failures', '2'),
                ('max_failures', '101'),
                ('encryption_keys', '/no/such/file'),
                ('encryption_keys', os.path.dirname(__file__)),
                ('encryption_keys', os.devnull),
                ('encryption_keys', __file__),
                ('setup_timeout', '0'),
                ('setup_timeout', '86401'),
                ('device_days', '0'),
                ('device_days', '366'),
                ('event_retention', '0'),
                ('event_retention', '3651'),
                ]:
            with self.subTest(option=option, value=value):
                restore = set_config('authentication_totp', option, value)
                try:
                    with self.assertRaises(settings.SettingError) as context:
                        settings.check()
                finally:
                    restore()
                message = str(context.exception)
                self.assertEqual(len(message.splitlines()), 1)
                self.assertIn('[authentication_totp]', message)
                self.assertIn(option, message)
                self.assertIn(value, message)
                self.assertIn('must be', message)

    def test_issuer(self):
        "Test what the issuer may contain"
        for value, issuer in [
                ('Tryton {database}', 'Tryton demo'),
                ('{database}', 'demo'),
                ('{company} ({database})', 'ACME (demo)'),
                ('ERP {{x}}', 'ERP {x}'),
                ('Müller & Söhne: ERP', 'Müller \uff06 Söhne ERP'),
                ('', ''),
                ]:
            with self.subTest(value=value):
                self.set('issuer', value)
                self.assertEqual(settings.issuer('demo', 'ACME'), issuer)

    def test_parameters(self):
        "Test the parameters of a new secret"
        self.assertEqual(
            settings.parameters(),
            {'algorithm': 'sha1', 'digits': 6, 'period': 30})
        for option, value in [
                ('algorithm', 'sha512'), ('digits', '8'), ('period', '60')]:
            self.set(option, value)
        self.assertEqual(
            settings.parameters(),
            {'algorithm': 'sha512', 'digits': 8, 'period': 60})

    def test_unusual(self):
        "Test that the log names settings that authenticators may ignore"
        self.set('encryption_keys', 'somewhere')
        for values, words in [
                ({}, None),
                ({'algorithm': 'sha1', 'digits': '6', 'period': ' 30 '}, None),
                ({'digits': '8'}, "digits = 8: "),
                ({'algorithm': 'sha256', 'digits': '8', 'period': '60'},
                    "algorithm = sha256, digits = 8, period = 60: "),
                ]:
            with self.subTest(values=values):
                for option, value in values.items():
                    self.set(option, value)
                with patch.object(notice, '_told', set()):
                    if not words:
                        with self.assertNoLogs(settings.logger):
                            settings.tell()
                        continue
                    with self.assertLogs(settings.logger, 'ERROR') as logs:
                        settings.tell()
                        settings.tell()
                line, = logs.output
                self.assertIn(f"[authentication_totp] {words}", line)

    def test_start_up(self):
        "Test that a setting out of range stops a command with one line"
        run = subprocess.run(
            [sys.executable, '-c',
                'from trytond.pool import Pool; Pool.start()'],
            env={**os.environ, 'TRYTOND_AUTHENTICATION_TOTP__PERIOD': '7'},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        # Gunicorn stops only for this exit code
        self.assertEqual(run.returncode, 3)
        self.assertEqual(run.stdout, '')
        self.assertEqual(
            run.stderr.splitlines()[-1],
            "[authentication_totp] period = '7': "
            "must be a whole number of seconds from 15 to 120")
        self.assertNotIn('Traceback', run.stderr)
