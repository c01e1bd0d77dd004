# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The users of the soak: what they do, and what must come of it

A person knows what the server must know about it. A request that a killed
server did not answer leaves this open: an administrator then resets the
person, as in life.
"""

import random
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

import pyotp

from benchmarks.soak_client import Client, Interrupted, Refused

PASSWORD = 'correct horse'
PERIOD = 30
# A code that took longer to arrive may be too old
LATE = 25
FREE_FAILURES = 3
MOST_AUTHENTICATORS = 3
SETUP = 'res.user.setup_totp'
WAIT = "Too many wrong codes"
WRONG = "The code is wrong"
USED = "already used"
PROMPT = "Enter the code from your authenticator for"


class NotNow(Exception):
    """The person cannot do it now, with the outcome to count

    Without one, the code that the authenticator shows has already been used.
    """


class World:
    """What all persons share

    ports: the ports of the servers
    accepted: how many sessions or changes each code was accepted for
    counts: how often each action ended how
    violations: what must not happen but did
    """

    def __init__(self, database, ports):
        self.database = database
        self.ports = ports
        self.accepted = Counter()
        self.counts = Counter()
        self.violations = []
        self._lock = threading.Lock()
        self._admin = None
        self._admin_lock = threading.Lock()

    def client(self, address):
        "Return a client of one of the servers."
        return Client(random.choice(self.ports), self.database, address)

    def count(self, action, outcome):
        "Count how an action ended."
        with self._lock:
            self.counts[action, outcome] += 1

    def accept(self, login, key, step):
        "Note that the code of the time step was accepted."
        with self._lock:
            self.accepted[login, key, step] += 1
            if self.accepted[login, key, step] > 1:
                self.violations.append(
                    f"{login}: a code was accepted twice")

    def violate(self, person, text):
        "Note that something happened that must not happen."
        with self._lock:
            self.violations.append(
                f'{time.strftime("%H:%M:%S")} {person.login}: {text}')

    def admin(self, function):
        "Call the function with the client of the administrator until it works"
        with self._admin_lock:
            while True:
                try:
                    if not self._admin:
                        client = self.client('192.0.2.1')
                        client.login('admin', {'password': PASSWORD})
                        self._admin = client
                    return function(self._admin)
                except Interrupted:
                    self._admin = None
                    time.sleep(1)
                except Refused as refused:
                    if refused.name != 401:
                        raise
                    self._admin = None


@dataclass
class Authenticator:
    "An app on the phone of a person"
    key: str
    name: str
    step: int = -1

    @property
    def is_fresh(self):
        "Return whether the person has not yet used the code that it shows."
        return int(time.time() // PERIOD) > self.step

    def take(self):
        "Return the code that it shows."
        if not self.is_fresh:
            raise NotNow
        self.step = int(time.time() // PERIOD)
        return self.code(self.step)

    def code(self, step):
        "Return the code of the time step."
        return pyotp.TOTP(self.key).at(step * PERIOD)


class Person:
    """A user, with a network of their own

    cookie: the cookie of the device, if the server knows it
    remembered: whether the device skips the code, None if unknown
    wrong: the number of wrong codes in a row, from a known device or not
    attacked: whether somebody else enters wrong codes
    unsure: the number of recovery codes that may have been used
    sleeping: the time until which the person does nothing
    dead: authenticators that were removed
    """

    def __init__(self, world, number, id_, attacked=False):
        self.world = world
        self.id = id_
        self.login = f'user{number}'
        self.address = f'198.51.{100 + number // 250}.{number % 250 + 1}'
        self.attacked = attacked
        self.lock = threading.Lock()
        self.named = 0
        self.sleeping = 0
        self.dead = []
        self.forget_all()

    def forget_all(self):
        "Start again without TOTP."
        self.dead += getattr(self, 'authenticators', [])
        self.authenticators = []
        self.recovery, self.spent, self.unsure = [], [], 0
        self.wrong = {True: 0, False: 0}
        self.forget_device()

    def forget_device(self):
        "Note that the server has forgotten the device."
        self.cookie = None
        self.remembered = False

    def violate(self, text):
        "Note that something happened that must not happen."
        self.world.violate(self, text)

    def waits(self, known_device):
        "Return whether codes may be refused because of wrong ones."
        return (self.wrong[known_device] >= FREE_FAILURES
            or self.attacked and not known_device)

    def fresh(self):
        "Return an authenticator whose code the person has not yet used."
        fresh = [a for a in self.authenticators if a.is_fresh]
        if not fresh:
            raise NotNow
        return random.choice(fresh)

    def wrong_code(self):
        "Return a code that is wrong for every authenticator and every drift."
        now = int(time.time() // PERIOD)
        right = {
            a.code(now + i) for a in self.authenticators
            for i in range(-15, 16)}
        while (code := f'{random.randrange(10 ** 6):06}') in right:
            pass
        return code

    # The login

    def dialog(self, code=None, device=True, address=None):
        """Log in as a client does: the password first, then the code.

        code: a function that returns the code once the server asks for it
        Return the client and whether the server asked for the code.
        """
        client = self.world.client(address or self.address)
        parameters = {'password': PASSWORD}
        if device and self.cookie:
            parameters['device_cookie'] = self.cookie
        asked = False
        try:
            client.login(self.login, parameters)
        except Refused as refused:
            if refused.name != 'LoginException' or not code:
                raise
            if PROMPT not in refused.message:
                self.violate(f"the prompt was {refused.message!r}")
            asked = True
            client.login(self.login, {**parameters, 'totp_code': code()})
        return client, asked

    def renew_device(self, client, remembered):
        "Ask for a new cookie, as a client does after each login."
        try:
            self.cookie = client.model(
                'res.user.device', 'renew', self.cookie)
        except Interrupted:
            self.cookie = None
            self.remembered = None
            raise
        if remembered:
            self.remembered = True

    def enter(self):
        """Log in with whatever is needed, and renew the device.

        Return the client and whether the server asked for a code.
        """
        known = bool(self.cookie)
        authenticator = (
            self.fresh() if self.authenticators and not self.remembered
            else None)
        try:
            client, asked = self.dialog(
                authenticator.take if authenticator else None)
        except Refused as refused:
            if not authenticator:
                self.forget_device()
                raise
            raise NotNow(
                self.refused_right(refused, authenticator, known)) from refused
        if asked:
            self.accepted(authenticator, known)
        elif authenticator and self.remembered is False:
            self.violate("no code was asked for")
        self.renew_device(client, asked)
        return client, asked

    def log_in(self):
        "Log in, work, and log out."
        client, asked = self.enter()
        self.work(client)
        if not self.authenticators:
            return 'without TOTP'
        return 'with a code' if asked else 'on a remembered device'

    def accepted(self, authenticator, known_device=False):
        "Note that the last code of the authenticator was accepted."
        self.world.accept(self.login, authenticator.key, authenticator.step)
        self.wrong[known_device] = 0

    def refused_right(self, refused, authenticator, known):
        "Return the outcome of a right code that was refused."
        age = time.time() - authenticator.step * PERIOD
        if WAIT in refused.message and self.waits(known):
            return self.regain(known)
        if age > PERIOD + LATE:
            return 'code came late'
        self.violate(
            f"a right code was refused with {refused.name} "
            f"{refused.message!r}, {age:.0f} s after its time step began; "
            f"known device: {known}, wrong: {self.wrong}")
        return 'violation'

    def regain(self, known):
        "End the delay after wrong codes."
        choice = random.random()
        if self.wrong[known] == FREE_FAILURES and choice < .4:
            self.sleeping = time.time() + PERIOD + 2
            return 'had to wait'
        if self.recovery and choice < .7:
            self.recover()
            return 'had to wait, recovered'
        self.unlock()
        return 'had to wait, unlocked'

    def work(self, client):
        "Read the preferences, and log out most of the time."
        client.model('res.user', 'get_preferences', True)
        if random.random() < .8:
            client.logout()

    def mistype(self):
        "Enter one to three wrong codes."
        if not self.authenticators or self.remembered is not False:
            return 'nothing to do'
        known = bool(self.cookie)
        for _ in range(random.choice([1, 1, 2, 3])):
            before = self.waits(known)
            # A request without an answer may have been counted
            self.wrong[known] += 1
            try:
                self.dialog(self.wrong_code)
            except Refused as refused:
                right = WRONG in refused.message or WAIT in refused.message
                if refused.name != 'LoginException' or not right:
                    self.violate(
                        f"a wrong code was answered with {refused.message!r}")
                if WAIT in refused.message and not (
                        before or self.waits(known)):
                    self.violate("a wrong code caused a delay too early")
            else:
                self.violate("a wrong code was accepted")
        return 'refused'

    def replay(self):
        "Log in, then enter the same code again, here and elsewhere."
        authenticator = self.fresh()
        try:
            client, asked = self.dialog(authenticator.take, device=False)
        except Refused as refused:
            return self.refused_right(refused, authenticator, False)
        if not asked:
            self.violate("no code was asked for without a device")
            return 'violation'
        self.accepted(authenticator)
        code = authenticator.code(authenticator.step)
        for address in [self.address, None, self.address]:
            own = address == self.address
            try:
                self.dialog(
                    lambda: code, device=False,
                    address=address or random_address())
            except Refused as refused:
                if not any(
                        text in refused.message
                        for text in [USED, WAIT, WRONG]):
                    self.violate(
                        f"a used code was answered with {refused.message!r}")
                if own and WAIT in refused.message and not self.waits(False):
                    self.violate("a used code caused a delay")
            else:
                self.world.accept(
                    self.login, authenticator.key, authenticator.step)
            if not own:
                self.wrong[False] += 1
        client.logout()
        return 'refused'

    def race(self):
        "Send the same code several times at once to both servers."
        authenticator = self.fresh()
        code = authenticator.take()
        sessions, interrupted, texts = [], [], []

        def send():
            "Send password and code together, as a script does."
            client = self.world.client(self.address)
            try:
                client.login(
                    self.login, {'password': PASSWORD, 'totp_code': code})
            except Interrupted as error:
                interrupted.append(error)
            except Refused as refused:
                texts.append(refused.message)
            else:
                sessions.append(client)
                self.accepted(authenticator)
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if (not sessions and not interrupted and not self.waits(False)
                and time.time() - authenticator.step * PERIOD < LATE):
            self.violate(f"no session came of a right code: {texts}")
        return f'{len(sessions)} sessions'

    # Recovery codes

    def recover(self):
        "Log in with a recovery code."
        code = self.recovery.pop()
        self.unsure += 1
        try:
            client, asked = self.dialog(lambda: code, device=False)
        except Refused as refused:
            self.violate(
                f"a recovery code was refused with {refused.message!r}")
            return None
        self.unsure -= 1
        if not asked:
            self.violate("no code was asked for without a device")
        self.spent.append(code)
        self.wrong = {True: 0, False: 0}
        return client

    def use_recovery_code(self):
        "Log in with a recovery code, or with a used one."
        if self.spent and random.random() < .4:
            code = random.choice(self.spent)
            try:
                self.dialog(lambda: code, device=False)
            except Refused as refused:
                if USED not in refused.message:
                    self.violate(
                        "a used recovery code was answered with "
                        f"{refused.message!r}")
                return 'used, refused'
            self.violate("a recovery code was accepted twice")
            return 'violation'
        if not self.recovery:
            return 'nothing to do'
        client = self.recover()
        if client and random.random() < .5:
            return self.replace(client)
        return 'accepted'

    def replace(self, client):
        "Set up the new phone after a login with a recovery code."
        with self.settled():
            session_id, start, _ = client.wizard(SETUP, 'create')
            new, recovery = self.enrol(client, session_id, start)
        self.dead += self.authenticators
        self.changed(client, [new], recovery)
        return 'accepted, replaced'

    # The wizard

    def overview(self, client, button, **values):
        """Open the overview and press the button with a fresh code.

        Return the id of the wizard's session, and what it shows next.
        """
        session_id, start, _ = client.wizard(SETUP, 'create')
        client.wizard(SETUP, 'execute', session_id, {}, start)
        authenticator = self.fresh()
        data = {start: {'code': authenticator.take(), **values}}
        try:
            try:
                result = client.wizard(
                    SETUP, 'execute', session_id, data, button)
            except Refused as refused:
                # The warning comes before the code is used up
                if refused.name != 'UserWarning':
                    raise
                client.model(
                    'res.user.warning', 'skip', refused.args[1][0])
                result = client.wizard(
                    SETUP, 'execute', session_id, data, button)
        except Refused as refused:
            if WAIT in refused.message:
                raise NotNow(self.refused_right(
                        refused, authenticator, False)) from refused
            raise
        self.accepted(authenticator)
        return session_id, result

    def enrol(self, client, session_id, state):
        "Scan the key and confirm it. Return authenticator, recovery codes."
        view = client.wizard(SETUP, 'execute', session_id, {}, state)['view']
        return self.confirm(client, session_id, view['defaults'])

    def confirm(self, client, session_id, shown):
        "Enter the name and the code of the new authenticator."
        self.named += 1
        new = Authenticator(
            shown['secret'].replace(' ', ''), f'Phone {self.named}')
        self.candidate = new
        result = client.wizard(SETUP, 'execute', session_id, {
                'start': {**shown, 'name': new.name, 'code': new.take()},
                }, 'confirm')
        self.world.accept(self.login, new.key, new.step)
        codes = result['view']['defaults'].get('recovery_codes') or ''
        return new, codes.splitlines()

    def changed(self, client, authenticators, recovery=None):
        "Note the new authenticators. The change ends the session."
        self.authenticators = authenticators
        if recovery:
            self.recovery, self.spent, self.unsure = recovery, [], 0
        self.forget_device()
        try:
            client.model('res.user', 'get_preferences', True)
        except Refused as refused:
            if refused.name != 401:
                raise
        else:
            self.violate("a session outlived the change")

    @contextmanager
    def settled(self):
        "Let an administrator reset the person if the server does not answer."
        self.candidate = None
        try:
            yield
        except Interrupted:
            self.settle()
            raise

    def settle(self):
        "Check that the person can log in somehow, then reset the person."
        enabled = self.world.admin(lambda client: client.model(
                'res.user', 'read', [self.id], ['totp_enabled']))[0][
                    'totp_enabled']
        keys = [*self.authenticators, *filter(None, [self.candidate])]
        if enabled:
            self.unlock()
            if not any(map(self.works, keys)):
                self.violate("an interrupted change locked the user out")
        elif len(self.authenticators) > 1:
            self.violate("an interrupted change turned TOTP off")
        self.dead += filter(None, [self.candidate])
        self.reset()

    def works(self, authenticator):
        "Return whether a login with the authenticator works."
        while True:
            try:
                while not authenticator.is_fresh:
                    time.sleep(1)
                _, asked = self.dialog(authenticator.take, device=False)
            except Interrupted:
                time.sleep(2)
            except Refused:
                return False
            else:
                if asked:
                    self.world.accept(
                        self.login, authenticator.key, authenticator.step)
                return asked

    def set_up(self):
        "Set up TOTP."
        if self.authenticators:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            session_id, start, _ = client.wizard(SETUP, 'create')
            if random.random() < .1:
                client.wizard(SETUP, 'execute', session_id, {}, start)
                return 'given up'
            new, recovery = self.enrol(client, session_id, start)
        self.changed(client, [new], recovery)
        return 'done'

    def add(self):
        "Add an authenticator."
        if not 0 < len(self.authenticators) < MOST_AUTHENTICATORS:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            session_id, result = self.overview(client, 'add')
            new, _ = self.confirm(
                client, session_id, result['view']['defaults'])
            self.changed(client, [*self.authenticators, new])
        return 'done'

    def number(self, client, authenticator):
        "Return the number by which the wizard knows the authenticator."
        choices = client.model(f'{SETUP}.overview', 'get_authenticators')
        numbers = [n for n, name in choices if name == authenticator.name]
        if len(numbers) != 1:
            self.violate(f"{authenticator.name} is {numbers} of {choices}")
            raise NotNow
        return numbers[0]

    def remove(self):
        "Remove one of several authenticators."
        if len(self.authenticators) < 2:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            removed = random.choice(self.authenticators)
            number = self.number(client, removed)
            self.overview(client, 'remove', authenticator=number)
            self.dead.append(removed)
            self.changed(
                client, [a for a in self.authenticators if a is not removed])
        return 'done'

    def rename(self):
        "Rename an authenticator."
        if not self.authenticators:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            renamed = random.choice(self.authenticators)
            self.named += 1
            name = f'Phone {self.named}'
            number = self.number(client, renamed)
            self.overview(client, 'rename', authenticator=number, name=name)
            renamed.name = name
        return 'done'

    def renew(self):
        "Generate new recovery codes."
        if not self.authenticators:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            _, result = self.overview(client, 'renew')
            self.recovery = result['view']['defaults'][
                'recovery_codes'].splitlines()
            self.spent, self.unsure = [], 0
        return 'done'

    def forget(self):
        "Forget the remembered devices."
        if not self.authenticators:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            self.overview(client, 'forget', device='all')
            self.forget_device()
        return 'done'

    def turn_off(self):
        "Turn TOTP off."
        if not self.authenticators or self.attacked:
            return 'nothing to do'
        client, _ = self.enter()
        with self.settled():
            self.overview(client, 'turn_off')
            self.changed(client, [])
            self.forget_all()
        return 'done'

    # The administrator

    def unlock(self):
        "Let an administrator unlock the codes."
        try:
            self.world.admin(lambda client: client.model(
                    'res.user', 'unlock_totp', [self.id]))
        except Refused as refused:
            # The button is invisible while no wrong codes count
            if 'You can not call' not in refused.message:
                raise
        self.wrong = {True: 0, False: 0}
        return 'done'

    def reset(self):
        "Let an administrator reset TOTP."
        context = {
            'active_model': 'res.user',
            'active_id': self.id,
            'active_ids': [self.id],
            }

        def reset(client):
            wizard = 'res.user.reset_totp'
            session_id, start, _ = client.wizard(wizard, 'create', **context)
            client.wizard(
                wizard, 'execute', session_id, {}, start, **context)
            client.wizard(
                wizard, 'execute', session_id, {}, 'reset', **context)
        self.world.admin(reset)
        self.forget_all()
        return 'done'

    # Each action with its weight. The others are for persons whom nobody
    # attacks, because an attacker elsewhere makes codes from there wait.
    ACTIONS = {
        'log_in': 30,
        'set_up': 12,
        }
    UNATTACKED = {
        'mistype': 5,
        'replay': 2,
        'race': 4,
        'use_recovery_code': 2,
        'add': 3,
        'remove': 3,
        'rename': 1,
        'renew': 1,
        'forget': 2,
        'turn_off': 1,
        'unlock': 1,
        'reset': 1,
        }

    def act(self):
        "Do something at random."
        actions = dict(self.ACTIONS)
        if not self.attacked:
            actions.update(self.UNATTACKED)
        name, = random.choices(list(actions), actions.values())
        if name in {'replay', 'race'} and not self.authenticators:
            return
        try:
            outcome = getattr(self, name)()
        except NotNow as error:
            outcome = str(error) or 'not now'
        except Interrupted:
            outcome = 'interrupted'
            time.sleep(1)
        except Refused as refused:
            outcome = f'refused: {refused.name}'
            self.violate(
                f"{name} was refused with {refused.name} "
                f"{refused.message[:300]!r}")
        self.world.count(name, outcome)


def random_address():
    "Return an address of a network that belongs to no person."
    return '.'.join(str(random.randint(1, 99)) for _ in range(4))


def attack(person, requests):
    "Guess codes of the person at once from many networks."
    refused = Counter()

    def guess():
        "Send the password, which the attacker knows, and a wrong code."
        client = person.world.client(random_address())
        try:
            client.login(person.login, {
                    'password': PASSWORD,
                    'totp_code': person.wrong_code(),
                    })
        except Interrupted:
            refused['interrupted'] += 1
        except Refused as error:
            refused[error.name] += 1
        else:
            person.violate("an attacker logged in")
    threads = [threading.Thread(target=guess) for _ in range(requests)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, number in refused.items():
        for _ in range(number):
            person.world.count('attack', name)
