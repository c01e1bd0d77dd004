# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import unittest
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
from hypothesis import given
from hypothesis import strategies as st

from trytond.modules.authentication_totp import totp
from trytond.pool import Pool

from .tools import KEY, PASSWORD, RPC, TOTPTestCase, secret_from

# A name, and the name that an authenticator shows
NAMES = {
    'ACME & S\xf6hne GmbH': 'ACME \uff06 S\xf6hne GmbH',
    'Who? Ltd': 'Who\uff1f Ltd',
    'C# GmbH': 'C\uff03 GmbH',
    '100% Bio': '100\uff05 Bio',
    '100%25 Bio': '100\uff0525 Bio',
    'A%26B': 'A\uff0526B',
    'Tryton: test': 'Tryton test',
    'a&secret=AAAA#b?c%d:e': 'a\uff06secret=AAAA\uff03b\uff1fc\uff05d e',
    'M\xfcller / S\xf6hne': 'M\xfcller / S\xf6hne',
    'alice@example.com': 'alice@example.com',
    "O'Brien": "O'Brien",
    '\u0627\u0644\u0634\u0631\u0643\u0629': '\u0627\u0644\u0634\u0631\u0643'
    '\u0629',
    '\U0001f511': '\U0001f511',
    }


def read(uri):
    "Read the URI as the specification says"
    parts = urlsplit(uri)
    query = {
        name: value for name, (value,) in parse_qs(
            parts.query, strict_parsing=True).items()}
    return unquote(parts.path[1:]), query


def read_whole(uri):
    "Read the URI like authenticators that decode it before they split it"
    return read(unquote(uri))


def read_twice(uri):
    "Read the URI like authenticators that decode each part twice"
    label, query = read(uri)
    return unquote(label), {
        name: unquote(value) for name, value in query.items()}


def read_whole_twice(uri):
    return read(unquote(unquote(uri)))


READERS = [read, read_whole, read_twice, read_whole_twice]


class NamesTestCase(unittest.TestCase):
    "Test that all authenticators read the same names in the URI"

    def assertRead(self, uri, account, issuer, **expected):
        authenticator = pyotp.parse_uri(uri)
        self.assertEqual(authenticator.secret, KEY)
        self.assertEqual(authenticator.issuer, issuer or None)
        self.assertEqual(authenticator.name, account)
        label = f'{issuer}:{account}' if issuer else account
        for reader in READERS:
            with self.subTest(reader=reader.__name__, uri=uri):
                read_label, query = reader(uri)
                # A plus is a space to readers that decode too early
                self.assertEqual(
                    read_label.replace('+', ' '), label.replace('+', ' '))
                self.assertEqual(query.pop('secret'), KEY)
                self.assertEqual(
                    query.pop('issuer', '').replace('+', ' '),
                    issuer.replace('+', ' '))
                self.assertEqual(query, expected)

    def test_names(self):
        "Test names that authenticators garble"
        for name, shown in NAMES.items():
            with self.subTest(name):
                self.assertEqual(totp.display_name(name), shown)
                self.assertEqual(totp.display_name(shown), shown)
                self.assertRead(
                    secret_from(KEY).uri(shown, shown), shown, shown)

    def test_parameters(self):
        "Test that the parameters after the names are read"
        secret = totp.Secret.from_key(KEY, 'sha256', 8, 60)
        for name in NAMES:
            name = totp.display_name(name)
            self.assertRead(
                secret.uri(name, name), name, name, algorithm='SHA256',
                digits='8', period='60')

    @given(st.text(st.characters(codec='utf-8')), st.text(
            st.sampled_from('aZ0 :&?#%+/=;@\\"\'<>[]{}|^~\u00e9\u4e2d\n\t')))
    def test_any(self, any_name, hard_name):
        "Test any names"
        names = [any_name, hard_name]
        for account in names:
            for issuer in names:
                account = totp.display_name(account)
                issuer = totp.display_name(issuer)
                for name in [account, issuer]:
                    self.assertFalse(set(name) & set(':&?#%'))
                    self.assertLessEqual(len(name), 64)
                    self.assertEqual(name, ' '.join(name.split()))
                if account and issuer:
                    self.assertRead(
                        secret_from(KEY).uri(account, issuer), account,
                        issuer)

    @given(st.text())
    def test_stable(self, name):
        "Test that a displayed name does not change if it is displayed again"
        shown = totp.display_name(name)
        self.assertEqual(totp.display_name(shown), shown)

    def test_no_account(self):
        "Test an account whose name has no characters left"
        for reader in READERS:
            label, query = reader(secret_from(KEY).uri('', 'Tryton'))
            issuer, _, account = label.partition(':')
            self.assertEqual(issuer, 'Tryton')
            self.assertTrue(account)
            self.assertEqual(query, {'secret': KEY, 'issuer': 'Tryton'})


class NamesInWizardTestCase(TOTPTestCase):
    "Test the names in the wizard and the login dialog"

    def test_wizard(self):
        "Test that the wizard shows the names as the authenticator does"
        for name, shown in NAMES.items():
            with self.subTest(name):
                self.set_totp('issuer', name.replace('{', '{{'))
                _, user_id = self.user()
                # A JSON-RPC session does not support a colon in the login
                login = f'{name} {user_id}'.replace(':', '')
                with self.transaction():
                    User = Pool().get('res.user')
                    User.write([User(user_id)], {'login': login})
                _, start = self.client(login).start_setup()
                self.assertEqual(start['issuer'], shown)
                account = totp.display_name(login)
                self.assertEqual(start['account'], account)
                for reader in READERS:
                    label, query = reader(start['secret_uri'])
                    self.assertEqual(label, f'{shown}:{account}')
                    self.assertEqual(query, {
                            'secret': start['secret'].replace(' ', ''),
                            'issuer': shown})

    def test_dialog(self):
        "Test that the login dialog shows the account as the wizard does"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        _, user_id = self.user()
        login = f'a&b?c#d%e:f {user_id}'
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(user_id)], {'login': login})
        answer = RPC().post(
            'common.db.login', login, {'password': PASSWORD}, 'en').json
        self.assertIn(
            f'a\uff06b\uff1fc\uff03d\uff05e f {user_id}',
            answer['error'][1][1])
