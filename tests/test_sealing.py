# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import json
import os
import subprocess
import sys
import unittest

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from trytond.model import ModelSQL
from trytond.modules.authentication_totp import seal, totp
from trytond.pool import Pool

from .tools import (
    KEY, OTHER_KEY, PASSWORD, RPC, UNREADABLE, Refused, TOTPTestCase,
    right_code, seal_set, secret_from)

START = 'from trytond.pool import Pool; Pool.start()'
# The server logs like this by default
START_ERROR = (
    'import logging; '
    'logging.basicConfig(level=logging.ERROR, format="%(message)s"); ' + START)
PLACE = {'owner': 1, 'purpose': 'in force', 'generation': 1}
TIME = 2_000_000_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children)
    | st.dictionaries(st.text(), children), max_leaves=5)


class SealTestCase(unittest.TestCase):
    "Test the seal itself, without database (law 4)"

    key1, key2 = [seal.key(Fernet.generate_key()) for _ in range(2)]

    @given(
        st.binary(min_size=16, max_size=128),
        st.sampled_from(['sha1', 'sha256', 'sha512']),
        st.sampled_from([6, 8]), st.integers(15, 120), st.integers(1, 2**31),
        st.sampled_from(['in force', 'pending', 'token']),
        st.integers(0, 2**31))
    def test_place(
            self, key, algorithm, digits, period, owner, purpose, generation):
        "Test that a sealed text opens for its own place only"
        secret = totp.Secret(key, algorithm, digits, period)
        place = {
            'owner': owner, 'purpose': purpose, 'generation': generation}
        for keys in [(), (self.key1,)]:
            stored = seal.seal(secret.values, keys, TIME, **place)
            values, stale = seal.unseal(stored, keys, **place)
            self.assertEqual(totp.Secret.from_values(values), secret)
            self.assertFalse(stale)
            for other in [
                    {**place, 'owner': owner + 1},
                    {**place, 'purpose': 'x'},
                    {**place, 'generation': generation + 1},
                    {**place, 'generation': generation - 1},
                    {'owner': owner}, {}]:
                with self.assertRaises(seal.SealError):
                    seal.unseal(stored, keys, **other)

    @given(st.text())
    def test_anything(self, stored):
        "Test that any other stored text is refused without another error"
        for keys in [(), (self.key1,)]:
            with self.assertRaises(seal.SealError):
                seal.unseal(stored, keys, **PLACE)

    @given(JSON)
    def test_anything_clear(self, values):
        "Test that any other unencrypted text is refused"
        for value in [values, {**PLACE, 'value': values}]:
            with self.assertRaises(seal.SealError) as context:
                seal.unseal(json.dumps(value), (), **PLACE)
            self.assertEqual(str(context.exception), "not a sealed text")

    def test_changed(self):
        "Test that changing any byte of a sealed text is detected"
        stored = seal.seal(secret_from(KEY).values, [self.key1], TIME, **PLACE)
        raw = base64.urlsafe_b64decode(stored)
        for i in range(len(raw)):
            changed = bytearray(raw)
            changed[i] ^= 1
            with self.assertRaises(seal.SealError):
                seal.unseal(
                    base64.urlsafe_b64encode(changed).decode(), [self.key1],
                    **PLACE)

    def test_never_the_same(self):
        "Test that the same values are never sealed the same"
        values = secret_from(KEY).values
        stored = [
            seal.seal(values, [self.key1], TIME, **PLACE) for _ in range(100)]
        # The version and the time come before the initialization vector
        vectors = {base64.urlsafe_b64decode(text)[9:25] for text in stored}
        self.assertEqual(len(vectors), 100)

    def test_stale(self):
        "Test that the first key seals, that all open, and what is stale"
        clear = seal.seal(5, [], TIME, **PLACE)
        self.assertEqual(
            json.loads(clear), {**PLACE, 'values': 5})
        first, second = [
            seal.seal(5, keys, TIME, **PLACE) for keys in [
                [self.key1, self.key2], [self.key2, self.key1]]]
        self.key1.decrypt(first)
        for stored, keys, expected in [
                (clear, [], False),
                (clear, [self.key1], True),
                (first, [self.key1], False),
                (first, [self.key1, self.key2], False),
                (first, [self.key2, self.key1], True),
                (second, [self.key1, self.key2], True)]:
            self.assertEqual(
                seal.unseal(stored, keys, **PLACE), (5, expected))
        for keys in [[], [self.key2]]:
            with self.assertRaises(seal.SealError):
                seal.unseal(first, keys, **PLACE)

    def test_time(self):
        "Test that the time in the sealed text is the given one"
        stored = seal.seal(5, [self.key1], TIME + 0.9, **PLACE)
        self.assertEqual(self.key1.extract_timestamp(stored), TIME)

    def test_hidden(self):
        "Test that a refusal does not show what was stored"
        stored = seal.seal(secret_from(KEY).values, [], TIME, **PLACE)
        for text in [stored, stored[:-1], KEY]:
            with self.assertRaises(seal.SealError) as context:
                seal.unseal(text, [], owner=2)
            self.assertNotIn(KEY, str(context.exception))
            self.assertIsNone(context.exception.__cause__)


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
        self.assertEqual(questions[-1], ('totp_code', UNREADABLE))
        # It is not the user's fault
        self.assertEqual(self.attempts(login), 0)
        self.assertEqual(len(logs.output), 1)
        self.assertRegex(logs.output[0], r'unreadable TOTP secret of user \d+')

    def forms(self, key):
        raw = base64.b32decode(key)
        return [
            key, key.lower(), raw.hex(), raw.hex().upper(),
            raw.decode('latin-1'), repr(raw)[2:-1],
            *(base64.b64encode(raw[i:]).decode()[:20] for i in range(3))]

    def dump(self):
        "Return all rows of all tables"
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
        code, keys = None, []
        for confirm in [True, True, False]:
            # Replacing the key ends the session
            self.set_config('session', 'authentications', 'password')
            rpc = RPC()
            rpc.login(login, password=PASSWORD)
            self.set_config('session', 'authentications', 'password+totp')
            session_id, shown = rpc.start_setup(code)
            key = shown['secret'].replace(' ', '')
            keys.append(key)
            self.now += 30
            if confirm:
                rpc.confirm_setup(
                    session_id, shown, code=right_code(key, self.now))
                self.now += 30
                code = right_code(key, self.now)
            else:
                rpc.wizard('execute', session_id, {'start': shown}, 'overview')
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
        # Without an encryption key, the same search finds a key
        self.set_keys()
        keys, found = self.play()
        self.assertIn(keys[1], found)

    def test_copied(self):
        "Test that a secret copied from another user does not open"
        for keys in [[self.key1], []]:
            with self.subTest(keys=bool(keys)):
                self.set_keys(*keys)
                login, user_id = self.user(KEY)
                other, other_id = self.user(OTHER_KEY)
                self.put_secret(other_id, self.stored_secret(user_id))
                self.assertFailsClosed(other)
                self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_changed(self):
        "Test that changing any byte of a sealed secret is detected"
        self.set_keys(self.key1)
        login, user_id = self.user(KEY)
        stored = self.stored_secret(user_id)
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

    def test_changed_clear(self):
        "Test that a changed unencrypted one is refused or is another secret"
        login, user_id = self.user(KEY)
        stored = self.stored_secret(user_id)
        for i in range(len(stored)):
            for bit in range(7):
                self.assertOpensOrNot(
                    user_id,
                    stored[:i] + chr(ord(stored[i]) ^ 1 << bit)
                    + stored[i + 1:])

    @given(JSON)
    def test_set_anything(self, values):
        "Test that any unencrypted set is refused or opened without an error"
        valid = secret_from(KEY).values
        for set_ in [
                values, [values], [[values, valid]], [[1, values]],
                *([[1, {**valid, name: values}]] for name in valid)]:
            self.assertOpensOrNot(1, seal.seal(set_, [], TIME, **PLACE))

    def assertOpensOrNot(self, user_id, stored):
        "Check that the stored text is refused, or is a set that can be used"
        with self.transaction():
            User = Pool().get('res.user')
            try:
                secrets, _ = User.unseal_totp_secrets(user_id, stored, 1)
            except ValueError:
                return
        for secret in secrets.values():
            secret.match('123456', self.now, 1)

    def test_other_place(self):
        "Test that a secret for another purpose or generation does not open"
        for keys in [[self.key1], []]:
            with self.subTest(keys=bool(keys)):
                self.set_keys(*keys)
                login, user_id = self.user(KEY)
                stored = self.stored_secret(user_id)
                with self.transaction():
                    Pool().get('res.user')(user_id).set_totp_key(OTHER_KEY)
                # The previous secret, the pending one, one of the future
                with self.transaction():
                    secret = Pool().get('res.user')(user_id).start_totp_setup(
                        right_code(OTHER_KEY, self.now))
                    self.now += 30
                    table = Pool().get('res.user').__table__()
                (pending,), = self.sql(table.select(
                        table.totp_pending_secret, where=table.id == user_id))
                for planted, code in [
                        (stored, self.code()),
                        (pending, right_code(secret.text, self.now)),
                        (seal_set(user_id, secret_from(KEY), generation=3),
                            self.code())]:
                    self.put_secret(user_id, planted)
                    self.assertFailsClosed(login, code)
                    self.forget_failures(user_id)
                self.put_secret(
                    user_id,
                    seal_set(user_id, secret_from(KEY), generation=2))
                with self.transaction() as transaction:
                    counter = Pool().get('res.user.totp_counter').__table__()
                    transaction.connection.cursor().execute(
                        *counter.update(
                            [counter.number], [1],
                            where=counter.user == user_id))
                self.forget_attempts()
                self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_no_matching_key(self):
        "Test that a secret whose key is missing fails closed"
        self.set_keys(self.key1)
        login, user_id = self.user(KEY)
        for keys in [[self.key2], []]:
            self.set_keys(*keys)
            for _ in range(4):
                self.assertFailsClosed(login)
        self.assertEqual(self.failures(user_id), 0)
        self.assertEqual(self.events(user_id), ['set_up'])
        self.set_keys(self.key1)
        self.assertEqual(self.log_in(login, self.code())[0], user_id)

    def test_clear_at_start(self):
        "Test that the server reports at start how many secrets are in clear"
        self.forget_others()
        users = [self.user(KEY) for _ in range(3)]
        self.user()
        self.set_keys(self.key1)
        with self.assertLogs(
                'trytond.modules.authentication_totp', 'ERROR') as logs:
            self.load()
        line, = logs.output
        self.assertRegex(line, r'unencrypted .*: 3; .*trytond_totp reseal')
        with self.transaction():
            User = Pool().get('res.user')
            User.reseal_totp(User.browse([id_ for _, id_ in users]))
        with self.assertNoLogs('trytond.modules.authentication_totp'):
            self.load()

    def test_rotation(self):
        "Test that a login reseals a secret that the first key did not seal"
        users = [self.user(KEY) for _ in range(3)]
        before = []
        for keys in [
                [self.key1], [self.key2, self.key1], [self.key2]]:
            self.set_keys(*keys)
            for login, user_id in users:
                self.assertEqual(self.log_in(login, self.code())[0], user_id)
            first = Fernet(keys[0])
            stored = [self.stored_secret(id_) for _, id_ in users]
            for (_, user_id), text in zip(users, stored, strict=True):
                values = json.loads(first.decrypt(text))
                self.assertEqual(values, {
                        'owner': user_id, 'purpose': 'in force',
                        'generation': 1,
                        'values': [[1, secret_from(KEY).values]]})
            if len(keys) > 1:
                self.assertFalse(set(stored) & set(before))
            before = stored
            self.now += 30
        # The secret was sealed already, so the last logins did not change it
        self.set_keys(self.key2)
        self.assertEqual(
            before, [self.stored_secret(id_) for _, id_ in users])

    def start_setup(self):
        """Let the wizard seal a pending secret with the first key

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
        # The keys may change while the secret is pending
        self.set_keys(self.key2, self.key1)
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        self.set_config('session', 'authentications', 'password+totp')
        self.now += 30
        self.assertEqual(
            self.log_in(
                login, right_code(shown['secret'], self.now))[0], user_id)
        stored = self.stored_secret(user_id)
        with self.transaction():
            _, stale = Pool().get('res.user').unseal_totp_secrets(
                user_id, stored, 1)
        self.assertFalse(stale)

    def test_waiting_no_matching_key(self):
        "Test that a pending secret whose key is missing has to be renewed"
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

    @given(st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
            st.binary(), st.lists(st.text()),
            st.text(st.characters(categories=['Nd', 'Zs', 'Pd']))))
    def test_match_anything(self, code):
        "Test that only ASCII digits, with spaces and dashes, can be right"
        secret = secret_from(KEY)
        if secret.match(code, self.now, 1) is not None:
            self.assertIn(
                ''.join(c for c in code if c in '0123456789'),
                [self.code(steps) for steps in [-1, 0, 1]])

    def start(self, path, start=START):
        run = subprocess.run(
            [sys.executable, '-c', start],
            env={**os.environ,
                'TRYTOND_AUTHENTICATION_TOTP__ENCRYPTION_KEYS': path},
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return run.returncode, run.stderr

    def test_start(self):
        "Test the messages about the key file at start"
        path = self.key_file(self.key1, '', self.key2)
        self.assertEqual(self.start(path), (0, ''))
        os.chmod(path, 0o644)
        code, error = self.start(path)
        self.assertEqual(code, 0)
        self.assertEqual(
            error, f"every user of this machine can read the keys in {path}\n")
        code, error = self.start('')
        self.assertEqual(code, 0)
        self.assertEqual(
            error, "[authentication_totp] encryption_keys is not set: "
            "the secrets are stored unencrypted in the database\n")
        for path in [
                self.key_file() + '.missing', self.key_file(),
                self.key_file(self.key1[:-2]), self.key_file(self.key1, 'x'),
                self.key_file('\u00e9')]:
            with self.subTest(path=path):
                code, error = self.start(path)
                self.assertEqual(code, 3)
                self.assertEqual(len(error.splitlines()), 1)
                self.assertIn(
                    f"[authentication_totp] encryption_keys = {path!r}: "
                    "must be the path of a file ", error)
                self.assertNotIn(self.key1, error)

    def test_start_mode(self):
        "Test that a file that others can read or change is logged as an error"
        path = self.key_file(self.key1)
        for mode in [0o600, 0o400, 0o440, 0o640]:
            with self.subTest(mode=oct(mode)):
                os.chmod(path, mode)
                self.assertEqual(self.start(path, START_ERROR), (0, ''))
        for mode in [0o604, 0o644, 0o660, 0o620, 0o602, 0o666]:
            with self.subTest(mode=oct(mode)):
                os.chmod(path, mode)
                code, error = self.start(path, START_ERROR)
                self.assertEqual(code, 0)
                # One message about reading, one about writing
                self.assertEqual(
                    len(error.splitlines()), 2 if mode == 0o666 else 1, error)
                self.assertIn(path, error)
                self.assertNotIn(self.key1, error)
