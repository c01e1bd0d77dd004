# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import csv
import os
import subprocess
import sys
import unittest
from pathlib import Path

import pyotp

from trytond.modules.authentication_totp import totp

from .tools import KEY, right_code, set_config


def vectors(name):
    with open(Path(__file__).with_name(name), newline='') as file:
        yield from csv.DictReader(file)


class SecretTestCase(unittest.TestCase):
    "Test the one-time password without database"

    def set(self, option, value):
        self.addCleanup(set_config('authentication_totp', option, value))

    def secret(self, vector):
        self.set('algorithm', vector['algorithm'])
        self.set('digits', vector['digits'])
        return totp.Secret.from_key(vector['key_base32'])

    def test_rfc6238(self):
        "Test the vectors of RFC 6238 appendix B"
        self.set('tolerance', '0')
        count = 0
        for vector in vectors('rfc6238.csv'):
            with self.subTest(**vector):
                secret = self.secret(vector)
                self.assertEqual(secret.period, int(vector['period_s']))
                self.assertEqual(
                    secret.match(vector['code'], int(vector['time_s'])),
                    int(vector['counter']))
                count += 1
        self.assertEqual(count, 18)

    def test_rfc4226(self):
        "Test the vectors of RFC 4226 appendix D"
        self.set('tolerance', '0')
        count = 0
        for vector in vectors('rfc4226.csv'):
            with self.subTest(**vector):
                secret = self.secret(vector)
                counter = int(vector['counter'])
                self.assertEqual(
                    secret.match(vector['code'], counter * secret.period),
                    counter)
                count += 1
        self.assertEqual(count, 10)

    def test_tolerance(self):
        "Test that codes count within the tolerance and not beyond"
        now = 2_000_000_000
        for tolerance in [0, 1, 2, 10]:
            self.set('tolerance', str(tolerance))
            secret = totp.Secret.from_key(KEY)
            for steps in range(-12, 13):
                with self.subTest(tolerance=tolerance, steps=steps):
                    self.assertEqual(
                        secret.match(right_code(KEY, now, steps), now),
                        now // 30 + steps if abs(steps) <= tolerance
                        else None)

    def test_time_step(self):
        "Test that a code counts from the first second of a step to the last"
        self.set('tolerance', '0')
        secret = totp.Secret.from_key(KEY)
        code = right_code(KEY, 600)
        for time, counter in [
                (599.99, None), (600, 20), (629.99, 20), (630, None)]:
            with self.subTest(time=time):
                self.assertEqual(secret.match(code, time), counter)

    def test_parameters(self):
        "Test that pyotp agrees for every algorithm, length and period"
        for algorithm in ['sha1', 'sha256', 'sha512']:
            for digits in ['6', '8']:
                for period in ['15', '30', '60', '120']:
                    with self.subTest(
                            algorithm=algorithm, digits=digits, period=period):
                        self.set('algorithm', algorithm)
                        self.set('digits', digits)
                        self.set('period', period)
                        secret = totp.Secret.new()
                        other = pyotp.parse_uri(secret.uri('login', 'Tryton'))
                        time = 2_000_000_000
                        self.assertEqual(
                            secret.match(other.at(time), time),
                            time // int(period))

    def test_stored(self):
        "Test that a stored secret keeps its parameters"
        secret = totp.Secret.new()
        stored = secret.dump(1)
        for option, value in [
                ('algorithm', 'sha512'), ('digits', '8'), ('period', '60')]:
            self.set(option, value)
        self.assertEqual(totp.Secret.load(stored, 1), secret)
        self.assertNotEqual(totp.Secret.new().digits, secret.digits)

    def test_stored_unreadable(self):
        "Test that what is no stored secret raises an error without it"
        for stored in ['', 'x', '[]', '{}', '{"key": 1}', '{"key": "A"}']:
            with self.subTest(stored=stored):
                with self.assertRaises(ValueError) as context:
                    totp.Secret.load(stored, 1)
                self.assertEqual(str(context.exception), "not a stored secret")

    def test_key_length(self):
        "Test the length of new keys"
        for algorithm, key_length, length in [
                ('sha1', '160', 20),
                ('sha1', '128', 20),
                ('sha1', '163', 21),
                ('sha256', '160', 32),
                ('sha512', '160', 64),
                ('sha512', '1024', 128),
                ]:
            with self.subTest(algorithm=algorithm, key_length=key_length):
                self.set('algorithm', algorithm)
                self.set('key_length', key_length)
                self.assertEqual(len(totp.Secret.new().key), length)

    def test_new_differs(self):
        "Test that no two new keys are the same"
        keys = {totp.Secret.new().key for _ in range(100)}
        self.assertEqual(len(keys), 100)

    def test_from_key(self):
        "Test that a key can be typed in any form"
        expected = totp.Secret.from_key(KEY)
        for key in [
                KEY.lower(), ' '.join(KEY), '-'.join(KEY), KEY + '======']:
            with self.subTest(key=key):
                self.assertEqual(totp.Secret.from_key(key), expected)

    def test_from_key_refused(self):
        "Test that a key which is no base32 or too short is refused"
        for key in ['', 'A' * 24, '1' * 32, 'é' * 32, 'A' * 31 + '!']:
            with self.subTest(key=key):
                with self.assertRaises(ValueError) as context:
                    totp.Secret.from_key(key)
                if key:
                    self.assertNotIn(key, str(context.exception))

    def test_hidden(self):
        "Test that a secret shows its key only as text, URI and when stored"
        secret = totp.Secret.from_key(KEY)
        for shown in [repr(secret), str(secret), f'{secret}']:
            self.assertNotIn(KEY, shown)
            self.assertNotIn('1234567890', shown)

    def test_text(self):
        "Test the key as a person types it"
        self.assertEqual(
            totp.Secret.from_key(KEY).text,
            'GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ')

    def test_uri(self):
        "Test that an authenticator shows the names"
        secret = totp.Secret.from_key(KEY)
        for login, name in [
                ('john', 'john'),
                ('john@example.com', 'john@example.com'),
                ('DOMAIN/john', 'DOMAIN/john'),
                ('John Doe', 'John Doe'),
                ('Zoë Åström 王', 'Zoë Åström 王'),
                ('a&b=c?d#e%20+', 'a&b=c?d#e%20+'),
                ('company:john', 'company john'),
                ('a: b', 'a b'),
                (':', '?'),
                ('tab\tline\n', 'tab line'),
                ('x' * 1000, 'x' * 64),
                ]:
            for service, issuer in [
                    ('Tryton', 'Tryton'),
                    ('Müller & Söhne: ERP', 'Müller & Söhne ERP'),
                    ('', None),
                    ]:
                with self.subTest(login=login, service=service):
                    self.set('issuer', service)
                    uri = secret.uri(
                        totp.account(login), totp.issuer('', ''))
                    other = pyotp.parse_uri(uri)
                    self.assertEqual(other.name, name)
                    self.assertEqual(other.issuer, issuer)
                    self.assertEqual(other.secret, KEY)
                    self.assertTrue(uri.isascii())

    def test_issuer(self):
        "Test what the issuer may contain"
        for value, issuer in [
                ('{database}', 'demo'),
                ('{company} ({database})', 'ACME (demo)'),
                ('ERP {{x}}', 'ERP {x}'),
                ]:
            with self.subTest(value=value):
                self.set('issuer', value)
                self.assertEqual(totp.issuer('demo', 'ACME'), issuer)

    def test_image(self):
        "Test the logo"
        self.set('image', 'https://example.com/a logo.png?x=1&y=2')
        uri = totp.Secret.from_key(KEY).uri('john', 'Tryton')
        self.assertEqual(
            uri.partition('&image=')[2],
            'https%3A%2F%2Fexample.com%2Fa%20logo.png%3Fx%3D1%26y%3D2')

    def test_settings(self):
        "Test the default of each setting"
        self.assertEqual(
            {name: totp.setting(name) for name in totp._SETTINGS}, {
                'issuer': 'Tryton',
                'image': '',
                'algorithm': 'sha1',
                'digits': 6,
                'period': 30,
                'tolerance': 1,
                'key_length': 160,
                'encryption_keys': (),
                'recovery_codes': 10,
                'max_failures': 100,
                'setup_timeout': 600,
                'event_retention': 365,
                })
        totp.check_settings()

    def test_settings_refused(self):
        "Test that a setting out of range is refused by its name"
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
                ('recovery_codes', '-1'),
                ('recovery_codes', '51'),
                ('max_failures', '2'),
                ('max_failures', '101'),
                ('encryption_keys', '/no/such/file'),
                ('encryption_keys', os.path.dirname(__file__)),
                ('encryption_keys', os.devnull),
                ('encryption_keys', __file__),
                ('setup_timeout', '0'),
                ('setup_timeout', '86401'),
                ('event_retention', '0'),
                ('event_retention', '3651'),
                ]:
            with self.subTest(option=option, value=value):
                restore = set_config('authentication_totp', option, value)
                try:
                    with self.assertRaises(totp.SettingError) as context:
                        totp.check_settings()
                finally:
                    restore()
                message = str(context.exception)
                self.assertEqual(len(message.splitlines()), 1)
                self.assertIn('[authentication_totp]', message)
                self.assertIn(option, message)
                self.assertIn(value, message)
                self.assertIn('must be', message)

    def test_start_up(self):
        "Test that a setting out of range stops a command with one line"
        run = subprocess.run(
            [sys.executable, '-c',
                'from trytond.pool import Pool; Pool.start()'],
            env={**os.environ, 'TRYTOND_AUTHENTICATION_TOTP__PERIOD': '7'},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(run.stdout, '')
        self.assertEqual(
            run.stderr.splitlines()[-1],
            "[authentication_totp] period = '7': "
            "must be a whole number of seconds from 15 to 120")
        self.assertNotIn('Traceback', run.stderr)
