# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from unittest.mock import patch

from trytond.pool import Pool

from . import tools
from .mail import MailTestCase
from .test_login_setup import KEY_SHOWN
from .tools import (
    ADDRESS, KEY, PASSWORD, RPC, USED, WAIT, WRONG, Refused, right_code)

HOME, ELSEWHERE = ADDRESS, '203.0.113.7'
# Two addresses of the same network, and one of another
HOME_6, SAME_6, ELSEWHERE_6 = (
    '2001:db8::1', '2001:db8::2', '2001:db8:ff:ff00::1')


class UsedCodeTestCase(MailTestCase):
    """Test that a code that comes again from where it was accepted is no sign
    of an attack (law 5)
    """

    def enrol(self, key=KEY):
        login, user_id = self.user(key)
        self.received()
        return login, user_id

    def answer(self, login, code, address=HOME, **parameters):
        "Return the id of the user who logs in, or the text of the answer"
        parameters.setdefault('password', PASSWORD)
        with patch(f'{RPC.__module__}.ADDRESS', address):
            try:
                return RPC().login(login, totp_code=code, **parameters)
            except Refused as refused:
                error, *details = refused.args
                return details[0][1] if details else error

    def trace(self, login, user_id):
        "Return every trace of refused codes of the user"
        return {
            'failures': sum(
                self.failures(user_id, kind)
                for kind in ['elsewhere', 'known_device', 'recovery']),
            'attempts': self.all_attempts(),
            'replayed': self.events(user_id).count('replayed'),
            'e-mails': self.received(),
            }

    def all_attempts(self):
        with self.transaction():
            table = Pool().get('res.user.login.attempt').__table__()
        return len(self.sql(table.select(table.id)))

    def assertForgiven(self, login, user_id, code, *args, **kwargs):
        "Check that the code is refused as used, and leaves no trace"
        before = self.trace(login, user_id)
        self.assertEqual(self.answer(login, code, *args, **kwargs), USED)
        self.assertEqual(
            self.trace(login, user_id), {**before, 'e-mails': []})

    def assertCounted(
            self, login, user_id, code, *args, answer=USED, **kwargs):
        "Check that the code is refused, counted and reported"
        before = self.trace(login, user_id)
        self.assertEqual(self.answer(login, code, *args, **kwargs), answer)
        now = self.trace(login, user_id)
        self.assertEqual(now['failures'], before['failures'] + 1)
        self.assertEqual(now['attempts'], before['attempts'] + 1)
        self.assertEqual(now['replayed'], before['replayed'] + 1)
        # At most one an hour
        if not before['replayed']:
            self.assertEqual(
                now['e-mails'], [f"A used code was entered again for {login}"])

    def test_login(self):
        "Test a code that was accepted, from the same network and from another"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        for _ in range(10):
            self.assertForgiven(login, user_id, code)
        self.now += 30
        self.assertForgiven(login, user_id, code)
        self.assertCounted(login, user_id, code, ELSEWHERE)
        self.assertForgiven(login, user_id, code)
        self.assertEqual(self.answer(login, self.code()), user_id)

    def test_typed(self):
        "Test that the form in which the code is typed does not matter"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        for form in [f' {code[:3]}-{code[3:]}\n', f'{code[:3]}\xa0{code[3:]}']:
            self.assertForgiven(login, user_id, form)

    def test_other_network_first(self):
        "Test that the network that counts is that of the accepted code"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code, ELSEWHERE), user_id)
        self.assertCounted(login, user_id, code, HOME)
        self.assertForgiven(login, user_id, code, ELSEWHERE)
        self.now += 30
        # The network that counts is that of the last accepted code
        code = self.code()
        self.assertEqual(self.answer(login, code, HOME), user_id)
        self.assertCounted(login, user_id, code, ELSEWHERE)
        self.assertForgiven(login, user_id, code, HOME)

    def test_network(self):
        "Test that the addresses of one network count as one place"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code, HOME_6), user_id)
        self.assertForgiven(login, user_id, code, SAME_6)
        self.assertCounted(login, user_id, code, ELSEWHERE_6)
        self.assertCounted(login, user_id, code, HOME)

    def test_life(self):
        "Test that a code is forgiven as long as it could be right"
        for tolerance, steps in [(0, 0), (1, 1), (2, 2)]:
            with self.subTest(tolerance=tolerance):
                self.set_totp('tolerance', str(tolerance))
                login, user_id = self.enrol()
                start = self.now
                code = self.code()
                self.assertEqual(self.answer(login, code), user_id)
                # The last second of its life, and the first one after it
                self.now = start - start % 30 + 30 * (steps + 1) - 1
                self.assertForgiven(login, user_id, code)
                self.now += 1
                self.assertCounted(login, user_id, code)
                self.now = start + 3600

    def test_earlier(self):
        "Test that only the last code that was accepted is forgiven"
        login, user_id = self.enrol()
        before, code, following = self.code(-1), self.code(), self.code(1)
        self.assertEqual(self.answer(login, code), user_id)
        # This code was never accepted
        self.assertCounted(login, user_id, before)
        self.assertEqual(self.answer(login, following), user_id)
        # This code was accepted, but a later one was too
        self.assertCounted(login, user_id, code)
        self.assertForgiven(login, user_id, following)

    def test_set_key(self):
        "Test that a new key has no used code before the first login"
        login, user_id = self.enrol()
        for _ in range(3):
            before = self.trace(login, user_id)
            self.assertNotEqual(self.answer(login, self.code(99)), USED)
            self.assertEqual(
                self.trace(login, user_id)['failures'],
                before['failures'] + 1)
            self.now += 300

    def test_set_up(self):
        "Test the code that confirmed the setup in the wizard"
        login, user_id = self.enrol(None)
        key, _ = self.client(login).set_up(self.now)
        self.received()
        code = right_code(key, self.now)
        self.assertForgiven(login, user_id, code)
        self.assertCounted(login, user_id, code, ELSEWHERE)
        self.now += 60
        self.assertCounted(login, user_id, code)
        self.now += 300
        self.assertEqual(
            self.answer(login, right_code(key, self.now)), user_id)

    def test_dialog(self):
        "Test the code that confirmed the setup in the login dialog"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        login, user_id = self.enrol(None)
        with self.assertRaises(Refused) as context:
            RPC().login(login, password=PASSWORD)
        key, = KEY_SHOWN.findall(context.exception.args[1][1])
        code = right_code(key, self.now)
        self.assertEqual(self.answer(login, code), user_id)
        self.received()
        # A client that lost the answer sends the code again
        self.assertForgiven(login, user_id, code)
        self.assertCounted(login, user_id, code, ELSEWHERE)

    def test_wizard(self):
        "Test that a login refuses a code that a wizard used, and vice versa"
        login, user_id = self.enrol()
        rpc = self.client(login)
        self.assertEqual(self.confirm(rpc, self.code()), 'done')
        self.received()
        self.assertForgiven(login, user_id, self.code())
        self.assertCounted(login, user_id, self.code(), ELSEWHERE)
        self.now += 300
        self.assertEqual(self.answer(login, self.code()), user_id)
        before = self.trace(login, user_id)
        for _ in range(5):
            self.assertEqual(self.confirm(rpc, self.code()), USED)
        self.assertEqual(self.trace(login, user_id), before)

    def test_wizard_elsewhere(self):
        "Test that a wizard counts a code that was accepted elsewhere"
        login, user_id = self.enrol()
        rpc = self.client(login)
        self.assertEqual(self.answer(login, self.code(), ELSEWHERE), user_id)
        before = self.trace(login, user_id)
        self.assertEqual(self.confirm(rpc, self.code()), USED)
        now = self.trace(login, user_id)
        self.assertEqual(now['failures'], before['failures'] + 1)
        self.assertEqual(now['replayed'], before['replayed'] + 1)
        self.assertTrue(now['e-mails'])

    def confirm(self, rpc, code):
        "Ask for new recovery codes. Return the next state or the answer."
        try:
            _, shown = rpc.overview('renew', code=code)
        except Refused as refused:
            return refused.args[1][0]
        self.assertTrue(shown['recovery_codes'])
        return 'done'

    def test_authenticators(self):
        "Test that the code of each authenticator is remembered separately"
        login, user_id = self.enrol()
        key = self.add_authenticator(user_id)
        self.received()
        self.now += 300
        codes = [self.code(), right_code(key, self.now)]
        for code in codes:
            self.assertEqual(self.answer(login, code), user_id)
        for code in codes:
            self.assertForgiven(login, user_id, code)
        for code in codes:
            self.assertCounted(login, user_id, code, ELSEWHERE)

    def test_known_device(self):
        "Test a known device, which has a count of its own"
        login, user_id = self.enrol()
        cookie = self.client(login).model('res.user.device', 'renew', None)
        code = self.code()
        self.assertEqual(
            self.answer(login, code, device_cookie=cookie), user_id)
        self.assertForgiven(login, user_id, code, device_cookie=cookie)
        self.assertForgiven(login, user_id, code)
        self.assertCounted(
            login, user_id, code, ELSEWHERE, device_cookie=cookie)

    def test_drift(self):
        "Test an authenticator whose clock is wrong"
        login, user_id = self.enrol()
        for _ in range(3):
            self.now += 30
            code = self.code(1)
            self.assertEqual(self.answer(login, code), user_id)
            self.assertForgiven(login, user_id, code)
        self.assertCounted(login, user_id, code, ELSEWHERE)

    def test_chain(self):
        "Test a chain in which a method follows and fails"
        self.set_config('session', 'authentications', 'password+totp+sms')
        login, user_id = self.enrol()
        code = self.code()
        sms_code = self.sms_code(user_id)
        self.assertEqual(self.answer(login, code, sms_code=sms_code), user_id)
        self.assertForgiven(login, user_id, code, sms_code='x')
        self.assertCounted(login, user_id, code, ELSEWHERE, sms_code='x')

    def test_first_factor(self):
        "Test that the answer is the same before a first factor"
        login, user_id = self.enrol()
        self.set_config('session', 'authentications', 'totp+password')
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        self.assertForgiven(login, user_id, code)
        self.assertForgiven(login, user_id, code, password='x')
        # For another login the code is just wrong
        self.assertEqual(
            self.answer(f'{login} not', code), tools.REFUSED)

    # What must not be possible

    def test_first_factor_counted(self):
        "Test that a used code that causes a delay reveals nothing else"
        self.set_config('session', 'authentications', 'totp+password')
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        for _ in range(2):
            self.answer(login, self.code(95))
        self.assertCounted(login, user_id, code, ELSEWHERE)
        self.assertEqual(self.answer(login, code, ELSEWHERE), tools.REFUSED)

    def test_guess(self):
        "Test that a used code that is not counted allows no more guesses"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        self.now += 30
        for count, answer in enumerate([WRONG, WRONG, WAIT % "30 seconds"]):
            for _ in range(3):
                self.assertEqual(self.answer(login, code), USED)
            self.assertEqual(self.answer(login, self.code(95)), answer)
            self.assertEqual(self.failures(user_id), count + 1)
        # The code ends no delay, and is not checked during one
        for entered in [code, self.code(), code]:
            self.assertEqual(
                self.answer(login, entered), WAIT % "30 seconds")
        self.assertEqual(self.failures(user_id), 3)

    def test_lock(self):
        "Test that the code is refused like any other during a lockout"
        self.set_totp('max_failures', '3')
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        for _ in range(3):
            self.answer(login, self.code(95), ELSEWHERE)
        self.now += 30
        self.assertEqual(self.answer(login, code), tools.LOCKED)

    def test_other_user(self):
        "Test that the code of one user is a wrong code for another"
        login, user_id = self.enrol()
        other, other_id = self.enrol(tools.OTHER_KEY)
        self.assertEqual(self.answer(login, self.code()), user_id)
        for count in range(2):
            self.assertEqual(self.answer(other, self.code()), WRONG)
            self.assertEqual(self.failures(other_id), count + 1)

    def test_replaced(self):
        "Test that a replaced authenticator leaves no code to forgive"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        with self.transaction():
            Pool().get('res.user')(user_id).set_totp_key(tools.OTHER_KEY)
        self.assertEqual(self.answer(login, code), WRONG)
        self.assertEqual(self.failures(user_id), 1)

    def test_clock_back(self):
        "Test that setting the clock back makes no used code valid again"
        login, user_id = self.enrol()
        code = self.code()
        self.assertEqual(self.answer(login, code), user_id)
        self.now -= 60
        for steps in range(-1, 3):
            self.assertIsInstance(self.answer(login, self.code(steps)), str)
        self.assertEqual(self.counters(user_id), [2_000_000_000 // 30])
