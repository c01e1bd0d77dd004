# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .token_tools import ASKS, SEEDS, WRONG_TOKEN, TokensTestCase, code_of
from .tools import (
    IS_KEY, KEY, LOCKED, PASSWORD, USED, WAIT, WRONG_DIGITS, right_code)

YEAR = 365 * 24 * 60 * 60


class UseTestCase(TokensTestCase):
    "Test that a token takes effect once its user enters a code"

    def test_life(self):
        "Test that a token works for a year, after a reset and for a new user"
        login, user_id, id_ = self.owner()
        self.assertEqual(
            self.log_in(login), (None, ASKS % ('T0', login)))
        # The dialog generated no key
        with self.transaction():
            table = Pool().get('res.user').__table__()
        self.assertEqual(self.sql(table.select(
                    table.totp_pending_secret, table.totp_secret,
                    where=table.id == user_id)), [(None, None)])
        code = code_of(SEEDS[0], self.now)
        self.assertEqual(self.log_in(login, code)[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.assertEqual(self.events(user_id), ['token_assigned', 'set_up'])
        with self.transaction():
            counter, = Pool().get('res.user.totp_counter').search(
                [('user', '=', user_id)])
            self.assertEqual(counter.name, 'Token T0')
        self.assertEqual(self.log_in(login, code), (None, USED))
        end = self.now + YEAR
        clock = 0
        while self.now < end:
            self.now += 7 * 24 * 60 * 60
            # The clock of the token gains four minutes a year
            clock += 4 * 60 / 52
            self.assertEqual(
                self.log_in(
                    login, code_of(SEEDS[0], self.now + clock))[0], user_id)
        self.assertEqual(self.failures(user_id), 0)

        def lost_code():
            self.now += 60
            return code_of(SEEDS[0], self.now + clock)
        # After a reset the login asks for a code of the same token, and then
        # for the next one because the clock of the token is wrong
        admin = self.rpc = self.client(self.admin)
        context = {
            'active_model': 'res.user', 'active_id': user_id,
            'active_ids': [user_id]}
        session_id, start, _ = self.wizard(
            admin, 'res.user.reset_totp', 'create', **context)
        self.wizard(
            admin, 'res.user.reset_totp', 'execute', session_id, {}, 'reset',
            **context)
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.assertEqual(
            self.log_in(login, lost_code()), (None, WRONG_TOKEN))
        self.now -= 30
        self.assertEqual(self.log_in(login, lost_code())[0], user_id)
        # A lost token stops working at once, and another one takes its place
        self.act('lose', id_)
        other, = self.import_(f'T1,{SEEDS[1]}')
        self.act('assign', other, user=user_id)
        self.assertEqual(
            self.log_in(login, lost_code()), (None, WRONG_TOKEN))
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[1], self.now))[0], user_id)
        self.assertIsNone(self.log_in(login, lost_code())[0])
        self.assertEqual(self.state(id_), ('lost', user_id))
        self.assertEqual(self.state(other), ('in_use', user_id))
        self.assertEqual(self.events(user_id), [
                'token_assigned', 'set_up', 'reset', 'set_up', 'reset',
                'token_assigned', 'set_up'])
        # A token that is found and taken back can serve another user
        self.act('take_back', id_)
        finder, finder_id = self.user()
        self.act('assign', id_, user=finder_id)
        self.now += 30
        self.assertEqual(
            self.log_in(finder, code_of(SEEDS[0], self.now + clock)),
            (None, WRONG_TOKEN))
        self.now += 30
        self.assertEqual(
            self.log_in(finder, code_of(SEEDS[0], self.now + clock))[0],
            finder_id)
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[1], self.now))[0], user_id)

    def test_parameters(self):
        "Test that the token's own parameters apply, not those of the server"
        self.set_totp('digits', '6')
        login, user_id, _ = self.owner(f'T9,{SEEDS[0]},sha512,8,60')

        def code():
            return code_of(SEEDS[0], self.now, 8, 'sha512', 60)
        self.assertEqual(
            self.log_in(login, code()[:6]), (None, WRONG_DIGITS % 8))
        self.assertEqual(
            self.log_in(login, SEEDS[0]), (None, IS_KEY % 8))
        for _ in range(3):
            self.assertEqual(self.log_in(login, code())[0], user_id)
            self.now += 60

    def test_blank(self):
        "Test that a blank code asks again, or moves on to another chain"
        login, user_id, id_ = self.owner()
        for blank in ['', ' ', None]:
            self.assertEqual(
                self.log_in(login, blank), (None, ASKS % ('T0', login)))
        self.set_config(
            'session', 'authentications', self.authentications
            + ',password+sms')
        _, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[''])
        self.assertEqual(questions[-1][0], 'sms_code')
        self.assertEqual(self.failures(user_id), 0)
        self.assertEqual(self.state(id_), ('assigned', user_id))

    def test_wrong(self):
        "Test that wrong codes cause delays and a lockout, as with a phone"
        self.lift_core_limit()
        self.set_totp('max_failures', '5')
        login, user_id, id_ = self.owner()

        def right():
            return code_of(SEEDS[0], self.now)
        for count, code in enumerate(['000000', 'x', ['x']], 1):
            self.assertEqual(self.log_in(login, code), (
                    None, WRONG_TOKEN if count < 3 else WAIT % '30 seconds'))
            self.assertEqual(self.failures(user_id), count)
        for code in [right(), '000000']:
            self.assertEqual(
                self.log_in(login, code), (None, WAIT % '30 seconds'))
        self.assertEqual(self.failures(user_id), 3)
        self.assertEqual(self.events(user_id), ['token_assigned', 'failed'])
        self.now += 30
        self.assertEqual(
            self.log_in(login, SEEDS[0]), (None, WAIT % '60 seconds'))
        self.now += 60
        self.assertEqual(self.log_in(login, '000000'), (None, LOCKED))
        self.assertEqual(
            self.events(user_id), ['token_assigned', 'failed', 'locked'])
        self.now += 10_000
        self.assertEqual(self.log_in(login, right()), (None, LOCKED))
        with self.transaction():
            User = Pool().get('res.user')
            self.assertTrue(User(user_id).totp_locked)
            User.unlock_totp([User(user_id)])
        self.assertEqual(self.log_in(login, right())[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))

    def test_wrong_then_right(self):
        "Test that a right code forgives the failures of its network"
        self.lift_core_limit()
        login, user_id, _ = self.owner()
        for _ in range(3):
            self.log_in(login, '000000')
        self.now += 30
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[0], self.now))[0], user_id)
        self.assertEqual(self.failures(user_id), 0)

    def test_several(self):
        "Test that a user with two tokens can begin with either"
        login, user_id = self.user()
        first, second, *_ = self.import_()
        self.act('assign', first, second, user=user_id)
        self.assertEqual(
            self.log_in(login)[1], ASKS % ('T0 / T1', login))
        self.assertEqual(
            self.log_in(login, code_of(SEEDS[1], self.now))[0], user_id)
        self.assertEqual(self.state(first)[0], 'assigned')
        self.assertEqual(self.state(second)[0], 'in_use')
        # The other one works only once the user adds it
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.assertEqual(self.failures(user_id), 1)

    def test_drift(self):
        "Test that a token works even if its clock is off by minutes"
        for seconds in [-300, -90, 90, 270]:
            with self.subTest(seconds=seconds):
                login, user_id, _ = self.owner(f'T{seconds},{SEEDS[0]}')

                def code(steps=0, seconds=seconds):
                    return code_of(
                        SEEDS[0], self.now + seconds + 30 * steps)
                self.assertEqual(
                    self.log_in(login, code()), (None, WRONG_TOKEN))
                self.assertEqual(self.log_in(login, code(1))[0], user_id)
                self.assertEqual(
                    self.drift(user_id), (seconds + 30) // 30)
                for _ in range(2):
                    self.now += 600
                    self.assertEqual(self.log_in(login, code())[0], user_id)
        # A token whose clock is off by more does not work
        login, user_id, _ = self.owner(f'late,{SEEDS[0]}')
        for steps in [0, 1]:
            self.assertEqual(self.log_in(
                    login, code_of(SEEDS[0], self.now - 600 + 30 * steps)),
                (None, WRONG_TOKEN))

    def test_chain(self):
        "Test that the token takes effect only once all methods have passed"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp+sms')
        login, user_id, id_ = self.owner()
        code = code_of(SEEDS[0], self.now)
        user, questions = self.dialogue(
            login, password=[PASSWORD], totp_code=[code], sms_code=['x'])
        self.assertEqual(questions[-1][0], 'sms_code')
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.forget_attempts()
        self.assertEqual(self.dialogue(
                login, password=[PASSWORD], totp_code=[code],
                sms_code=[self.sms_code(user_id)])[0], user_id)
        self.assertEqual(self.state(id_), ('in_use', user_id))

    def test_before_password(self):
        "Test that a client without the password learns nothing of tokens"
        login, user_id, _ = self.owner()
        for authentications in [
                'totp?setup_totp', 'totp?setup_totp+password',
                'totp,password+totp?setup_totp']:
            self.set_config('session', 'authentications', authentications)
            self.assertNotIn('T0', str(self.dialogue(login)))
            self.assertNotIn(
                'T0', str(self.dialogue(login, totp_code=['000000'])))
        self.set_config('session', 'authentications', self.authentications)
        self.assertNotIn(
            'T0', str(self.dialogue(login, password=['x'])))

    def add(self, user_id, *args):
        "Add the token. Return the message of a refusal, or None"
        try:
            with self.transaction(user_id):
                Pool().get('res.user')(user_id).add_totp_token(*args)
        except Exception as error:
            return error.message

    def test_add(self):
        "Test that a user with a phone needs its code to add a token"
        login, user_id = self.user(KEY)
        id_, other, *_ = self.import_()
        self.act('assign', id_, user=user_id)
        token = code_of(SEEDS[0], self.now)
        not_assigned = (
            "No token with this serial number is assigned to you. "
            "Read the number on the token again, or ask an administrator to "
            "assign it to you.")
        for serial in ['T1', 'T', '', None, 5]:
            self.assertEqual(
                self.add(user_id, serial, token, self.code()), not_assigned)
        for current in [None, '', '000000', token]:
            self.forget_failures(user_id)
            self.assertIsNotNone(self.add(user_id, 'T0', token, current))
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.forget_failures(user_id)
        self.assertEqual(
            self.add(user_id, 'T0', '000000', self.code()), WRONG_TOKEN)
        self.assertEqual(self.failures(user_id), 1)
        # The code of the phone is used up
        self.assertIsNotNone(self.add(user_id, 'T0', token, self.code()))
        self.forget_failures(user_id)
        self.now += 30
        token = code_of(SEEDS[0], self.now)
        self.assertIsNone(self.add(user_id, 'T0', token, self.code()))
        self.assertEqual(self.state(id_), ('in_use', user_id))
        self.assertEqual(self.events(user_id)[-1], 'added')
        self.now += 30
        for code in [code_of(SEEDS[0], self.now), self.code()]:
            self.assertEqual(self.log_in(login, code)[0], user_id)

    def test_add_first(self):
        "Test that a user without an authenticator can add a token"
        login, user_id, id_ = self.owner()
        self.assertEqual(self.add(user_id, 'T0', '000000'), WRONG_TOKEN)
        self.assertEqual(self.failures(user_id), 1)
        with self.transaction(user_id):
            self.assertEqual(
                Pool().get('res.user')(user_id).get_totp_tokens(), ['T0'])
        self.assertIsNone(
            self.add(user_id, 'T0', code_of(SEEDS[0], self.now)))
        self.assertEqual(self.state(id_), ('in_use', user_id))
        with self.transaction(user_id):
            self.assertEqual(
                Pool().get('res.user')(user_id).get_totp_tokens(), [])

    def test_most(self):
        "Test that a token counts towards max_authenticators"
        self.set_totp('max_authenticators', '1')
        login, user_id = self.user(KEY)
        id_, = self.import_(f'T0,{SEEDS[0]}')
        self.act('assign', id_, user=user_id)
        self.assertEqual(
            self.add(
                user_id, 'T0', code_of(SEEDS[0], self.now), self.code()),
            "You cannot add another authenticator. Remove one first.")
        self.assertEqual(self.state(id_), ('assigned', user_id))

    def test_replaced(self):
        "Test that a token that a phone replaces becomes assigned again"
        login, user_id, id_ = self.owner()
        self.log_in(login, code_of(SEEDS[0], self.now))
        self.now += 30
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            key = user.start_totp_setup(
                code_of(SEEDS[0], self.now), replaces=True).text
            user.finish_totp_setup(right_code(key, self.now))
        self.assertEqual(self.state(id_), ('assigned', user_id))
        self.now += 30
        self.assertIsNone(
            self.log_in(login, code_of(SEEDS[0], self.now))[0])
        self.assertEqual(
            self.log_in(login, right_code(key, self.now))[0], user_id)
