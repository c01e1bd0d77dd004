# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The count of wrong codes, which cause delays and finally a lockout"

import datetime as dt
import json
import math
from typing import NamedTuple

from sql import Conflict, For, Literal, With
from sql.aggregate import Count
from sql.conditionals import Greatest
from sql.functions import Abs

from trytond import backend
from trytond.i18n import gettext, ngettext
from trytond.model import ModelSQL, Unique, fields
from trytond.pool import Pool
from trytond.transaction import Transaction

from . import clock, settings
from .exceptions import TOTPWaitError

# From this number of consecutive failures on, the user has to wait
FREE_FAILURES = 3
# Several authenticators divide the limit, but must leave room for misprints
_MIN_LIMIT = 3
_MIN_WAIT = 30
_MAX_WAIT = 60 * 60
# The failures of each kind are counted separately
_ELSEWHERE = 'elsewhere'
_KNOWN_DEVICE = 'known_device'
_RECOVERY = 'recovery'
_KINDS = [_ELSEWHERE, _KNOWN_DEVICE, _RECOVERY]
# Recovery codes are too long to guess, so wrong ones cause no delay or lockout
_LOCKING = [_ELSEWHERE, _KNOWN_DEVICE]
# An event is recorded each time so many wrong recovery codes come in a row
_RECOVERY_FAILURES = 100


def wait(consecutive):
    """Return for how many seconds no code is evaluated after that many
    consecutive failures (NIST SP 800-63B-4 section 3.2.2).
    """
    if consecutive < FREE_FAILURES:
        return 0
    # Without this bound the power would become a huge number
    doublings = min(consecutive - FREE_FAILURES, 10)
    return min(_MIN_WAIT * 2 ** doublings, _MAX_WAIT)


class Failures(NamedTuple):
    """The failures of a user of one kind

    count: how many count towards the lockout
    consecutive: how many there were since the last right code
    networks: the part of count that came from each network, as JSON
    """
    user: int
    kind: str
    count: int = 0
    consecutive: int = 0
    networks: str = '{}'

    def by_network(self):
        "Return the number of failures by network, as text."
        return json.loads(self.networks)


