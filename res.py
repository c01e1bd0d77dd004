# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import logging
from typing import NamedTuple

from sql import Conflict, Literal, Null
from sql.conditionals import Case, Coalesce

from trytond.exceptions import LoginException
from trytond.i18n import gettext
from trytond.model import ModelSQL, Unique, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval
from trytond.transaction import Transaction

from . import totp
from .exceptions import (
    TOTPAccessError, TOTPCodeError, TOTPCodeUsedError, TOTPSetupError)

logger = logging.getLogger(__name__)

# No client can send it, its keys are strings
_ACCEPTED = object()
_STORED = [
    'totp_secret', 'totp_generation', 'totp_since', 'totp_pending_secret',
    'totp_pending_expire']


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    # Lazy because a client that reads all eager fields would be refused
    totp_secret = fields.Char(
        "TOTP Secret", readonly=True, strip=False, loading='lazy')
    totp_generation = fields.Integer(
        "TOTP Generation", readonly=True,
        help="How many secrets were in force, the one of now included.")
    totp_pending_secret = fields.Char(
        "TOTP Pending Secret", readonly=True, strip=False, loading='lazy')
    totp_pending_expire = fields.Timestamp(
        "TOTP Pending Expire", readonly=True)
    totp_since = fields.DateTime(
        "TOTP Since", readonly=True,
        states={
            'invisible': ~Eval('totp_enabled', False),
            },
        help="When the authenticator in use was set up.")
    totp_enabled = fields.Function(
        fields.Boolean(
            "TOTP Enabled",
            help="Checked if the user has set up an authenticator."),
        'get_totp_enabled', searcher='search_totp_enabled')

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls._preferences_fields.extend(['totp_enabled', 'totp_since'])

    # The ORM reads nothing from the columns of the secrets, whoever asks and
    # on whatever road: only the SQL of this class does.

    @classmethod
    def column_totp_secret(cls, tables):
        return cls.totp_secret.sql_cast(Literal(None))

    @classmethod
    def column_totp_pending_secret(cls, tables):
        return cls.totp_pending_secret.sql_cast(Literal(None))

    @classmethod
    def get_totp_enabled(cls, users, name):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        enabled = dict.fromkeys((u.id for u in users), False)
        cursor.execute(*table.select(
                table.id,
                where=fields.SQL_OPERATORS['in'](table.id, enabled)
                & (table.totp_secret != Null)))
        enabled.update((id_, True) for id_, in cursor)
        return enabled

    @classmethod
    def search_totp_enabled(cls, name, clause):
        table = cls.__table__()
        _, operator, value = clause
        Operator = fields.SQL_OPERATORS[operator]
        enabled = Case(
            (table.totp_secret != Null, Literal(True)), else_=Literal(False))
        return [
            ('id', 'in', table.select(
                    table.id, where=Operator(enabled, value)))]

    @classmethod
    def preprocess_values(cls, mode, values):
        values = super().preprocess_values(mode, values)
        for name in values.keys() & {'totp_enabled', *_STORED}:
            if mode == 'write' or values[name] is not None:
                raise TOTPAccessError(gettext(
                        'authentication_totp.msg_totp_field_readonly',
                        **cls.__names__(name)))
        return values

    @classmethod
    def get_preferences_fields_view(cls):
        view = super().get_preferences_fields_view()
        for name in ['totp_enabled', 'totp_since']:
            view['fields'][name]['readonly'] = True
        return view

    @classmethod
    def copy(cls, users, default=None):
        default = default.copy() if default is not None else {}
        default.update(dict.fromkeys(_STORED))
        return super().copy(users, default=default)

    @classmethod
    def get_login(cls, login, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')

        accepted = {}
        user_id = super().get_login(
            login, {**parameters, _ACCEPTED: accepted})
        # The client sends the code again with the answers to the methods that
        # follow, so it is consumed only once they all have passed
        if user_id in accepted:
            match, device_cookie = accepted[user_id]
            try:
                Counter.consume(match)
            except TOTPCodeError as error:
                cls._refuse_totp_code(login, device_cookie, error)
        return user_id

    @classmethod
    def _login_totp(cls, login, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')

        if 'totp_code' not in parameters:
            raise LoginException(
                'totp_code',
                gettext('authentication_totp.msg_totp_code', login=login),
                type='char')
        code = parameters['totp_code']
        if totp.is_blank(code):
            return
        device_cookie = parameters.get('device_cookie')
        user_id = cls._get_login(login)[0]
        try:
            match = Counter.check(user_id, code)
            if _ACCEPTED in parameters:
                parameters[_ACCEPTED][user_id] = match, device_cookie
            else:
                Counter.consume(match)
        except TOTPCodeError as error:
            cls._refuse_totp_code(login, device_cookie, error)
        return user_id

    @classmethod
    def _refuse_totp_code(cls, login, device_cookie, error):
        pool = Pool()
        LoginAttempt = pool.get('res.user.login.attempt')
        # get_login adds none if a method raises
        LoginAttempt.add(login, device_cookie)
        raise LoginException(
            'totp_code', error.message, type='char') from None

    @property
    def totp_account(self):
        "The name of the account that the authenticator shows."
        return totp.account(self.login)

    @property
    def totp_issuer(self):
        "The name of the service that the authenticator shows."
        company = getattr(self, 'company', None)
        return totp.issuer(
            database=Transaction().database.name,
            company=company.rec_name if company else '')

    def set_totp_key(self, key):
        """Set a key in force at once, without any proof.

        For server code only: whoever calls it answers for the proof.

        key: the key in base32, of at least 128 bits
        The algorithm, digits and period are those of the settings.
        Raise ValueError if the key is not such a key.
        """
        self._put_totp_secret(totp.Secret.from_key(key).dump())

    def start_totp_setup(self):
        """Return a new secret which waits for its proof.

        The secret that waited before is dropped, the one in force stays. It
        waits for as many seconds as the setting setup_timeout says.
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        secret = totp.Secret.new()
        expire = _timestamp(totp.now() + totp.setting('setup_timeout'))
        cursor.execute(*table.update(
                [table.totp_pending_secret, table.totp_pending_expire],
                [secret.dump(),
                    self.__class__.totp_pending_expire.sql_format(expire)],
                where=table.id == self.id))
        return secret

    def finish_totp_setup(self, code, current_code=None):
        """Bring the waiting secret into force by the codes that prove it.

        code: a code made with the waiting secret
        current_code: a code made with the secret in force, if there is one
        Raise TOTPSetupError if no secret waits or it waited for too long,
        and TOTPCodeError if a code is not accepted.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')

        pending = self._get_totp_pending()
        counter = Counter.match(totp.Secret.load(pending), code)
        current = None
        if self.totp_enabled:
            try:
                current = Counter.check(self.id, current_code)
            except TOTPCodeError as error:
                raise error.__class__(
                    error.message, gettext(
                        'authentication_totp.msg_totp_current_code')) from None
        self._put_totp_secret(pending, pending=pending)
        Counter.restart(self.id, counter, current=current)

    def _get_totp_pending(self):
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        now = self.__class__.totp_pending_expire.sql_format(
            _timestamp(totp.now()))
        cursor.execute(*table.select(
                table.totp_pending_secret,
                where=(table.id == self.id)
                & (table.totp_pending_secret != Null)
                & (table.totp_pending_expire > now)))
        row = cursor.fetchone()
        if not row:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))
        return row[0]

    def _put_totp_secret(self, secret, pending=None):
        cls = self.__class__
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = table.id == self.id
        if pending:
            where &= table.totp_pending_secret == pending
        cursor.execute(*table.update(
                [table.totp_secret, table.totp_generation, table.totp_since,
                    table.totp_pending_secret, table.totp_pending_expire],
                [secret, Coalesce(table.totp_generation, 0) + 1,
                    cls.totp_since.sql_format(
                        _timestamp(totp.now()).replace(microsecond=0)),
                    Null, Null],
                where=where))
        if not cursor.rowcount:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))
        cls.on_modification('write', [self], {'totp_secret'})


