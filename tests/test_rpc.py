# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import json
import logging
import sys
from contextlib import contextmanager

from trytond.exceptions import TrytonException
from trytond.pool import Pool

from .tools import KEY, PASSWORD, RPC, TOTPTestCase


class HostileTestCase(TOTPTestCase):
    "Test everything that a client can send as totp_code (law 9)"

    def setUp(self):
        super().setUp()
        handler = logging.Handler()
        handler.emit = self.emit
        logging.getLogger().addHandler(handler)
        self.addCleanup(logging.getLogger().removeHandler, handler)

    def emit(self, record):
        # trytond 8.2 logs each prompt and refusal as an exception
        if record.exc_info:
            self.assertIsInstance(record.exc_info[1], TrytonException)

    @contextmanager
    def record_calls(self):
        "Record the calls in the context in the list, including those to C"
        calls = []
        sys.setprofile(lambda frame, event, argument: calls.append(event))
        try:
            yield calls
        finally:
            sys.setprofile(None)

    def hostile_codes(self):
        code = self.code()
        yield from [
            None, True, False, 0, 1, -1, int(code), 1e6, -1.5, 1e308, 10**30,
            2**63, [], [code], [[code]], [None] * 1000, {}, {'code': code},
            {code: code}, {'__class__': 'bytes', 'base64': 'MTIzNDU2'},
            {'__class__': 'bytes', 'base64': '!'},
            {'__class__': 'Decimal', 'decimal': code},
            {'__class__': 'datetime', 'year': 2026, 'month': 1, 'day': 1,
                'hour': 0, 'minute': 0, 'second': 0, 'microsecond': 0},
            {'__class__': 'timedelta', 'seconds': 1.5},
            '', ' ', '\0', code + '\0', '\0' + code,
            code[:3] + '\0' + code[3:],
            code[:-1], code + '0', '0' + code, code * 2, code[:-1] + 'x',
            '0' * 10**6, '9' * 10**6, ' ' * 10**6, '-' * 10**6, 'x' * 10**6,
            code + ' ' * 10**6, '-' * 10**6 + code,
            ''.join(chr(0xff10 + int(digit)) for digit in code),
            ''.join(chr(0x660 + int(digit)) for digit in code),
            ''.join(chr(0x1d7ce + int(digit)) for digit in code),
            '\u00b2' * 6, '\u2460' * 6, '\u4e00' * 6, '\ud800' * 6,
            '\U0001f511' * 6, '1_2_3_4', '+' + code, '-0x1', '0x1e24',
            '1e5', '12.345', 'nan', 'inf', 'Infinity', '\u202e' + code,
            code + '\u200b', '\ufeff' + code, code.encode().hex(),
            "' OR 1=1 --", '%s', '%(code)s', '{0}', '\\', '"', '<b>1</b>',
            '../../etc/passwd', KEY]

    def test_hostile_codes(self):
        "Test that each is soon refused or prompted again, without traceback"
        self.set_config('session', 'max_attempt', str(10**6))
        login, user_id = self.user(KEY)
        rpc = RPC()
        rpc.post('common.db.login', login, {'password': PASSWORD}, 'en')
        count = 0
        for authentications in ['password+totp', 'totp+password', 'totp']:
            self.set_config('session', 'authentications', authentications)
            for code in self.hostile_codes():
                with self.subTest(
                        authentications=authentications,
                        code=repr(code)[:50]):
                    with self.record_calls() as calls:
                        response = rpc.post(
                            'common.db.login', login, {
                                'password': PASSWORD, 'totp_code': code},
                            'en')
                    self.assertRefused(response)
                    # Reading the longest ones to the end takes a million
                    self.assertLess(len(calls), 200_000)
                    count += 1
        self.assertGreater(count, 200)
        self.assertEqual(self.counters(user_id), [])

    def assertRefused(self, response):
        self.assertNotIn(b'Traceback', response.data)
        if response.status_code == 200:
            name, (parameter, message, type_) = json.loads(
                response.data)['error']
            self.assertEqual(name, 'LoginException')
            self.assertEqual((parameter, type_), ('totp_code', 'char'))
            self.assertTrue(message)
        else:
            self.assertEqual(response.status_code, 401)

    def test_hostile_codes_in_wizard(self):
        "Test that the wizard refuses them too and loses nothing"
        self.set_config('session', 'authentications', 'password')
        login, user_id = self.user(KEY)
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        session_id, _ = rpc.overview()
        stored = self.stored_secret(user_id)
        for code in self.hostile_codes():
            with self.subTest(code=repr(code)[:50]):
                for state, button in [
                        ('overview', 'add'), ('overview', 'renew'),
                        ('start', 'confirm')]:
                    response = rpc.post(
                        'wizard.res.user.setup_totp.execute', session_id,
                        {state: {'code': code}}, button, {})
                    self.assertNotIn(b'Traceback', response.data)
                    if response.status_code == 200:
                        error, _ = json.loads(response.data)['error']
                        self.assertEqual(error, 'UserError')
        self.assertEqual(self.stored_secret(user_id), stored)
        self.assertEqual(self.counters(user_id), [])

    def test_dialogue(self):
        "Test the JSON-RPC dialogue of a client"
        login, user_id = self.user(KEY)
        rpc = RPC()
        parameters = {}
        for name, answer in [
                ('password', PASSWORD), ('totp_code', '000000'),
                ('totp_code', self.code())]:
            response = rpc.post('common.db.login', login, parameters, 'en')
            error, (asked, _, type_) = json.loads(response.data)['error']
            self.assertEqual(error, 'LoginException')
            self.assertEqual(asked, name)
            self.assertEqual(
                type_, 'password' if name == 'password' else 'char')
            parameters[name] = answer
        self.assertEqual(rpc.login(login, **parameters), user_id)
        self.assertTrue(
            rpc.model('res.user', 'get_preferences', False)['totp_enabled'])

    def test_language(self):
        "Test that the prompt is in the language of the request"
        login, _ = self.user(KEY)
        with self.transaction():
            Lang = Pool().get('ir.lang')
            self.assertTrue(Lang.search([('code', '=', 'de')]))
        response = RPC().post(
            'common.db.login', login, {'password': PASSWORD}, 'de')
        self.assertEqual(
            json.loads(response.data)['error'][1][0], 'totp_code')
