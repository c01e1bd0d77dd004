# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The CPU time of one login, in one request with all answers

argon2 takes nearly all of it, and its own time varies by more than the module
adds. "Without noise" therefore adds what a login with a hash that costs
nothing takes more to the CPU time of the password. A login on a remembered
device is compared with a login by password that sends a device cookie too.
"""

import gc
import statistics
import time
from contextlib import ExitStack
from unittest.mock import patch

import trytond.config as config
from benchmarks import tools
from benchmarks.results import figure
from tests.cheap_hash import CHEAP_HASH
from trytond import security
from trytond.modules.authentication_totp import clock
from trytond.pool import Pool
from trytond.transaction import Transaction

DATABASE = 'login'
LOGINS = 30
CHEAP_LOGINS = 100
RUNS = 3
# Steps are so far apart that each recovery code causes an e-mail
STEPS = 121
AUTHENTICATORS = 5
GOAL = 1.03
DEVICE_GOAL = 1.02
PASSWORD = 'password'
COOKIE = 'password, device cookie'
CLEAR = 'password+totp, unencrypted'
SEALED = 'password+totp, encrypted'
FIVE = f'password+totp, encrypted, {AUTHENTICATORS} authenticators'
RECOVERY = 'password+totp, recovery code'
SMS = 'password+sms'
DEVICE = 'password+totp?totp_device, remembered device'
DEVICE_FIVE = f'{DEVICE}, {AUTHENTICATORS} authenticators'
VARIANTS = [
    PASSWORD, COOKIE, CLEAR, SEALED, FIVE, RECOVERY, SMS, DEVICE, DEVICE_FIVE]


class Login:
    "Logins with a clock that advances with each of them"

    def __init__(self):
        self.now = 2_000_000_000
        self.keys = config.get('authentication_totp', 'encryption_keys')
        self.users = dict(zip(VARIANTS, tools.make_users(
                    DATABASE, len(VARIANTS)), strict=True))
        user = self.users[CLEAR]
        with Transaction().start(DATABASE, 0) as transaction:
            tools.set_config('authentication_totp', 'encryption_keys', '')
            table = Pool().get('res.user').__table__()
            transaction.connection.cursor().execute(*table.update(
                    [table.totp_secret], [tools.seal(user)],
                    where=table.id == user.id))
        tools.set_config('authentication_totp', 'encryption_keys', self.keys)
        now = [self.now]
        for variant in [FIVE, DEVICE_FIVE]:
            tools.add_authenticators(
                DATABASE, self.users[variant], AUTHENTICATORS, now)
        self.now, = now
        self.cookies = {}

    def remember_devices(self):
        "Log in for the first time on the devices, as a client does."
        # The clock advances by months
        tools.set_config('authentication_totp', 'device_days', '365')
        pool = Pool(DATABASE)
        Session = pool.get('ir.session')
        Device = pool.get('res.user.device')
        context = {'_request': {}}
        for variant in [COOKIE, DEVICE, DEVICE_FIVE]:
            tools.set_config(
                'session', 'authentications', variant.partition(',')[0])
            user = self.users[variant]
            user_id, key = security.login(DATABASE, user.login, {
                    'password': tools.PASSWORD,
                    'totp_code': user.code(self.now),
                    }, context=context)
            with Transaction().start(DATABASE, user_id, context=context):
                Session.check(user_id, key)
                self.cookies[variant] = Device.renew(None)

    def parameters(self, variant):
        "Return what the user of the variant enters."
        user = self.users[variant]
        parameters = {'password': tools.PASSWORD}
        if variant in self.cookies:
            parameters['device_cookie'] = self.cookies[variant]
        if variant in {CLEAR, SEALED, FIVE}:
            parameters['totp_code'] = user.code(self.now)
        elif variant == RECOVERY:
            with Transaction().start(DATABASE, 0):
                RecoveryCode = Pool().get('res.user.totp_recovery_code')
                parameters['totp_code'] = RecoveryCode.renew(user.id)[0]
        elif variant == SMS:
            with Transaction().start(DATABASE, 0):
                SMSCode = Pool().get('res.user.login.sms_code')
                SMSCode.send(user.id)
                code, = SMSCode.search([('user_id', '=', user.id)])
                parameters['sms_code'] = code.code
        return parameters

    def log_in(self, variant):
        "Return the CPU time and the duration of a login, in seconds."
        self.now += STEPS * tools.PERIOD
        tools.set_config(
            'session', 'authentications', variant.partition(',')[0])
        tools.set_config(
            'authentication_totp', 'encryption_keys',
            '' if variant == CLEAR else self.keys)
        login = self.users[variant].login
        parameters = self.parameters(variant)
        cpu, wall = time.process_time(), time.perf_counter()
        session = security.login(DATABASE, login, parameters)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        assert session, variant
        return cpu, wall

    def run(self, logins):
        "Return the medians of both times for so many logins of each variant."
        times = {variant: [] for variant in VARIANTS}
        gc.collect()
        for i in range(logins):
            first = i % len(VARIANTS)
            for variant in VARIANTS[first:] + VARIANTS[:first]:
                times[variant].append(self.log_in(variant))
        tools.execute(DATABASE, 'DELETE FROM ir_session')
        return {
            variant: [statistics.median(values) for values in zip(
                    *times[variant], strict=True)]
            for variant in VARIANTS}


def by_variant(runs):
    "Return both times of each run in milliseconds, by variant."
    return {
        variant: {
            name: [run[variant][i] * 1e3 for run in runs]
            for i, name in enumerate(['cpu_ms', 'wall_ms'])}
        for variant in VARIANTS}


def ratio(times, variant, name='cpu_ms'):
    "Return the time of the variant divided by that of the password."
    return statistics.median(
        a / b for a, b in zip(
            times[variant][name], times[PASSWORD][name], strict=True))


class Quiet:
    """The CPU times of logins without the noise of argon2

    times, cheap_times: the times with argon2 and with the cheap hash
    """

    def __init__(self, times, cheap_times):
        self.password = statistics.median(times[PASSWORD]['cpu_ms'])
        self.times = cheap_times

    def more(self, variant):
        "Return the milliseconds above those of the password."
        return statistics.median(
            a - b for a, b in zip(
                self.times[variant]['cpu_ms'], self.times[PASSWORD]['cpu_ms'],
                strict=True))

    def ratio(self, variant, base=PASSWORD):
        "Return the CPU time divided by that of the other variant."
        return (
            (self.password + self.more(variant))
            / (self.password + self.more(base)))


def measure():
    "Return the figures and the data of the logins."
    tools.new_database(DATABASE)
    login = Login()
    with ExitStack() as stack:
        for patcher in [
                patch.object(clock, 'now', lambda: login.now),
                # Another thread renders and sends e-mails
                patch('trytond.modules.authentication_totp.event._MAILER')]:
            stack.enter_context(patcher)
        login.remember_devices()
        login.run(3)
        times = by_variant([
                login.run(tools.scaled(LOGINS)) for _ in range(RUNS)])
        tools.set_passwords(DATABASE, CHEAP_HASH)
        stack.enter_context(
            patch('trytond.res.user.PASSWORD_HASH', CHEAP_HASH))
        login.run(3)
        cheap_times = by_variant([
                login.run(tools.scaled(CHEAP_LOGINS)) for _ in range(RUNS)])
    tools.set_config('authentication_totp', 'encryption_keys', login.keys)
    quiet = Quiet(times, cheap_times)
    codes = {SEALED: 'password+totp', FIVE: f'{AUTHENTICATORS} authenticators'}
    devices = {DEVICE: 'remembered device', DEVICE_FIVE: (
            f'remembered device, {AUTHENTICATORS} authenticators')}
    figures = [
        figure('password, CPU ms', quiet.password, 1),
        figure('password+totp, CPU ms more', quiet.more(SEALED)),
        *(figure(f'{name}, CPU / password', ratio(times, variant), 3, GOAL)
            for variant, name in codes.items()),
        *(figure(
                f'{name}, CPU / password, without noise', quiet.ratio(variant),
                3, GOAL) for variant, name in codes.items()),
        *(figure(
                f'{name}, CPU / password+sms, without noise',
                quiet.ratio(variant, SMS), 3, 1)
            for variant, name in codes.items()),
        *(figure(
                f'{name}, CPU / password, without noise',
                quiet.ratio(variant, COOKIE), 3, DEVICE_GOAL)
            for variant, name in devices.items()),
        figure(
            'recovery code, CPU / password, without noise',
            quiet.ratio(RECOVERY), 3),
        figure(
            'password+totp, wall time / password',
            ratio(times, SEALED, 'wall_ms'), 3),
        ]
    return figures, {
        f'medians of {tools.scaled(LOGINS)} logins, by run': times,
        f'medians of {tools.scaled(CHEAP_LOGINS)} logins with the cheap hash, '
        'by run': cheap_times,
        }
