# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The authenticators of a user, and the verification of a code"

import functools
import logging
from typing import NamedTuple

from sql import Conflict
from sql.aggregate import Max, Min
from sql.conditionals import Coalesce
from sql.operators import Exists

from trytond import backend
from trytond.i18n import gettext
from trytond.model import ModelSQL, Unique, fields
from trytond.pool import Pool
from trytond.tools import sqlite_apply_types
from trytond.transaction import Transaction, without_check_access

from . import clock, refusal, seal, settings, totp

logger = logging.getLogger(__name__)

# The root user has no secret
_NOBODY = 0
_MAX_NAME_LENGTH = 100
# The largest value of the setting max_authenticators
_MOST = 10
# Secrets of no user, which make the work the same for every login
_DUMMIES = [totp.Secret.new(160, 'sha1', 6, 30).values for _ in range(_MOST)]


class Match(NamedTuple):
    """A right code, to be accepted by consume

    user: the id of its user
    failures: the Failures of its kind when it was verified
    number: the number of its authenticator, None for a recovery code
    state: the new State of that authenticator
    stale: whether the secrets of the user have to be sealed again
    recovery_code: the id of the recovery code, if it is one
    generation: the generation of the secrets, None for a recovery code
    """
    user: int
    failures: tuple
    number: int | None = None
    state: totp.State | None = None
    stale: bool = False
    recovery_code: int | None = None
    generation: int | None = None


class Stored(NamedTuple):
    """What the database stores about the user whose code is verified

    failures: the Failures of the kind of the code
    secrets: the sealed secrets in force, None if there are none
    generation: the generation of the secrets
    states: the State of each authenticator, by number
    networks: the network that the last accepted code of each authenticator
        came from, by number
    """
    failures: tuple
    secrets: str | None
    generation: int
    states: dict[int, totp.State]
    networks: dict[int, str]


