# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The verification of a code of an authenticator"

import functools
import logging
from typing import NamedTuple

from sql.conditionals import Coalesce
from sql.operators import Exists

from trytond import backend
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction

from . import clock, refusal, seal, settings, totp

logger = logging.getLogger(__name__)

# Secrets of no user, which make the work the same for every login
_DUMMIES = [
    totp.Secret.new(160, 'sha1', 6, 30).values
    for _ in range(settings.MAX_AUTHENTICATORS)]


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


class UserTOTPCounter(metaclass=PoolMeta):
    __name__ = 'res.user.totp_counter'

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
                Guess.fail(Guess.failures_of((cls._NOBODY, kind, 0, 0, '{}')))
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
            .join(table, condition=table.user.in_([allowed.user, cls._NOBODY]))
            .select(
                allowed.user, allowed.kind, allowed.failures,
                allowed.consecutive, allowed.networks,
                user_table.totp_secret, user_table.totp_generation,
                table.user, table.number,
                table.counter, table.drift, table.resync, table.network,
                order_by=[table.user.desc, table.number],
                limit=settings.MAX_AUTHENTICATORS, with_=[allowed]))
        states, networks = {}, {}
        stored = None
        for *failures, secrets, generation, owner, number, counter, drift, \
                resync, network in cursor:
            if stored is None:
                stored = Stored(
                    Guess.failures_of(failures), secrets, generation or 0,
                    states, networks)
            if owner != cls._NOBODY:
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
        dummies = []
        if silent:
            # Do the same work however many authenticators the user has, so
            # that time reveals nothing
            dummies = [
                (totp.Secret.from_values(values), totp.State())
                for values in _DUMMIES[
                    len(secrets):settings.get('max_authenticators')]]
        verdict, index, states = totp.verify(
            secrets, code, clock.now(), settings.get('tolerance'), dummies)
        if verdict is totp.Verdict.RIGHT:
            return Match(
                stored.failures.user, stored.failures, numbers[index],
                states[index], stale,
                generation=stored.generation), None
        if stored:
            cls._put_resync(stored, dict(zip(numbers, states, strict=True)))
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
            place = User(cls._NOBODY)._totp_place(None, 0)
            seal.unseal(_seal_dummy(keys, **place), keys, **place)
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


@functools.cache
def _seal_dummy(keys, **place):
    return seal.seal(_DUMMIES[:1], keys, clock.now(), **place)
