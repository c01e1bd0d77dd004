# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import json
import os
import subprocess
import sys
from unittest.mock import patch

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from trytond.model import ModelSQL
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool

from .tools import (
    KEY, OTHER_KEY, PASSWORD, RPC, WRONG, Refused, TOTPTestCase, right_code)

START = 'from trytond.pool import Pool; Pool.start()'


class SealingTestCase(TOTPTestCase):
    "Test the encryption at rest (law 4)"

    def setUp(self):
        super().setUp()
        self.key1, self.key2 = [
            Fernet.generate_key().decode() for _ in range(2)]

    def log_in(self, login, code):
        return self.dialogue(login, password=[PASSWORD], totp_code=[code])

    def assertFailsClosed(self, login, code=None):
        self.forget_attempts()
        with self.assertLogs('trytond.modules.authentication_totp') as logs:
            user_id, questions = self.log_in(login, code or self.code())
        self.assertIsNone(user_id)
        self.assertEqual(questions[-1], ('totp_code', WRONG))
        self.assertEqual(len(logs.output), 1)
        self.assertRegex(logs.output[0], r'unreadable TOTP secret of user \d+')

    def forms(self, key):
        raw = base64.b32decode(key)
        return [
            key, key.lower(), raw.hex(), raw.hex().upper(),
            raw.decode('latin-1'), repr(raw)[2:-1],
            *(base64.b64encode(raw[i:]).decode()[:20] for i in range(3))]

    def dump(self):
        "All rows of all tables"
        with self.transaction():
            tables = [
                model.__table__() for _, model in Pool().iterobject()
                if issubclass(model, ModelSQL)
                and not callable(model.table_query)]
        return str([self.sql(table.select()) for table in tables])

    def play(self):
        """Set up, replace, abandon the wizard and log in 20 times

        Return the keys that were shown, and the keys found in the database.
        """
        login, user_id = self.user()
        codes, keys = {}, []
        for confirm in [True, True, False]:
            # Replacing the key ends the session
            self.set_config('session', 'authentications', 'password')
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            self.set_config('session', 'authentications', 'password+totp')
            session_id, shown = rpc.start_setup()
            key = shown['secret'].replace(' ', '')
            keys.append(key)
            self.now += 30
            if confirm:
                codes['code'] = right_code(key, self.now)
                rpc.confirm_setup(session_id, shown, **codes)
                self.now += 30
                codes['current_code'] = right_code(key, self.now)
            else:
                rpc.wizard('execute', session_id, {'start': shown}, 'start')
        for _ in range(20):
            self.now += 30
            self.assertEqual(
                self.log_in(login, right_code(keys[1], self.now))[0], user_id)
        content = self.dump()
        self.assertIn(login, content)
        return keys, [
            key for key in keys if any(f in content for f in self.forms(key))]

    def test_dump(self):
        "Test that a dump of the database holds no key in clear"
        self.set_keys(self.key1)
        keys, found = self.play()
        self.assertEqual(len(set(keys)), 3)
        self.assertEqual(found, [])
        # Without sealing the one in force is found, so it would have been
        self.set_keys()
        keys, found = self.play()
        self.assertIn(keys[1], found)

    def test_copied(self):
        "Test that the secret of another user does not open"
        for keys in [[self.key1], []]:
            with self.subTest(keys=bool(keys)):
                self.set_keys(*keys)
                login, user_id = self.user(KEY)
                other, other_id = self.user(OTHER_KEY)
                self.put_secret(other_id, self.stored_secret(user_id))
                self.assertFailsClosed(other)
                self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_changed(self):
        "Test that no byte of a sealed secret can be changed"
        self.set_keys(self.key1)
        login, user_id = self.user(KEY)
        stored = self.stored_secret(user_id)
        raw = base64.urlsafe_b64decode(stored)
        for i in range(len(raw)):
            changed = bytearray(raw)
            changed[i] ^= 1
            with self.assertRaises(ValueError):
                totp.Secret.load(
                    base64.urlsafe_b64encode(changed).decode(), user_id)
        for i in [0, 1, 10, 60, len(stored) // 2, len(stored) - 5]:
            with self.subTest(i=i):
                character = 'B' if stored[i] == 'A' else 'A'
                self.put_secret(
                    user_id, stored[:i] + character + stored[i + 1:])
                self.assertFailsClosed(login)
                with self.transaction():
                    Pool().get('res.user')(user_id).unlock_totp()
        self.put_secret(user_id, stored)
        self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_never_the_same(self):
        "Test that two secrets with the same key are not sealed the same"
        self.set_keys(self.key1)
        secret = totp.Secret.from_key(KEY)
        stored = [secret.dump(1) for _ in range(100)]
        # The version and the time come before the initialization vector
        vectors = {base64.urlsafe_b64decode(text)[9:25] for text in stored}
        self.assertEqual(len(vectors), 100)

    def test_changed_clear(self):
        "Test that one in clear which was changed is refused or just another"
        login, user_id = self.user(KEY)
        stored = self.stored_secret(user_id)
        for i in range(len(stored)):
            for bit in range(7):
                changed = (
                    stored[:i] + chr(ord(stored[i]) ^ 1 << bit)
                    + stored[i + 1:])
                try:
                    secret = totp.Secret.load(changed, user_id)
                except ValueError:
                    continue
                secret.match('123456', self.now)

    def test_no_matching_key(self):
        "Test that a secret whose key is not there fails closed"
        self.set_keys(self.key1)
        login, user_id = self.user(KEY)
        for keys in [[self.key2], []]:
            self.set_keys(*keys)
            self.assertFailsClosed(login)
        self.set_keys(self.key1)
        self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_rotation(self):
        "Test that a login seals with the first key, from clear or another"
        users = [self.user(KEY) for _ in range(3)]
        before = []
        for keys in [
                [self.key1], [self.key2, self.key1], [self.key2]]:
            self.set_keys(*keys)
            for login, user_id in users:
                self.assertEqual(self.log_in(login, self.code())[0], user_id)
            first, = totp._keys(self.key_file(keys[0]))
            stored = [self.stored_secret(id_) for _, id_ in users]
            for (_, user_id), text in zip(users, stored, strict=True):
                values = json.loads(first.decrypt(text))
                self.assertEqual(values['key'], KEY)
                self.assertEqual(values['owner'], user_id)
            if len(keys) > 1:
                self.assertFalse(set(stored) & set(before))
            before = stored
            self.now += 30
        # Sealed already, so the last logins wrote no new one
        self.set_keys(self.key2)
        self.assertEqual(
            before, [self.stored_secret(id_) for _, id_ in users])

    def start_setup(self):
        """Let the wizard seal a waiting secret with the first key

        Return the user's login and id, the client, the wizard and what it
        shows.
        """
        self.set_keys(self.key1)
        self.set_config('session', 'authentications', 'password')
        login, user_id = self.user()
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        return login, user_id, rpc, *rpc.start_setup()

    def test_set_up(self):
        "Test that a key set up by the wizard is sealed and works"
        login, user_id, rpc, session_id, shown = self.start_setup()
        # The keys may change while it waits
        self.set_keys(self.key2, self.key1)
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        self.set_config('session', 'authentications', 'password+totp')
        self.now += 30
        self.assertEqual(
            self.log_in(
                login, right_code(shown['secret'], self.now))[0], user_id)
        self.assertFalse(totp.Secret.load(
                self.stored_secret(user_id), user_id).stale)

    def test_waiting_no_matching_key(self):
        "Test that a waiting secret whose key is not there has to be renewed"
        _, _, rpc, session_id, shown = self.start_setup()
        self.set_keys(self.key2)
        with self.assertLogs('trytond.modules.authentication_totp'):
            with self.assertRaises(Refused) as context:
                rpc.confirm_setup(
                    session_id, shown,
                    code=right_code(shown['secret'], self.now))
        error, (message, *_) = context.exception.args
        self.assertEqual(error, 'UserError')
        self.assertIn("The new key is no longer valid.", message)

    @given(
        st.binary(min_size=16, max_size=128),
        st.sampled_from(['sha1', 'sha256', 'sha512']),
        st.sampled_from([6, 8]), st.integers(15, 120), st.integers(1, 2**31))
    def test_dump_load(self, key, algorithm, digits, period, owner):
        "Test that what is sealed opens for its owner alone"
        secret = totp.Secret(key, algorithm, digits, period)
        for keys in [(), (Fernet(self.key1),)]:
            with patch.object(totp, 'setting', return_value=keys):
                stored = secret.dump(owner)
                self.assertEqual(totp.Secret.load(stored, owner), secret)
                with self.assertRaises(ValueError):
                    totp.Secret.load(stored, owner + 1)

    @given(st.text())
    def test_load_anything(self, stored):
        "Test that whatever else is stored is refused, and nothing else"
        with self.assertRaises(ValueError):
            totp.Secret.load(stored, 1)

    @given(st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
            st.binary(), st.lists(st.text()),
            st.text(st.characters(categories=['Nd', 'Zs', 'Pd']))))
    def test_match_anything(self, code):
        "Test that only ASCII digits, with spaces and dashes, can be right"
        secret = totp.Secret.from_key(KEY)
        if secret.match(code, self.now) is not None:
            self.assertIn(
                ''.join(c for c in code if c in '0123456789'),
                [self.code(steps) for steps in [-1, 0, 1]])

    def start(self, path):
        run = subprocess.run(
            [sys.executable, '-c', START],
            env={**os.environ,
                'TRYTOND_AUTHENTICATION_TOTP__ENCRYPTION_KEYS': path},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return run.returncode, run.stderr

    def test_start(self):
        "Test what the start-up says about the file of keys"
        path = self.key_file(self.key1, '', self.key2)
        self.assertEqual(self.start(path), (0, ''))
        os.chmod(path, 0o644)
        code, error = self.start(path)
        self.assertEqual(code, 0)
        self.assertEqual(
            error, f"everybody on this machine may read the keys in {path}\n")
        code, error = self.start('')
        self.assertEqual(code, 0)
        self.assertEqual(
            error, "[authentication_totp] encryption_keys is not set: "
            "the secrets are stored in clear in the database\n")
        for path in [
                self.key_file() + '.missing', self.key_file(),
                self.key_file(self.key1[:-2]), self.key_file(self.key1, 'x'),
                self.key_file('\u00e9')]:
            with self.subTest(path=path):
                code, error = self.start(path)
                self.assertEqual(code, 1)
                self.assertEqual(len(error.splitlines()), 1)
                self.assertIn(
                    f"[authentication_totp] encryption_keys = {path!r}: "
                    "must be the path of a file ", error)
                self.assertNotIn(self.key1, error)