class UserTOTPCounter(ModelSQL):
    """An authenticator of a user, with the last code that was accepted

    The rows are separate from res.user, so that no login waits for a
    transaction that edits the user. They have no foreign key for the same
    reason.

    The root user has rows, but no authenticator. They are read along with
    those of another user, so that each login reads the same number of rows.
    """
    __name__ = 'res.user.totp_counter'
    __string__ = "TOTP Counter"

    user = fields.Integer("User", required=True)
    # Unique among the authenticators of a user, and never reused
    number = fields.Integer("Number", required=True)
    name = fields.Char("Name", required=True)
    since = fields.DateTime("Since", required=True)
    last_used = fields.DateTime("Last Used")
    counter = fields.Integer("Counter", required=True)
    drift = fields.Integer("Drift", required=True)
    resync = fields.Integer("Resync")
    # The network that the last accepted code came from
    network = fields.Char("Network")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_constraints += [
            ('user_number_unique', Unique(table, table.user, table.number),
                'authentication_totp.msg_totp_counter_user_number_unique'),
            ]

    @classmethod
    def __register__(cls, module):
        super().__register__(module)
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        since = cls.since.sql_format(clock.second(clock.now()))
        cursor.execute(*table.insert(
                [table.user, table.number, table.name, table.since,
                    table.counter, table.drift],
                [[_NOBODY, number, '', since, -1, 0]
                    for number in range(_MOST)],
                on_conflict=Conflict(
                    table, indexed_columns=[table.user, table.number])))

    @classmethod
    def match(cls, secret, code):
        """Return the counter of the time step for which code is right.

        secret: a new Secret, which no code has confirmed yet
        Raise TOTPCodeError if code is right for no time step.
        """
        if settings.missing_libraries():
            raise refusal.UNREADABLE.get_error()
        counter = secret.match(code, clock.now(), settings.get('tolerance'))
        if counter is None:
            raise refusal.explain(
                code, [secret], refusal.WRONG_NEW).get_error()
        return counter

    @classmethod
    def verify(cls, user, code, known_device=False, decoy=None):
        """Return the Match of a right code of the user.

        user: the id of the user, or a query for it that may find none
        code: a code or a recovery code; what a client sent, of any type
        known_device: whether it comes from a device that the user has used
        decoy: the login, if the time must not reveal whether it has TOTP
        Raise TOTPCodeError if the code is wrong, TOTPCodeUsedError if it or a
        later one was already accepted (RFC 6238 section 5.2), and count the
        failure. The caller must commit before it answers the client.
        Raise TOTPCodeRepeatedError, and count no failure, if the code comes
        again from the network that used it, while the authenticator shows it.
        Raise TOTPUnreadableError if no key decrypts the secrets of the user.
        Raise TOTPWaitError, without checking the code, after too many failures
        (RFC 4226 section 7.3, NIST SP 800-63B-4 section 3.2.2).
        The code stays usable until consume accepts the match.
        """
        pool = Pool()
        DecoyKey = pool.get('res.user.totp_decoy_key')
        Guess = pool.get('res.user.totp_guess')
        recovery_hash = (
            totp.hash_recovery_code(code)
            if settings.get('recovery_codes') else None)
        kind = Guess.kind_of(bool(recovery_hash), known_device)
        silent = decoy is not None
        if silent:
            user = Coalesce(user, DecoyKey.choose(decoy))
        stored = cls._read(user, kind)
        if not silent and not (stored and stored.secrets):
            Guess.raise_wait(user, kind)
            raise refusal.WRONG.get_error()
        if recovery_hash:
            match, refused = cls._match_recovery_code(stored, recovery_hash)
        else:
            match, refused = cls._match_code(stored, code, silent)
        if refused:
            wait = None
            if recovery_hash:
                Guess.fail_recovery(stored.failures, silent)
            elif stored and refused.counted:
                wait = cls._count_failure(stored, refused, silent)
            else:
                # Do the same work as counting, so that time reveals nothing
                Guess.fail(Guess.failures_of((_NOBODY, kind, 0, 0, '{}')))
            raise refused.get_error(wait)
        return match

    @classmethod
    def _read(cls, user, kind):
        "Return the Stored of the user, None if no code may be evaluated."
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        User = pool.get('res.user')
        user_table = User.__table__()
        table = cls.__table__()
        allowed = Guess.query_allowed(user, kind)
        cursor = Transaction().connection.cursor()
        cursor.execute(*allowed
            .join(user_table, 'LEFT',
                condition=user_table.id == allowed.user)
            .join(table, condition=table.user.in_([allowed.user, _NOBODY]))
            .select(
                allowed.user, allowed.kind, allowed.failures,
                allowed.consecutive, allowed.networks,
                user_table.totp_secret, user_table.totp_generation,
                table.user, table.number,
                table.counter, table.drift, table.resync, table.network,
                order_by=[table.user.desc, table.number], limit=_MOST,
                with_=[allowed]))
        states, networks = {}, {}
        stored = None
        for *failures, secrets, generation, owner, number, counter, drift, \
                resync, network in cursor:
            if stored is None:
                stored = Stored(
                    Guess.failures_of(failures), secrets, generation or 0,
                    states, networks)
            if owner != _NOBODY:
                states[number] = totp.State(counter, drift, resync)
                networks[number] = network
        if stored and Guess.is_locked(stored.failures, len(states)):
            stored = None
        return stored

    @classmethod
    def _match_code(cls, stored, code, silent):
        "Return the Match or None, and the Refusal or None."
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        try:
            numbers, secrets, stale = cls._open(stored)
        except ValueError:
            if stored:
                logger.error(
                    "unreadable TOTP secret of user %s", stored.failures.user)
            return None, refusal.UNREADABLE
        if silent:
            # Do the same work however many authenticators the user has, so
            # that time reveals nothing
            secrets += [
                (totp.Secret.from_values(values), totp.State())
                for values in _DUMMIES[
                    len(secrets):settings.get('max_authenticators')]]
        verdict, index, states = totp.verify(
            secrets, code, clock.now(), settings.get('tolerance'))
        if verdict is totp.Verdict.RIGHT and index < len(numbers):
            return Match(
                stored.failures.user, stored.failures, numbers[index],
                states[index], stale,
                generation=stored.generation), None
        if stored:
            cls._put_resync(
                stored, dict(zip(numbers, states, strict=False)))
        del secrets[len(numbers):]
        if verdict is totp.Verdict.REPEATED:
            if stored.networks[numbers[index]] == Guess.network():
                return None, refusal.REPEATED
            return None, refusal.USED
        if verdict is totp.Verdict.USED:
            cls._warn_if_ahead(stored.failures.user, secrets)
            return None, refusal.USED
        if silent:
            return None, refusal.WRONG
        return None, refusal.explain(
            code, [secret for secret, _ in secrets], refusal.WRONG)

    @classmethod
    def _open(cls, stored):
        """Return the numbers of the authenticators, the Secret and State of
        each, and whether they have to be sealed again.

        Raise ValueError if no key decrypts them.
        """
        pool = Pool()
        User = pool.get('res.user')
        if missing := settings.missing_libraries():
            raise ValueError(f"missing libraries: {missing}")
        sealed = stored.secrets if stored else None
        if not sealed or sealed.startswith(seal.CLEAR):
            # Do the same work as for sealed secrets, so that time reveals
            # nothing
            keys = settings.get('encryption_keys')
            seal.unseal(_seal_for_nobody(keys), keys, owner=_NOBODY)
        if not sealed:
            return [], [], False
        secrets, stale = User.unseal_totp_secrets(
            stored.failures.user, sealed, stored.generation)
        numbers = [number for number in secrets if number in stored.states]
        return numbers, [
            (secrets[number], stored.states[number])
            for number in numbers], stale

    @classmethod
    def _match_recovery_code(cls, stored, hash_):
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        failures = stored.failures
        id_ = RecoveryCode.find(failures.user, hash_)
        if id_ is None or not stored.secrets:
            return None, refusal.WRONG_RECOVERY_CODE
        return Match(failures.user, failures, recovery_code=id_), None

    @classmethod
    def _count_failure(cls, stored, refused, silent):
        "Count the failure. Return the text about the wait, or None."
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Guess = pool.get('res.user.totp_guess')
        User = pool.get('res.user')
        failures = Guess.fail(stored.failures)
        if refused is refusal.USED:
            Event.record([User(failures.user)], 'replayed')
        authenticators = len(stored.states)
        Guess.record(failures, authenticators, silent)
        return Guess.explain_wait(failures, authenticators)

    @classmethod
    def _put_resync(cls, stored, states):
        "Store what a refused code reveals about the authenticators' clocks."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        for number, state in states.items():
            if state.resync != stored.states[number].resync:
                cursor.execute(*table.update(
                        [table.resync], [state.resync],
                        where=(table.user == stored.failures.user)
                        & (table.number == number)))

    @classmethod
    def consume(cls, match):
        """Accept the match, once, and forgive the failures of its network.

        Return the generation of the secrets that made the code, None for a
        recovery code.
        Raise DatabaseOperationalError if, since the verification, a code for
        the same or a later time step was accepted, the authenticator was
        removed, or another code was refused. Trytond then repeats the login,
        which finds out why the code is refused.
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        User = pool.get('res.user')
        # A separate transaction would need a second connection, and many
        # simultaneous logins would wait for each other's connections
        if match.recovery_code:
            cls._check_first(RecoveryCode.use(match.recovery_code))
            Guess.unlock_by_recovery(match.user, match.recovery_code)
            RecoveryCode.tell(match.user)
            return
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.counter, table.drift, table.resync, table.network,
                    table.last_used],
                [*match.state, Guess.network(), cls.last_used.sql_format(
                        clock.second(clock.now()))],
                where=(table.user == match.user)
                & (table.number == match.number)
                & (table.counter < match.state.counter)
                & Exists(Guess.query_unchanged(match.failures))))
        cls._check_first(cursor)
        Guess.forgive(match.failures)
        if match.stale:
            User.reseal_totp([User(match.user)])
        return match.generation

    @classmethod
    def _check_first(cls, cursor):
        # Where rows cannot be locked, another request may have been faster
        if not cursor.rowcount:
            raise backend.DatabaseOperationalError("concurrent TOTP codes")

    @classmethod
    def _warn_if_ahead(cls, user_id, secrets):
        for secret, state in secrets:
            ahead = state.counter * secret.period - clock.now()
            if ahead > (settings.get('tolerance') + 1) * secret.period:
                logger.error(
                    "the last code accepted of user %s is %d seconds ahead "
                    "of the clock, which was set back",
                    user_id, ahead)

    @classmethod
    @without_check_access
    def add(cls, user_id, number, name, counter):
        """Create the row of an authenticator.

        counter: the time step of the code that confirmed it, -1 for none
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        now = clock.second(clock.now())
        cls.create([{
                    'user': user_id,
                    'number': number,
                    'name': _clean(name) or cls.next_name(user_id),
                    'since': now,
                    'last_used': now if counter >= 0 else None,
                    'counter': counter,
                    'drift': 0,
                    'resync': None,
                    'network': Guess.network(),
                    }])
        Guess.start([user_id])

    @classmethod
    @without_check_access
    def next_name(cls, user_id):
        """Return the name of the user's next authenticator.

        user_id: None if it will be the only authenticator of its user
        """
        names = {c.name for c in cls.search([('user', '=', user_id)])}
        default = gettext('authentication_totp.msg_totp_authenticator')
        number = 1
        while (name := default if number == 1 else f'{default} {number}') \
                in names:
            number += 1
        return name

    @classmethod
    @without_check_access
    def describe(cls, user_id):
        """Return a list of dictionaries that describe the authenticators of
        the user, the oldest one first.
        """
        return [{
                'number': c.number,
                'name': c.name,
                'since': c.since,
                'last_used': c.last_used,
                } for c in cls.search(
                    [('user', '=', user_id)], order=[('number', 'ASC')])]

    @classmethod
    @without_check_access
    def get_name(cls, user_id, number):
        "Return the name of the authenticator, None if there is none."
        for counter in cls.search([
                    ('user', '=', user_id),
                    ('number', '=', number)]):
            return counter.name

    @classmethod
    @without_check_access
    def rename(cls, user_id, number, name):
        "Rename the authenticator, and return whether it exists."
        counters = cls.search([
                ('user', '=', user_id),
                ('number', '=', number),
                ])
        cls.write(counters, {'name': _clean(name)})
        return bool(counters)

    @classmethod
    @without_check_access
    def remove(cls, user_ids, number=None):
        "Delete the rows of the users, or only those with the number."
        domain = [('user', 'in', user_ids)]
        if number is not None:
            domain.append(('number', '=', number))
        cls.delete(cls.search(domain))

    @classmethod
    def status(cls, user_ids):
        """Return for each user a dictionary of the fields of res.user that
        describe the authenticators.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        query = table.select(
            table.user, Min(table.since).as_('since'),
            Max(table.last_used).as_('last_used'),
            where=fields.SQL_OPERATORS['in'](table.user, user_ids),
            group_by=table.user)
        if backend.name == 'sqlite':
            sqlite_apply_types(query, [None, 'DATETIME', 'DATETIME'])
        cursor.execute(*query)
        status = dict.fromkeys(
            user_ids, {'totp_since': None, 'totp_last_used': None})
        for user_id, since, last_used in cursor:
            status[user_id] = {
                'totp_since': since, 'totp_last_used': last_used}
        return status


def _clean(name):
    """Return the name of an authenticator as it is stored.

    The owner reads it in the e-mails about changes, which a mail server would
    refuse if it was very long. Administrators read one name a line.

    name: what a client sent, of any type
    """
    return totp.one_line(str(name or ''), _MAX_NAME_LENGTH)


@functools.cache
def _seal_for_nobody(keys):
    return seal.seal(_DUMMIES[:1], keys, clock.now(), owner=_NOBODY)
