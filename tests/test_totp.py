# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import csv
import json
import unittest
from pathlib import Path

import pyotp

from trytond.modules.authentication_totp import totp

from .tools import KEY, right_code


PARAMETERS = {'algorithm': 'sha1', 'digits': 6, 'period': 30}


def secret_from(key, **parameters):
    return totp.Secret.from_key(key, **{**PARAMETERS, **parameters})


def vectors(name):
    with open(Path(__file__).with_name(name), newline='') as file:
        yield from csv.DictReader(file)


class SecretTestCase(unittest.TestCase):
    "Test the one-time password without database"

    def secret(self, vector):
        # RFC 4226 knows one algorithm and no period
        return secret_from(
            vector['key_base32'], algorithm=vector['algorithm'],
            digits=int(vector['digits']),
            period=int(vector.get('period_s', 30)))

    def test_rfc6238(self):
        "Test the vectors of RFC 6238 appendix B"
        count = 0
        for vector in vectors('rfc6238.csv'):
            with self.subTest(**vector):
                secret = self.secret(vector)
                self.assertEqual(
                    secret.match(vector['code'], int(vector['time_s']), 0),
                    int(vector['counter']))
                count += 1
        self.assertEqual(count, 18)

    def test_rfc4226(self):
        "Test the vectors of RFC 4226 appendix D"
        count = 0
        for vector in vectors('rfc4226.csv'):
            with self.subTest(**vector):
                secret = self.secret(vector)
                counter = int(vector['counter'])
                self.assertEqual(
                    secret.match(
                        vector['code'], counter * secret.period, 0),
                    counter)
                count += 1
        self.assertEqual(count, 10)

    def test_tolerance(self):
        "Test that codes are right within the tolerance and not beyond"
        now = 2_000_000_000
        secret = secret_from(KEY)
        for tolerance in [0, 1, 2, 10]:
            for steps in range(-12, 13):
                with self.subTest(tolerance=tolerance, steps=steps):
                    self.assertEqual(
                        secret.match(
                            right_code(KEY, now, steps), now, tolerance),
                        now // 30 + steps if abs(steps) <= tolerance
                        else None)

    def test_time_step(self):
        "Test that a code is right from the first second of a step to the last"
        secret = secret_from(KEY)
        code = right_code(KEY, 600)
        for time, counter in [
                (599.99, None), (600, 20), (629.99, 20), (630, None)]:
            with self.subTest(time=time):
                self.assertEqual(secret.match(code, time, 0), counter)

    def test_parameters(self):
        "Test that pyotp agrees for every algorithm, length and period"
        for algorithm in ['sha1', 'sha256', 'sha512']:
            for digits in [6, 8]:
                for period in [15, 30, 60, 120]:
                    with self.subTest(
                            algorithm=algorithm, digits=digits, period=period):
                        secret = totp.Secret.new(
                            160, algorithm, digits, period)
                        other = pyotp.parse_uri(secret.uri('login', 'Tryton'))
                        time = 2_000_000_000
                        self.assertEqual(
                            secret.match(other.at(time), time, 1),
                            time // period)
                        self.assertEqual(
                            secret.counter(time), time // period)

    def test_values(self):
        "Test that the values of a secret keep its parameters"
        for parameters in [
                PARAMETERS,
                {'algorithm': 'sha512', 'digits': 8, 'period': 60}]:
            with self.subTest(**parameters):
                secret = totp.Secret.new(160, **parameters)
                values = json.loads(json.dumps(secret.values))
                self.assertEqual(values, {**values, **parameters})
                self.assertEqual(totp.Secret.from_values(values), secret)

    def test_values_refused(self):
        "Test that invalid values raise an error that does not show them"
        valid = secret_from(KEY).values
        for values in [
                '', 'x', [], None, 5, {}, {'key': 1}, {'key': 'A'},
                {'key': KEY},
                *({**valid, name: value} for name, value in [
                        ('key', 'A'), ('key', 5), ('key', KEY[:24]),
                        ('algorithm', 'md5'), ('algorithm', None),
                        ('algorithm', []), ('digits', 7), ('digits', '6'),
                        ('digits', 6.0), ('period', 14), ('period', 121),
                        ('period', '30'), ('period', 30.0),
                        ])]:
            with self.subTest(values=values):
                with self.assertRaises(ValueError) as context:
                    totp.Secret.from_values(values)
                self.assertEqual(
                    str(context.exception), "not the values of a secret")

    def test_key_length(self):
        "Test the length of new keys"
        for algorithm, key_length, length in [
                ('sha1', 160, 20),
                ('sha1', 128, 20),
                ('sha1', 163, 21),
                ('sha256', 160, 32),
                ('sha512', 160, 64),
                ('sha512', 1024, 128),
                ]:
            with self.subTest(algorithm=algorithm, key_length=key_length):
                secret = totp.Secret.new(key_length, algorithm, 6, 30)
                self.assertEqual(len(secret.key), length)

    def test_new_differs(self):
        "Test that no two new keys are the same"
        keys = {
            totp.Secret.new(160, **PARAMETERS).key for _ in range(100)}
        self.assertEqual(len(keys), 100)

    def test_from_key(self):
        "Test the forms in which a key can be typed"
        expected = secret_from(KEY)
        for key in [
                KEY.lower(), ' '.join(KEY), '-'.join(KEY), KEY + '======']:
            with self.subTest(key=key):
                self.assertEqual(secret_from(key), expected)

    def test_from_key_refused(self):
        "Test that a key that is not base32 or too short is refused"
        for key in ['', 'A' * 24, '1' * 32, 'é' * 32, 'A' * 31 + '!']:
            with self.subTest(key=key):
                with self.assertRaises(ValueError) as context:
                    secret_from(key)
                if key:
                    self.assertNotIn(key, str(context.exception))

    def test_hidden(self):
        "Test that a secret shows its key only as text, URI and values"
        secret = secret_from(KEY)
        for shown in [repr(secret), str(secret), f'{secret}']:
            self.assertNotIn(KEY, shown)
            self.assertNotIn('1234567890', shown)

    def test_text(self):
        "Test the key as a person types it"
        self.assertEqual(
            secret_from(KEY).text,
            'GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ')

    def test_uri(self):
        "Test that an authenticator shows the names"
        secret = secret_from(KEY)
        for login, name in [
                ('john', 'john'),
                ('john@example.com', 'john@example.com'),
                ('DOMAIN/john', 'DOMAIN/john'),
                ('John Doe', 'John Doe'),
                ('Zoë Åström 王', 'Zoë Åström 王'),
                ('a&b=c?d#e%20+', 'a\uff06b=c\uff1fd\uff03e\uff0520+'),
                ('company:john', 'company john'),
                ('a: b', 'a b'),
                (':', '\uff1f'),
                ('tab\tline\n', 'tab line'),
                ('x' * 1000, 'x' * 64),
                ]:
            for service, issuer in [
                    ('Tryton', 'Tryton'),
                    ('Müller & Söhne: ERP', 'Müller \uff06 Söhne ERP'),
                    ('', None),
                    ]:
                with self.subTest(login=login, service=service):
                    uri = secret.uri(
                        totp.display_name(login), totp.display_name(service))
                    other = pyotp.parse_uri(uri)
                    self.assertEqual(other.name, name)
                    self.assertEqual(other.issuer, issuer)
                    self.assertEqual(other.secret, KEY)
                    self.assertTrue(uri.isascii())

    def test_image(self):
        "Test the logo"
        uri = secret_from(KEY).uri(
            'john', 'Tryton',
            image='https://example.com/a logo.png?x=1&y=2')
        self.assertEqual(
            uri.partition('&image=')[2],
            'https%3A%2F%2Fexample.com%2Fa%20logo.png%3Fx%3D1%26y%3D2')