class UserTOTPGuess(ModelSQL):
    """The wrong codes of a user, a row for each kind

    A right code ends the delay, but forgives only the failures of its own
    network: an attacker who knows the password could otherwise go on for
    ever, because the owner logs in every morning.

    The failures of known devices are counted separately, so that an attacker
    elsewhere cannot lock them out.

    The rows are separate from res.user, so that no login waits for a
    transaction that edits the user. They have no foreign key for the same
    reason.

    The rows with a negative user are decoys. A login without TOTP locks and
    updates one of them, as a login with TOTP does its own row. Response times,
    above all those of parallel requests, would otherwise tell them apart.
    """
    __name__ = 'res.user.totp_guess'
    __string__ = "TOTP Guess"

    user = fields.Integer("User", required=True)
    kind = fields.Selection([
            (_ELSEWHERE, "Elsewhere"),
            (_KNOWN_DEVICE, "Known Device"),
            (_RECOVERY, "Recovery Code"),
            ], "Kind", required=True, sort=False)
    # How many count towards the lockout
    failures = fields.Integer("Failures", required=True)
    # How many there were since the last right code
    consecutive = fields.Integer("Consecutive Failures", required=True)
    # The time of the last failure, in seconds since the epoch
    failed = fields.Float("Last Failure", required=True)
    # For how many seconds after it no code is evaluated
    wait = fields.Integer("Wait", required=True)
    # The part of failures that came from each network, as JSON
    networks = fields.Text("Networks", required=True)

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_constraints += [
            ('user_kind_unique', Unique(table, table.user, table.kind),
                'authentication_totp.msg_totp_guess_user_kind_unique'),
            ]

    @classmethod
    def __register__(cls, module):
        pool = Pool()
        DecoyKey = pool.get('res.user.totp_decoy_key')
        super().__register__(module)
        cls.start(DecoyKey.users())

    @classmethod
    def start(cls, user_ids):
        "Create the missing rows of the users, without failures."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        columns = [
            table.user, table.kind, table.failures, table.consecutive,
            table.failed, table.wait, table.networks]
        for kind in _KINDS:
            cursor.execute(*table.insert(
                    columns,
                    [[id_, kind, 0, 0, 0, 0, '{}'] for id_ in user_ids],
                    on_conflict=Conflict(
                        table, indexed_columns=[table.user, table.kind])))

    @classmethod
    def kind_of(cls, recovery, known_device):
        """Return the kind of a code.

        recovery: whether it looks like a recovery code
        known_device: whether it comes from a device that the user has used
        """
        if recovery:
            return _RECOVERY
        return _KNOWN_DEVICE if known_device else _ELSEWHERE

    @classmethod
    def failures_of(cls, row):
        "Return the Failures of a row that query_allowed found."
        return Failures(*row)

    @classmethod
    def query_allowed(cls, user, kind):
        """Return a query for the Failures of the user, for the clause WITH.

        It locks the row against parallel guesses. While the user has to wait
        it finds no row, so that a flood of guesses waits for no lock. Recovery
        codes are always evaluated, so their row is not locked.

        user: an id, or an expression for it
        kind: as kind_of returns it
        """
        table = cls.__table__()
        query = table.select(
            table.user, table.kind, table.failures, table.consecutive,
            table.networks,
            where=(table.user == user) & (table.kind == kind))
        if kind in _LOCKING:
            # With abs, setting the clock back does not prolong the wait
            query.where &= Abs(table.failed - clock.now()) >= table.wait
            if Transaction().database.has_select_for():
                query.for_ = For('UPDATE')
        return With(query=query)

    @classmethod
    def _is_locked(cls, table):
        "Return the SQL condition that the codes of the user are locked."
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        counter = Counter.__table__()
        number = counter.select(
            Count(Literal(1)), where=counter.user == table.user)
        # The same as failures >= max_failures // number
        return ((table.failures >= _MIN_LIMIT)
            & ((table.failures + 1) * Greatest(number, 1)
                > settings.get('max_failures')))

    @classmethod
    def is_locked(cls, failures, authenticators):
        """Return whether the failures lock the codes of a user with that many
        authenticators.
        """
        return (failures.kind in _LOCKING
            and failures.count >= cls.limit(authenticators))

    @classmethod
    def limit(cls, authenticators):
        "Return how many failures lock the codes of that many authenticators."
        return max(
            settings.get('max_failures') // max(authenticators, 1),
            _MIN_LIMIT)

    @classmethod
    def allows(cls, user_id, authenticators):
        """Return whether that many authenticators would leave the codes of the
        user unlocked.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.user == user_id) & table.kind.in_(_LOCKING)
                & (table.failures >= cls.limit(authenticators))))
        return not cursor.fetchone()

    @classmethod
    def fail(cls, failures):
        """Count one more failure and return the new Failures.

        The root user has no row, so its failures are not counted.
        Raise DatabaseOperationalError, so that trytond repeats the login, if
        another request has changed the failures since they were read.
        """
        networks = failures.by_network()
        network = cls.network()
        networks[network] = networks.get(network, 0) + 1
        new = failures._replace(
            count=failures.count + 1, consecutive=failures.consecutive + 1,
            networks=json.dumps(networks))
        cls._change(
            failures, new, wait=wait(new.consecutive),
            failed=float(clock.now()))
        return new

    @classmethod
    def network(cls):
        "Return the network that the request comes from, as text."
        _, network = Transaction().remote_address()
        return str(network) if network else ''

    @classmethod
    def forgive(cls, failures):
        """End the delay after a right code, and forget the failures of the
        network that the code comes from.

        Raise DatabaseOperationalError as fail does.
        """
        networks = failures.by_network()
        own = networks.pop(cls.network(), 0)
        if own or failures.consecutive:
            new = failures._replace(
                count=failures.count - own, consecutive=0,
                networks=json.dumps(networks))
            cls._change(failures, new, wait=0)

    @classmethod
    def _change(cls, old, new, **values):
        table = cls.__table__()
        values.update(
            failures=new.count, consecutive=new.consecutive,
            networks=new.networks)
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [getattr(table, name) for name in values],
                list(values.values()),
                where=(table.user == old.user) & (table.kind == old.kind)
                & cls.unchanged(table, old)))
        if not cursor.rowcount and old.user:
            raise backend.DatabaseOperationalError("concurrent TOTP codes")

    @classmethod
    def unchanged(cls, table, failures):
        "Return the SQL condition that no request has changed the failures."
        return ((table.failures == failures.count)
            & (table.consecutive == failures.consecutive))

    @classmethod
    def query_unchanged(cls, failures):
        "Return a query that finds a row if nothing changed the failures."
        table = cls.__table__()
        return table.select(
            table.id,
            where=(table.user == failures.user)
            & (table.kind == failures.kind)
            & cls.unchanged(table, failures))

    @classmethod
    def record(cls, failures, authenticators, silent):
        """Record an event if the number of failures calls for one.

        failures: the Failures, including the last one
        authenticators: how many the user has
        silent: whether no factor has passed before, so that the failures say
            nothing about the password, and the owner is told only of a lockout
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        User = pool.get('res.user')
        # A decoy belongs to no user, so the event names none
        users = [User(failures.user if failures.user > 0 else None)]
        if failures.kind == _RECOVERY:
            if (failures.consecutive == FREE_FAILURES
                    or not failures.consecutive % _RECOVERY_FAILURES):
                Event.record(users, 'recovery_failed', tell=not silent)
        elif (failures.user > 0
                and failures.count == cls.limit(authenticators)):
            Event.record(
                users, 'locked' if failures.kind == _ELSEWHERE
                else 'device_locked')
        elif failures.consecutive == FREE_FAILURES:
            Event.record(users, 'failed', tell=not silent)

    @classmethod
    def raise_wait(cls, user, kind):
        """Raise TOTPWaitError if no code of the user is evaluated now.

        user: an id, or a query for it that may find none
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                cls._is_locked(table), table.failed, table.wait,
                where=(table.user == user) & (table.kind == kind)))
        for locked, failed, seconds in cursor:
            if locked or seconds:
                raise TOTPWaitError(cls._explain_wait(
                        locked, seconds - abs(clock.now() - failed)))

    @classmethod
    def explain_wait(cls, failures, authenticators):
        """Return the text that says when codes are evaluated again, None if
        the user does not have to wait.

        failures: the Failures, including one that has just happened
        authenticators: how many the user has
        """
        locked = cls.is_locked(failures, authenticators)
        seconds = wait(failures.consecutive)
        if locked or seconds:
            return cls._explain_wait(locked, seconds)

    @classmethod
    def _explain_wait(cls, locked, seconds):
        if locked:
            return gettext('authentication_totp.msg_totp_locked')
        seconds = max(math.ceil(seconds), 1)
        unit, number = 'seconds', seconds
        if seconds > 60:
            unit, number = 'minutes', math.ceil(seconds / 60)
        return gettext(
            'authentication_totp.msg_totp_wait',
            time=ngettext(
                f'authentication_totp.msg_totp_{unit}', number,
                number=number))

    @classmethod
    def unlock(cls, user_ids):
        "Forget the failures of the users."
        table = cls.__table__()
        cls._forget(table, fields.SQL_OPERATORS['in'](table.user, user_ids))

    @classmethod
    def unlock_codes(cls, user_id):
        "Forget the failures of the user except wrong recovery codes."
        table = cls.__table__()
        cls._forget(
            table, (table.user == user_id) & table.kind.in_(_LOCKING))

    @classmethod
    def clean(cls):
        "Forget the failures of the decoys."
        table = cls.__table__()
        cls._forget(table, (table.user < 0) & (table.consecutive > 0))

    @classmethod
    def _forget(cls, table, where):
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.failures, table.consecutive, table.wait,
                    table.networks],
                [0, 0, 0, '{}'], where=where))

    @classmethod
    def status(cls, user_ids):
        """Return for each user a dictionary of the fields of res.user that
        describe the failures.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        status = dict.fromkeys(user_ids, {
                'totp_failures': 0, 'totp_waiting_until': None,
                'totp_locked': False,
                })
        cursor.execute(*table.select(
                table.user, table.failures, table.failed, table.wait,
                cls._is_locked(table),
                where=fields.SQL_OPERATORS['in'](table.user, user_ids)
                & table.kind.in_(_LOCKING)))
        now = clock.now()
        for user_id, failures, failed, seconds, locked in cursor:
            values = status[user_id].copy()
            values['totp_failures'] += failures
            values['totp_locked'] |= bool(locked)
            if abs(now - failed) < seconds:
                values['totp_waiting_until'] = max(
                    clock.second(failed + seconds),
                    values['totp_waiting_until'] or dt.datetime.min)
            status[user_id] = values
        return status

    @classmethod
    def locked(cls):
        "Return a query for the users whose codes are locked."
        table = cls.__table__()
        return table.select(
            table.user,
            where=table.kind.in_(_LOCKING) & cls._is_locked(table))
