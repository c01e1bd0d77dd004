# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The CPU and the time of one login through security.login

Each login is one request with all answers, like the last one of a dialog.
"""

import gc
import statistics
import time
from contextlib import ExitStack
from unittest.mock import patch

import trytond.config as config
from benchmarks import tools
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
PASSWORD = 'password'
CLEAR = 'password+totp, unencrypted'
SEALED = 'password+totp, encrypted'
FIVE = f'password+totp, encrypted, {AUTHENTICATORS} authenticators'
RECOVERY = 'password+totp, recovery code'
SMS = 'password+sms'
VARIANTS = [PASSWORD, CLEAR, SEALED, FIVE, RECOVERY, SMS]


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
        tools.add_authenticators(
            DATABASE, self.users[FIVE], AUTHENTICATORS, now)
        self.now, = now

    def parameters(self, variant):
        "Return what the user of the variant enters."
        user = self.users[variant]
        parameters = {'password': tools.PASSWORD}
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


def measure():
    "Return the table of the logins."
    tools.new_database(DATABASE)
    login = Login()
    with ExitStack() as stack:
        for patcher in [
                patch.object(clock, 'now', lambda: login.now),
                # Another thread renders and sends e-mails
                patch('trytond.modules.authentication_totp.event._MAILER')]:
            stack.enter_context(patcher)
        login.run(3)
        runs = [login.run(tools.scaled(LOGINS)) for _ in range(RUNS)]
        tools.set_passwords(DATABASE, CHEAP_HASH)
        stack.enter_context(
            patch('trytond.res.user.PASSWORD_HASH', CHEAP_HASH))
        login.run(3)
        cheap_runs = [
            login.run(tools.scaled(CHEAP_LOGINS)) for _ in range(RUNS)]
    tools.set_config('authentication_totp', 'encryption_keys', login.keys)
    rows = []
    for variant in VARIANTS:
        row = [variant]
        for i in range(2):
            values = [run[variant][i] for run in runs]
            ratios = [run[variant][i] / run[PASSWORD][i] for run in runs]
            row += [
                tools.milliseconds(statistics.median(values)),
                tools.spread(ratios, '{:.3f}')]
        goal = ''
        if variant in {SEALED, FIVE}:
            ratio = statistics.median(
                run[variant][0] / run[SMS][0] for run in runs)
            goal = f'CPU / password ≤ {GOAL}; CPU / sms ≤ 1: {ratio:.3f}'
        rows.append([*row, goal])
    return [
        f'Medians of {RUNS} runs of {tools.scaled(LOGINS)} logins each, '
        'with the lowest and the highest run in parentheses.\n',
        tools.table([
                'login', 'CPU ms', 'CPU / password', 'wall ms',
                'wall / password', 'goal'], rows),
        'The CPU time of argon2 varies by more than everything else takes. '
        'The next table shows runs of '
        f'{tools.scaled(CHEAP_LOGINS)} logins with a password hash that takes '
        'no time. Its ratio adds the difference to the CPU time of the '
        'password above:\n',
        cheap_table(cheap_runs, runs)]


def cheap_table(runs, dear_runs):
    "Return the table of the costs of a login without those of the password."
    password = statistics.median(run[PASSWORD][0] for run in dear_runs)
    rows = []
    for variant in VARIANTS:
        cpu = [run[variant][0] * 1e3 for run in runs]
        more = [
            (run[variant][0] - run[PASSWORD][0]) * 1e3 for run in runs]
        rows.append([
                variant, tools.spread(cpu), tools.spread(more),
                f'{1 + statistics.median(more) / password / 1e3:.3f}',
                f'≤ {GOAL}' if variant in {SEALED, FIVE} else ''])
    return tools.table([
            'login', 'CPU ms', 'CPU ms above password',
            'CPU / password', 'goal'], rows)
