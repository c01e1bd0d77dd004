# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""What the response time reveals: whether a user exists, has TOTP or must wait

The wrong code comes before the password, in JSON-RPC requests. The value is
the probability that the server takes longer for the first of two logins than
for the second: 0.5 reveals nothing, 0 and 1 reveal which is which. The range
covers all pairs of an unknown login and users without TOTP, with one and with
five authenticators. The tests compare the work that the server does.
"""

import gc
import itertools
import json
import time
from contextlib import ExitStack
from unittest.mock import patch

from werkzeug.test import Client

from benchmarks import tools
from benchmarks.results import figure
from trytond.modules.authentication_totp import clock, guess, totp
from trytond.pool import Pool
from trytond.protocols.wrappers import Response
from trytond.transaction import Transaction
from trytond.wsgi import app

DATABASE = 'silent'
# With fewer, chance alone would miss the goal now and then
TRIES = 600
NOW = 2_000_000_000
AUTHENTICATORS = 5
FREE = guess.FREE_FAILURES
# Which one of several consecutive wrong codes is measured
REQUESTS = {
    'first wrong code': 0,
    'third wrong code, which records an event': FREE - 1,
    'code during the delay': FREE,
    }
FIRST = 'first wrong code, or a code of a user who already has to wait'
UNKNOWN, WITHOUT, ONE = 'unknown', 'without TOTP', 'one authenticator'
FIVE = f'{AUTHENTICATORS} authenticators'
WAITING = 'already waiting'
GOAL = [0.44, 0.56]


def auc(first, second):
    "Return the probability that a time of first exceeds one of second."
    ordered = sorted([(t, True) for t in first] + [(t, False) for t in second])
    ranks = sum(
        rank for rank, (_, is_first) in enumerate(ordered, 1) if is_first)
    count = len(first)
    return (ranks - count * (count + 1) / 2) / (count * len(second))


class Guesser:
    "An attacker who guesses codes, in the process of the server"

    def __init__(self):
        self.client = Client(app, Response)
        one, five, waiting, without = tools.make_users(DATABASE, 4)
        tools.forget_totp(DATABASE, [without])
        added = tools.add_authenticators(
            DATABASE, five, AUTHENTICATORS, [NOW - 100 * tools.PERIOD])
        self.users = [one, five]
        self.waiting = waiting
        # This code is wrong for all users
        right = {
            tools.code_at(key, NOW // tools.PERIOD + step)
            for key in [one.key, five.key, waiting.key, *added]
            for step in range(-2 * totp.MAX_DRIFT, 2 * totp.MAX_DRIFT)}
        self.code = next(
            code for i in range(10 ** 6)
            if (code := f'{i:06}') not in right)
        self.logins = {
            UNKNOWN: 'nobody', WITHOUT: without.login, ONE: one.login,
            FIVE: five.login}

    def guess(self, login):
        "Return the response time for a wrong code, in seconds."
        data = json.dumps({
                'id': 1, 'method': 'common.db.login',
                'params': [login, {'totp_code': self.code}, 'en']})
        started = time.perf_counter()
        response = self.client.post(
            f'/{DATABASE}/rpc/', content_type='application/json', data=data)
        seconds = time.perf_counter() - started
        error, (name, *_) = json.loads(response.data)['error']
        assert (error, name) == ('LoginException', 'totp_code')
        return seconds

    def reset(self):
        "Forget all failures, except for the user who has to wait."
        with Transaction().start(DATABASE, 0):
            Guess = Pool().get('res.user.totp_guess')
            Guess.unlock([user.id for user in self.users])
            Guess.clean()
        tools.execute(DATABASE, 'DELETE FROM res_user_login_attempt')

    def run(self, logins, codes, tries):
        """Return the times by login and by position of the code.

        codes: the number of consecutive codes
        """
        times = {name: [[] for _ in range(codes)] for name in logins}
        names = list(logins)
        self.reset()
        for i in range(tries):
            # Refused requests may be part of reference cycles that hold
            # connections
            gc.collect()
            first = i % len(names)
            turn = names[first:] + names[:first]
            # Let each login be the first equally often, in both directions
            forward = i // len(names) % 2
            for name in turn if forward else reversed(turn):
                for values in times[name]:
                    values.append(self.guess(logins[name]))
                self.reset()
        return times


def compare(times, requests):
    "Return for each request the times by login, and the AUC of each pair."
    return {
        request: {
            'ms_median_and_quartiles': {
                name: [tools.percentile(values[number], p) * 1e3
                    for p in [50, 25, 75]]
                for name, values in times.items()},
            'auc': {
                f'{first} / {second}': auc(
                    times[first][number], times[second][number])
                for first, second in itertools.combinations(times, 2)},
            }
        for request, number in requests.items()}


def measure():
    "Return the figures and the data of the response times."
    tools.new_database(DATABASE)
    tools.set_config('session', 'authentications', 'totp+password')
    tools.set_config('session', 'max_attempt', str(10 ** 9))
    tries = tools.scaled(TRIES)
    with ExitStack() as stack:
        for patcher in [
                patch.object(clock, 'now', lambda: NOW),
                # Core delays the answer after failures
                patch('trytond.res.user.random'),
                patch('trytond.res.user.time')]:
            stack.enter_context(patcher)
        guesser = Guesser()
        for _ in range(FREE):
            guesser.guess(guesser.waiting.login)
        guesser.run(guesser.logins, FREE + 1, 5)
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        gc.disable()
        stack.callback(gc.enable)
        times = guesser.run(guesser.logins, FREE + 1, tries)
        waiting = guesser.run({
                **guesser.logins, WAITING: guesser.waiting.login}, 1, tries)
    data = compare(times, REQUESTS)
    data[FIRST] = compare(waiting, {FIRST: 0})[FIRST]
    figures = [
        figure(request, list(result['auc'].values()), 3, GOAL)
        for request, result in data.items()]
    return figures, {'attempts': tries, **data}