def _timestamp(time):
    return dt.datetime.fromtimestamp(time)


class TOTPMatch(NamedTuple):
    "A right code: whose, of which of the user's secrets, of which time step"
    user: int
    generation: int
    counter: int


class UserTOTPCounter(ModelSQL):
    """The time step of the last code accepted, a row for each user

    It is separated from res.user in order to prevent locking the user when a
    login waits for another one, and has no foreign key for the same reason.

    The counter counts for one generation of the user's secrets. So a login
    that began with a secret replaced meanwhile does not get in, nor does it
    leave a counter of time steps that may have another length.
    """
    __name__ = 'res.user.totp_counter'

    user = fields.Integer("User", required=True)
    generation = fields.Integer("Generation", required=True)
    counter = fields.Integer("Counter", required=True)

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_constraints += [
            ('user_unique', Unique(table, table.user),
                'authentication_totp.msg_totp_counter_user_unique'),
            ]

    @classmethod
    def match(cls, secret, code):
        """Return the counter of the time step for which code is right.

        Raise TOTPCodeError if it is right for none.
        """
        counter = secret.match(code, totp.now()) if secret else None
        if counter is None:
            raise TOTPCodeError(
                gettext('authentication_totp.msg_totp_code_wrong'))
        return counter

    @classmethod
    def check(cls, user_id, code):
        """Return the TOTPMatch of a right code for the user's secret.

        user_id: the id of the user, or None for one who does not exist
        code: what a client sent, of any type
        Raise TOTPCodeError if it is right for no time step, TOTPCodeUsedError
        if one as late was already accepted (RFC 6238 section 5.2).
        The code stays usable until consume accepts the match.
        """
        secret, generation, last = cls._get(user_id)
        counter = cls.match(secret, code)
        if last is not None and counter <= last:
            cls._raise_used()
        return TOTPMatch(user_id, generation, counter)

    @classmethod
    def consume(cls, match):
        """Accept the match, once.

        Raise TOTPCodeUsedError if one as late was already accepted or the
        secret replaced. If another process does so at the same time, raise
        DatabaseOperationalError so that the login is tried again, and refused.
        """
        # A transaction of its own would need a second connection, and when
        # many log in at once each would wait for the others to give theirs
        cls._accept(match, match)

    @classmethod
    def restart(cls, user_id, counter, current=None):
        """Accept the counter for the user's secret, which has just changed.

        current: the match of the secret that was in force, which is consumed
        Raise TOTPCodeUsedError if current can not be consumed.
        """
        _, generation, _ = cls._get(user_id)
        match = TOTPMatch(user_id, generation, counter)
        cls._accept(match, current or match)

    @classmethod
    def _get(cls, user_id):
        pool = Pool()
        User = pool.get('res.user')
        table = cls.__table__()
        user = User.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*user
            .join(table, 'LEFT',
                condition=(table.user == user.id)
                & (table.generation == user.totp_generation))
            .select(
                user.totp_secret, user.totp_generation, table.counter,
                where=user.id == user_id))
        stored, generation, last = cursor.fetchone() or (None, None, None)
        try:
            secret = totp.Secret.load(stored) if stored else None
        except ValueError:
            logger.error("unreadable TOTP secret of user %s", user_id)
            secret = None
        return secret, generation, last

    @classmethod
    def _accept(cls, match, consumed):
        "Store the match if nothing as late as the consumed one is stored"
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.insert(
                [table.user, table.generation, table.counter], [list(match)],
                on_conflict=Conflict(
                    table,
                    indexed_columns=[table.user],
                    columns=[table.generation, table.counter],
                    values=[match.generation, match.counter],
                    where=(table.generation < consumed.generation)
                    | ((table.generation == consumed.generation)
                        & (table.counter < consumed.counter)))))
        if not cursor.rowcount:
            cls._raise_used()

    @classmethod
    def _raise_used(cls):
        raise TOTPCodeUsedError(
            gettext('authentication_totp.msg_totp_code_used'))
