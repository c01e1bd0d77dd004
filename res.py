# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import logging
import math
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from sql import Conflict, For, Literal, Null
from sql.aggregate import Count
from sql.conditionals import Case, Coalesce
from sql.functions import Abs
from sql.operators import Or

import trytond.config as config
from trytond import backend
from trytond.exceptions import LoginException
from trytond.i18n import gettext
from trytond.model import (
    Index, ModelSQL, ModelView, Unique, dualmethod, fields)
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval
from trytond.report import Report, get_email
from trytond.sendmail import SMTPDataManager, send_message_transactional
from trytond.tools.email_ import set_from_header
from trytond.transaction import Transaction, without_check_access
from trytond.worker import run_task

from . import totp
from .exceptions import (
    TOTPAccessError, TOTPCodeError, TOTPCodeUsedError, TOTPRequiredError,
    TOTPSetupError, TOTPSetupException, TOTPWaitError)

logger = logging.getLogger(__name__)

# No client can send it, its keys are strings
_ACCEPTED = object()
_PASSED = object()
_SETUP = object()
_STATUS = ['totp_enabled', 'totp_since', 'totp_recovery_codes']
# How a refusal is told, once it is counted
_WRONG = TOTPCodeError, 'authentication_totp.msg_totp_code_wrong'
_USED = TOTPCodeUsedError, 'authentication_totp.msg_totp_code_used'
_WRONG_RECOVERY = (
    TOTPCodeError, 'authentication_totp.msg_totp_recovery_code_wrong')
_LANGUAGE = re.compile('[A-Za-z]{2,3}(_[A-Za-z0-9]{2,8}){0,2}')
# Whose failures count together
_ELSEWHERE = ''
_KNOWN_DEVICE = 'device_'
_RECOVERY = 'recovery_'
_KINDS = [_ELSEWHERE, _KNOWN_DEVICE, _RECOVERY]
# The user is told if no more are left
_FEW_RECOVERY_CODES = 3
# As the root user it has no row
_NOBODY = 0
# How many rows stand in for the users without secret
_DECOYS = 1000
_TELL_INTERVAL = dt.timedelta(hours=1)
_MAIL_TIMEOUT = 30
# One, so that a mail server which hangs takes one connection to the database
_MAILER = ThreadPoolExecutor(1, 'totp-mailer')
_STORED = [
    'totp_secret', 'totp_generation', 'totp_since', 'totp_pending_secret',
    'totp_pending_expire']


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    # Lazy because a client that reads all eager fields would be refused
    totp_secret = fields.Char(
        "TOTP Secret", readonly=True, strip=False, loading='lazy',
        help="The key that the authenticator has too. Nobody can read it.")
    totp_generation = fields.Integer(
        "TOTP Generation", readonly=True,
        help="How many secrets were in force, the one of now included.")
    totp_pending_secret = fields.Char(
        "TOTP Pending Secret", readonly=True, strip=False, loading='lazy',
        help="A new key that no code has confirmed yet.")
    totp_pending_expire = fields.Timestamp(
        "TOTP Pending Expire", readonly=True,
        help="Until when the new key can be confirmed.")
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
    totp_required = fields.Boolean(
        "TOTP Required",
        help="Check to stop the user from logging in without TOTP.")
    totp_mandatory = fields.Function(
        fields.Boolean(
            "TOTP Mandatory",
            help="Checked if TOTP is required from the user or from one of "
            "the user's groups."),
        'get_totp_mandatory', searcher='search_totp_mandatory')
    totp_recovery_codes = fields.Function(
        fields.Integer(
            "TOTP Recovery Codes",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="How many recovery codes were not used yet."),
        'get_totp_recovery_codes')
    totp_failures = fields.Function(
        fields.Integer(
            "TOTP Failures",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="The wrong codes since the last right one."),
        'get_totp_status')
    totp_drift = fields.Function(
        fields.Integer(
            "TOTP Drift",
            states={
                'invisible': ~Eval('totp_drift', 0),
                },
            help="How many time steps the authenticator's clock is ahead, "
            "as the last logins showed."),
        'get_totp_status')
    totp_last_used = fields.Function(
        fields.DateTime(
            "TOTP Last Used",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="When a code or a recovery code was last accepted."),
        'get_totp_status')
    totp_waiting_until = fields.Function(
        fields.DateTime(
            "TOTP Waiting Until",
            states={
                'invisible': ~Eval('totp_waiting_until'),
                },
            help="Until when no code is accepted because of wrong ones."),
        'get_totp_status')
    totp_locked = fields.Function(
        fields.Boolean(
            "TOTP Locked",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="Checked if no code is accepted any more because of too many "
            "wrong ones."),
        'get_totp_status', searcher='search_totp_locked')

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls._buttons.update({
                'unlock_totp': {
                    'invisible': ~Eval('totp_failures', 0),
                    'depends': ['totp_failures'],
                    },
                })
        cls._preferences_fields.extend(_STATUS)

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
        return cls._search_boolean(clause, table, table.totp_secret != Null)

    @classmethod
    def _search_boolean(cls, clause, table, where):
        _, operator, value = clause
        Operator = fields.SQL_OPERATORS[operator]
        boolean = Case((where, Literal(True)), else_=Literal(False))
        return [
            ('id', 'in', table.select(
                    table.id, where=Operator(boolean, value)))]

    @classmethod
    def _where_totp_mandatory(cls, table):
        pool = Pool()
        Group = pool.get('res.group')
        UserGroup = pool.get('res.user-res.group')
        group = Group.__table__()
        user_group = UserGroup.user_group_all_table()
        return (table.totp_required == Literal(True)) | table.id.in_(
            user_group.join(
                group, condition=user_group.group == group.id).select(
                    user_group.user,
                    where=(group.totp_required == Literal(True))
                    & (group.active == Literal(True))))

    @classmethod
    def get_totp_mandatory(cls, users, name):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        mandatory = dict.fromkeys((u.id for u in users), False)
        cursor.execute(*table.select(
                table.id,
                where=fields.SQL_OPERATORS['in'](table.id, mandatory)
                & cls._where_totp_mandatory(table)))
        mandatory.update((id_, True) for id_, in cursor)
        return mandatory

    @classmethod
    def search_totp_mandatory(cls, name, clause):
        table = cls.__table__()
        return cls._search_boolean(
            clause, table, cls._where_totp_mandatory(table))

    @classmethod
    def get_totp_recovery_codes(cls, users, name):
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        return RecoveryCode.count([u.id for u in users])

    @classmethod
    def get_totp_status(cls, users, names):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        status = Counter.status([u.id for u in users])
        return {
            name: {u.id: status[u.id][name] for u in users}
            for name in names}

    @classmethod
    def search_totp_locked(cls, name, clause):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        table = cls.__table__()
        return cls._search_boolean(
            clause, table, table.id.in_(Counter.locked()))

    @dualmethod
    @ModelView.button
    def unlock_totp(cls, users):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        Counter.unlock([u.id for u in users])
        Event.record(users, 'unlocked')

    @classmethod
    def reset_totp(cls, users):
        """Take the secrets and the recovery codes away from the users.

        For who may write users: it takes no code.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        cls._clear_totp(users)
        Event.record(users, 'reset')

    def remove_totp(self, code):
        """Take the secret and the recovery codes away.

        code: a code made with the secret in force, or a recovery code
        Raise TOTPRequiredError if the user may not be without TOTP, and
        TOTPCodeError if the code is not accepted.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        if self.totp_mandatory:
            raise TOTPRequiredError(
                gettext('authentication_totp.msg_totp_required'))
        self._consume_totp_code(code)
        self._clear_totp([self])
        Event.record([self], 'removed')

    @classmethod
    def _clear_totp(cls, users):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        ids = [u.id for u in users]
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_secret, table.totp_since,
                    table.totp_pending_secret, table.totp_pending_expire],
                [Null, Null, Null, Null],
                where=fields.SQL_OPERATORS['in'](table.id, ids)))
        Counter.unlock(ids)
        cls._end_with_totp_secret(users)

    @classmethod
    @without_check_access
    def _end_with_totp_secret(cls, users, sessions=True):
        "End what the users had by the secret that was in force until now"
        pool = Pool()
        Device = pool.get('res.user.device')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        Session = pool.get('ir.session')
        cls.on_modification('write', users, {'totp_secret'})
        RecoveryCode.clear([u.id for u in users])
        if sessions:
            Session.clear(users)
        Device.clear([u.login for u in users])

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
        for name in _STATUS:
            view['fields'][name]['readonly'] = True
        return view

    @classmethod
    def copy(cls, users, default=None):
        default = default.copy() if default is not None else {}
        default.update(dict.fromkeys(_STORED))
        return super().copy(users, default=default)

    @classmethod
    def get_login(cls, login, parameters):
        accepted = {}
        with _sane_language():
            user_id = super().get_login(
                login, {**parameters, _ACCEPTED: accepted})
            # The client sends the code again with the answers to the methods
            # that follow, so it is consumed only once they all have passed
            if user_id in accepted:
                accepted[user_id]()
        return user_id

    @classmethod
    def _check_login_options(cls, options, login, parameters):
        # Called only once an earlier factor has passed, even without options
        parameters[_PASSED] = True
        return super()._check_login_options(options, login, parameters)

    @classmethod
    def _login_totp(cls, login, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')

        if _SETUP in parameters:
            for user in cls._get_login_users(login):
                if not user.totp_enabled:
                    return user._login_setup_totp(parameters)
        if 'totp_code' not in parameters:
            raise LoginException(
                'totp_code',
                gettext('authentication_totp.msg_totp_code', login=login),
                type='char')
        code = parameters['totp_code']
        if totp.is_blank(code):
            return
        try:
            match = Counter.check(
                cls._query_login(login, enrolled=True), code,
                known_device=bool(parameters.get('device_cookie')),
                decoy=None if _PASSED in parameters else login)
        except TOTPCodeError as error:
            cls._refuse_totp_code(login, parameters, error)
        cls._accept_totp(parameters, match.user, Counter.consume, match)
        return match.user

    @classmethod
    def _accept_totp(cls, parameters, user_id, function, *args):
        if _ACCEPTED in parameters:
            parameters[_ACCEPTED][user_id] = partial(function, *args)
        else:
            function(*args)

    def _login_setup_totp(self, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        LoginAttempt = pool.get('res.user.login.attempt')
        answered = 'totp_code' in parameters
        code = parameters.get('totp_code')
        if answered and totp.is_blank(code):
            return
        message = 'msg_totp_setup'
        try:
            _, secret = self._get_totp_pending()
        except TOTPSetupError:
            secret = self.start_totp_setup()
            message = 'msg_totp_setup_new'
        else:
            if answered:
                try:
                    Counter.match(secret, code)
                except TOTPCodeError:
                    message = 'msg_totp_setup_wrong'
                else:
                    self._accept_totp(
                        parameters, self.id, self._finish_login_setup, code)
                    return self.id
        if answered:
            # get_login adds none if a method raises
            LoginAttempt.add(self.login, parameters.get('device_cookie'))
        raise TOTPSetupException('totp_code', gettext(
                f'authentication_totp.{message}',
                key=secret.text, account=self.totp_account), type='char')

    def _finish_login_setup(self, code):
        try:
            self.finish_totp_setup(code)
        except (TOTPCodeError, TOTPSetupError):
            raise backend.DatabaseOperationalError(
                "concurrent TOTP set-ups") from None

    @classmethod
    def _check_login_options_setup_totp(cls, login, parameters):
        parameters[_SETUP] = True
        return False

    @classmethod
    def _check_login_options_no_totp_secret(cls, login, parameters):
        return any(
            not u.totp_enabled and not u.totp_mandatory
            for u in cls._get_login_users(login))

    @classmethod
    def _get_preferences(cls, user, context_only=False):
        pool = Pool()
        Action = pool.get('ir.action')
        ModelData = pool.get('ir.model.data')
        preferences = super()._get_preferences(
            user, context_only=context_only)
        if not context_only and (wizard := cls._get_totp_wizard(user)):
            action = Action.get_action_id(
                ModelData.get_id('authentication_totp', wizard))
            preferences['actions'] = [action, *preferences['actions']]
        return preferences

    @classmethod
    def _get_totp_wizard(cls, user):
        "The XML id of the wizard that opens by itself after the login"
        options = cls._totp_login_options()
        if not user.totp_enabled:
            if 'no_totp_secret' in options:
                return 'wizard_setup_totp'
        elif ('setup_totp' in options and totp.setting('recovery_codes')
                and not user.totp_recovery_codes):
            # The login dialog has no place for them
            return 'wizard_new_totp_recovery_codes'

    @classmethod
    def _totp_login_options(cls):
        "The options of all methods totp of the setting authentications"
        options = set()
        for methods in config.get(
                'session', 'authentications', default='').split(','):
            for method in methods.split('+'):
                name, _, names = method.partition('?')
                if name == 'totp':
                    options.update(names.split(':'))
        return options

    @classmethod
    def _query_login(cls, login, enrolled=False):
        table = cls.__table__()
        where = (table.login == login) & (table.active == Literal(True))
        if enrolled:
            where &= table.totp_secret != Null
        return table.select(table.id, where=where)

    @classmethod
    def _get_login_users(cls, login):
        # The time of core's _get_login, which reads the password too, tells
        # whether the login exists
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._query_login(login))
        return cls.browse([id_ for id_, in cursor])

    @classmethod
    def _refuse_totp_code(cls, login, parameters, error):
        pool = Pool()
        LoginAttempt = pool.get('res.user.login.attempt')
        transaction = Transaction()
        message = error.message
        if _PASSED not in parameters:
            # Only a right code was used, the rest is the same for everybody
            if not isinstance(error, TOTPCodeUsedError):
                message = gettext('authentication_totp.msg_totp_code_refused')
        elif isinstance(error, TOTPWaitError):
            # No code was tried, so neither is it an attempt nor has the
            # server to sleep as core wants it after the attempts of before
            transaction._atexit.clear()
            raise LoginException('totp_code', message, type='char') from None
        # get_login adds none if a method raises
        LoginAttempt.add(login, parameters.get('device_cookie'))
        raise LoginException('totp_code', message, type='char') from None

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
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        self._put_totp_secret(totp.Secret.from_key(key).dump(self.id))
        Counter.restart(self.id)

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
                [secret.dump(self.id),
                    self.__class__.totp_pending_expire.sql_format(expire)],
                where=table.id == self.id))
        return secret

    def finish_totp_setup(self, code, current_code=None):
        """Bring the waiting secret into force by the codes that prove it.

        code: a code made with the waiting secret
        current_code: a code made with the secret in force, or a recovery
            code, if there is one
        Raise TOTPSetupError if no secret waits or it waited for too long,
        and TOTPCodeError if a code is not accepted.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')

        pending, secret = self._get_totp_pending()
        counter = Counter.match(secret, code)
        if self.totp_enabled:
            try:
                self._consume_totp_code(current_code)
            except TOTPCodeError as error:
                raise error.__class__(
                    error.message, gettext(
                        'authentication_totp.msg_totp_current_code')) from None
        self._put_totp_secret(pending, pending=pending)
        Counter.restart(self.id, counter)

    def renew_totp_recovery_codes(self, code):
        """Return new recovery codes, the old ones work no more.

        code: a code made with the secret in force, or a recovery code
        Raise TOTPCodeError if it is not accepted.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        self._consume_totp_code(code)
        codes = RecoveryCode.renew(self.id)
        Event.record([self], 'renewed')
        return codes

    def _consume_totp_code(self, code):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        with _sane_language():
            try:
                match = Counter.check(self.id, code)
            except TOTPCodeError:
                # The failure, which is all that was written, must stay
                Transaction().commit()
                raise
        Counter.consume(match)

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
        for stored, in cursor:
            try:
                return stored, totp.Secret.load(stored, self.id)
            except ValueError:
                logger.error(
                    "unreadable waiting TOTP secret of user %s", self.id)
        raise TOTPSetupError(
            gettext('authentication_totp.msg_totp_setup_expired'))

    @classmethod
    def totp_owners(cls):
        "Return the ids of the users with a secret, in force or waiting."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.totp_secret != Null)
                | (table.totp_pending_secret != Null),
                order_by=table.id))
        return [id_ for id_, in cursor]

    @classmethod
    def reseal_totp(cls, users):
        """Seal the secrets of the users, in force and waiting, with the first
        key, where they are not yet.

        Return the users with a secret that no key opens, which is left as it
        is.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        resealed, unreadable = set(), set()
        for column in [table.totp_secret, table.totp_pending_secret]:
            cursor.execute(*table.select(
                    table.id, column,
                    where=fields.SQL_OPERATORS['in'](
                        table.id, [u.id for u in users])
                    & (column != Null)))
            for id_, stored in cursor.fetchall():
                try:
                    secret = totp.Secret.load(stored, id_)
                except ValueError:
                    unreadable.add(id_)
                    continue
                if not secret.stale:
                    continue
                cursor.execute(*table.update(
                        [column], [secret.dump(id_)],
                        where=(table.id == id_) & (column == stored)))
                if cursor.rowcount:
                    resealed.add(id_)
        if resealed:
            Event.record(cls.browse(sorted(resealed)), 'resealed')
        return cls.browse(sorted(unreadable))

    @classmethod
    def clean_totp(cls):
        """Remove the waiting secrets and the events that are too old, and
        forget the failures of the decoys.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        now = cls.totp_pending_expire.sql_format(_timestamp(totp.now()))
        cursor.execute(*table.update(
                [table.totp_pending_secret, table.totp_pending_expire],
                [Null, Null],
                where=table.totp_pending_expire <= now))
        Event.clean()
        # Last, as a login that has no secret waits for it
        Counter.clean()

    def _put_totp_secret(self, secret, pending=None):
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        cls = self.__class__
        replaces = self.totp_enabled
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = table.id == self.id
        if pending:
            where &= table.totp_pending_secret == pending
        cursor.execute(*table.update(
                [table.totp_secret, table.totp_generation, table.totp_since,
                    table.totp_pending_secret, table.totp_pending_expire],
                [secret, Coalesce(table.totp_generation, 0) + 1,
                    cls.totp_since.sql_format(_second(totp.now())),
                    Null, Null],
                where=where))
        if not cursor.rowcount:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))
        cls._end_with_totp_secret([self], sessions=replaces)
        Event.record([self], 'replaced' if replaces else 'set_up')


class Group(metaclass=PoolMeta):
    __name__ = 'res.group'

    totp_required = fields.Boolean(
        "TOTP Required",
        help="Check to stop the members of the group and of its subgroups "
        "from logging in without TOTP.")


def _sane_language():
    # The client chooses it, and one that gettext fails with would undo the
    # count of a wrong code
    language = Transaction().context.get('language')
    if not (isinstance(language, str) and _LANGUAGE.fullmatch(language)):
        language = None
    return Transaction().set_context(language=language)


def _timestamp(time):
    return dt.datetime.fromtimestamp(time)


def _second(time):
    return _timestamp(time).replace(microsecond=0) if time else None


class TOTPMatch(NamedTuple):
    """A right code: whose, of which of the user's secrets, of which time step
    or which of the recovery codes

    drift is how many steps the authenticator's clock is ahead, resync the time
    step of a code beyond the tolerance, which the next one confirms.
    """
    user: int
    generation: int
    counter: int
    kind: str
    failures: int
    drift: int = 0
    resync: int | None = None
    stale: bool = False
    recovery_code: int | None = None


class UserTOTPCounter(ModelSQL):
    """The last code accepted and the failures since, a row for each user

    It is separated from res.user in order to prevent locking the user when a
    login waits for another one, and has no foreign key for the same reason.

    The counter counts for one generation of the user's secrets. So a login
    that began with a secret replaced meanwhile does not get in, nor does it
    leave a counter of time steps that may have another length.

    The failures of known devices count apart, so that who guesses from
    elsewhere does not lock them out. So do those of recovery codes, which work
    while the others do not.

    The rows with a negative user are decoys: a login without secret locks and
    counts in one of them what another does in the user's own row, because the
    time, most of all that of parallel requests, would tell them apart.
    """
    __name__ = 'res.user.totp_counter'
    __string__ = "TOTP Counter"

    user = fields.Integer("User", required=True)
    generation = fields.Integer("Generation", required=True)
    counter = fields.Integer("Counter", required=True)
    used = fields.Float(
        "Used", help="When a code was last accepted, in seconds since the "
        "epoch.")
    drift = fields.Integer("Drift")
    resync = fields.Integer("Resync")
    failures = fields.Integer("Failures")
    failed = fields.Float(
        "Failed", help="When the last one was, in seconds since the epoch.")
    wait = fields.Integer(
        "Wait", help="For how many seconds no code is evaluated from then on.")
    device_failures = fields.Integer("Failures of Known Devices")
    device_failed = fields.Float("Failed of Known Devices")
    device_wait = fields.Integer("Wait of Known Devices")
    recovery_failures = fields.Integer("Failures of Recovery Codes")
    recovery_failed = fields.Float("Failed of Recovery Codes")
    recovery_wait = fields.Integer("Wait of Recovery Codes")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_constraints += [
            ('user_unique', Unique(table, table.user),
                'authentication_totp.msg_totp_counter_user_unique'),
            ]

    @classmethod
    def __register__(cls, module):
        super().__register__(module)
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.insert(
                [table.user, table.generation, table.counter],
                [[-number, 0, -1] for number in range(1, _DECOYS + 1)],
                on_conflict=Conflict(table, indexed_columns=[table.user])))

    @classmethod
    def match(cls, secret, code):
        """Return the counter of the time step for which code is right.

        Raise TOTPCodeError if it is right for none.
        """
        counter = secret.match(code, totp.now())
        if counter is None:
            cls._refuse(_WRONG)
        return counter

    @classmethod
    def check(cls, user, code, known_device=False, decoy=None):
        """Return the TOTPMatch of a right code of the user.

        user: the id of the user, or a query for it that may find none
        code: a code or a recovery code; what a client sent, of any type
        known_device: whether it comes from a device that the user has used
        decoy: the login, if the time must not tell whether it has a secret
        Raise TOTPCodeError if it is right for no time step, TOTPCodeUsedError
        if one as late was already accepted (RFC 6238 section 5.2), and count
        the failure. The caller must commit it before the answer leaves.
        Raise TOTPWaitError without looking at the code if there were too many
        failures (RFC 4226 section 7.3, NIST SP 800-63B-4 section 3.2.2).
        The code stays usable until consume accepts the match.
        """
        recovery_hash = (
            totp.hash_recovery_code(code)
            if totp.setting('recovery_codes') else None)
        if recovery_hash:
            kind = _RECOVERY
        else:
            kind = _KNOWN_DEVICE if known_device else _ELSEWHERE
        silent = decoy is not None
        if silent:
            # The hash is different in each server, so that nobody knows who
            # shares a decoy
            user = Coalesce(user, -1 - hash(decoy) % _DECOYS)
        row = cls._lock(user, kind)
        # For who has to wait the same work as for who has not
        user_id, stored, generation, last, failures, drift, resync = row or (
            _NOBODY, None, 0, -1, -1, 0, None)
        if not stored and not silent:
            cls._raise_wait(user, kind)
            cls._refuse(_WRONG)
        match = TOTPMatch(
            user_id, generation, last, kind, failures, drift, resync)
        if recovery_hash:
            match, refusal = cls._match_recovery_code(match, recovery_hash)
        else:
            match, refusal = cls._match_code(match, stored, code)
        if not stored:
            refusal = refusal or _WRONG
        if refusal:
            cursor = cls._fail(match)
            if row:
                cls._check_first(cursor)
            cls._record_failure(match, refusal is _USED, silent)
            cls._refuse(refusal)
        return match

    @classmethod
    def _refuse(cls, refusal):
        error, message = refusal
        raise error(gettext(message))

    @classmethod
    def _match_code(cls, match, stored, code):
        "Return the match with its time step, and why it is refused or None"
        try:
            if stored:
                secret = totp.Secret.load(stored, match.user)
            else:
                secret = totp.Secret.load(totp.stored_for_nobody(), _NOBODY)
        except ValueError:
            logger.error("unreadable TOTP secret of user %s", match.user)
            return match, _WRONG
        now = totp.now()
        tolerance = totp.setting('tolerance')
        counter = secret.match(
            code, now, tolerance=tolerance + totp.MAX_DRIFT,
            drift=match.drift)
        if counter is None:
            return match._replace(resync=None), _WRONG
        if counter <= match.counter:
            cls._warn_if_ahead(match.user, secret, match.counter)
            return match._replace(resync=None), _USED
        drift = secret.steps_ahead(counter, now)
        if abs(drift - match.drift) <= tolerance:
            # One step at a login, so that nobody walks it away
            drift = max(min(drift, match.drift + 1), match.drift - 1)
        elif abs(drift) > totp.MAX_DRIFT:
            return match._replace(resync=None), _WRONG
        elif match.resync is None or counter != match.resync + 1:
            # RFC 4226 section 7.4: the next code confirms this one
            return match._replace(resync=counter), _WRONG
        drift = max(min(drift, totp.MAX_DRIFT), -totp.MAX_DRIFT)
        return match._replace(
            counter=counter, drift=drift, resync=None,
            stale=secret.stale), None

    @classmethod
    def _match_recovery_code(cls, match, hash_):
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        id_ = RecoveryCode.find(match.user, hash_)
        if id_ is None:
            return match, _WRONG_RECOVERY
        return match._replace(recovery_code=id_), None

    @classmethod
    def consume(cls, match):
        """Accept the match, once, and forget the failures of before.

        Raise DatabaseOperationalError, so that the login is tried again and
        told why it is refused, if since the check one as late was accepted,
        the secret replaced or another code refused.
        """
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        User = pool.get('res.user')
        # A transaction of its own would need a second connection, and when
        # many log in at once each would wait for the others to give theirs
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        failures, _, wait = cls._guesses(table, match.kind)
        where = (
            (table.user == match.user)
            & (table.generation == match.generation)
            & (Coalesce(failures, 0) == match.failures))
        if not match.recovery_code:
            where &= table.counter < match.counter
        cursor.execute(*table.update(
                [table.counter, table.used, table.drift, table.resync,
                    failures, wait],
                [match.counter, float(totp.now()), match.drift, Null, 0, 0],
                where=where))
        cls._check_first(cursor)
        if match.stale:
            User.reseal_totp([User(match.user)])
        if match.recovery_code:
            cls._check_first(RecoveryCode.use(match.recovery_code))
            cls.unlock([match.user])
            RecoveryCode.tell(match.user)

    @classmethod
    def restart(cls, user_id, counter=-1):
        """Begin anew with the user's secret, which has just changed.

        counter: the time step of its code that is already used, -1 for none
        """
        pool = Pool()
        User = pool.get('res.user')
        table = cls.__table__()
        user = User.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*user.select(
                user.totp_generation, where=user.id == user_id))
        generation, = cursor.fetchone()
        values = {
            'generation': generation, 'counter': counter,
            'drift': 0, 'resync': None,
            'used': None if counter < 0 else float(totp.now()),
            }
        for kind in _KINDS:
            values.update({f'{kind}failures': 0, f'{kind}wait': 0})
        columns = [getattr(table, name) for name in values]
        cursor.execute(*table.insert(
                [table.user, *columns], [[user_id, *values.values()]],
                on_conflict=Conflict(
                    table,
                    indexed_columns=[table.user],
                    columns=columns,
                    values=list(values.values()))))

    @classmethod
    def status(cls, user_ids):
        "Return for each user a dictionary of the fields which tell of it."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        now = totp.now()
        status = dict.fromkeys(user_ids, {
                'totp_drift': None, 'totp_last_used': None,
                'totp_failures': 0, 'totp_waiting_until': None,
                'totp_locked': False,
                })
        cursor.execute(*table.select(
                table.user, table.drift, table.used,
                *(column for kind in _KINDS
                    for column in cls._guesses(table, kind)),
                where=fields.SQL_OPERATORS['in'](table.user, user_ids)))
        for user_id, drift, used, *guesses in cursor:
            failures = [number or 0 for number in guesses[::3]]
            until = [
                failed + wait for failed, wait in zip(
                    guesses[1::3], guesses[2::3], strict=True)
                if wait and abs(now - failed) < wait]
            status[user_id] = {
                'totp_drift': drift,
                'totp_last_used': _second(used),
                'totp_failures': sum(failures),
                'totp_waiting_until': _second(max(until, default=None)),
                'totp_locked': max(failures) >= totp.setting('max_failures'),
                }
        return status

    @classmethod
    def locked(cls):
        "Return a query for the users from whom no code is accepted any more."
        table = cls.__table__()
        limit = totp.setting('max_failures')
        return table.select(table.user, where=Or(
                cls._guesses(table, kind)[0] >= limit for kind in _KINDS))

    @classmethod
    def unlock(cls, user_ids):
        "Forget the failures of the users."
        table = cls.__table__()
        cls._unlock(
            table, fields.SQL_OPERATORS['in'](table.user, user_ids))

    @classmethod
    def clean(cls):
        "Forget the failures of the decoys."
        table = cls.__table__()
        cls._unlock(table, (table.user < 0) & Or(
                cls._guesses(table, kind)[0] > 0 for kind in _KINDS))

    @classmethod
    def _unlock(cls, table, where):
        cursor = Transaction().connection.cursor()
        columns = [
            getattr(table, kind + name)
            for kind in _KINDS for name in ['failures', 'wait']]
        cursor.execute(*table.update(
                columns, [0] * len(columns), where=where))

    @classmethod
    def _guesses(cls, table, kind):
        return [
            getattr(table, kind + name)
            for name in ['failures', 'failed', 'wait']]

    @classmethod
    def _lock(cls, user, kind):
        """Return user, stored secret, generation, counter, failures, drift
        and resync, if a code may be evaluated now, with the row locked
        against parallel guesses
        """
        pool = Pool()
        User = pool.get('res.user')
        transaction = Transaction()
        table = cls.__table__()
        user_table = User.__table__()
        failures, failed, wait = cls._guesses(table, kind)
        # A join would lock the user as well
        stored = user_table.select(
            user_table.totp_secret,
            where=(user_table.id == table.user)
            & (user_table.totp_generation == table.generation))
        query = table.select(
            table.user, stored, table.generation, table.counter,
            Coalesce(failures, 0), Coalesce(table.drift, 0), table.resync,
            # Who must wait takes no lock, so that a flood holds up nobody
            where=(table.user == user)
            & (Coalesce(failures, 0) < totp.setting('max_failures'))
            # A clock set back does not make the wait longer
            & (Abs(Coalesce(failed, 0) - totp.now()) >= Coalesce(wait, 0)))
        if transaction.database.has_select_for():
            query.for_ = For('UPDATE')
        cursor = transaction.connection.cursor()
        cursor.execute(*query)
        return cursor.fetchone()

    @classmethod
    def _fail(cls, match):
        "Count one failure more than those of match, return the cursor"
        table = cls.__table__()
        columns = cls._guesses(table, match.kind)
        failures = match.failures + 1
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [*columns, table.resync],
                [failures, float(totp.now()), totp.wait(failures),
                    match.resync],
                where=(table.user == match.user)
                & (Coalesce(columns[0], 0) == match.failures)))
        return cursor

    @classmethod
    def _record_failure(cls, match, used, silent):
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        User = pool.get('res.user')
        failures = match.failures + 1
        # A decoy stands in for nobody whom the event could name
        user = User(match.user if match.user > 0 else None)
        if used:
            Event.record([user], 'replayed')
        if (user.id and failures == totp.setting('max_failures')
                and match.kind != _RECOVERY):
            Event.record([user], 'locked')
        elif failures == totp.FREE_FAILURES:
            # Who has passed nothing before knows no more than the login
            Event.record([user], 'failed', tell=not silent)

    @classmethod
    def _check_first(cls, cursor):
        # Where rows can not be locked another one may have been faster
        if not cursor.rowcount:
            raise backend.DatabaseOperationalError("concurrent TOTP codes")

    @classmethod
    def _raise_wait(cls, user, kind):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                *cls._guesses(table, kind),
                where=table.user == user))
        failures, failed, wait = cursor.fetchone() or (None, None, None)
        recovery = '_recovery' if kind == _RECOVERY else ''
        if failures and failures >= totp.setting('max_failures'):
            raise TOTPWaitError(
                gettext(f'authentication_totp.msg_totp{recovery}_locked'))
        elif wait:
            rest = math.ceil(wait - abs(totp.now() - failed))
            raise TOTPWaitError(gettext(
                    f'authentication_totp.msg_totp{recovery}_wait',
                    time=Report.format_timedelta(
                        dt.timedelta(seconds=max(rest, 1)))))

    @classmethod
    def _warn_if_ahead(cls, user_id, secret, last):
        ahead = last * secret.period - totp.now()
        if ahead > (totp.setting('tolerance') + 1) * secret.period:
            logger.warning(
                "the last code accepted of user %s is %d seconds ahead of "
                "the clock, which was set back", user_id, ahead)


class UserTOTPRecoveryCode(ModelSQL):
    "A recovery code that was not used yet"
    __name__ = 'res.user.totp_recovery_code'
    __string__ = "TOTP Recovery Code"

    user = fields.Integer("User", required=True)
    hash = fields.Char("Hash", required=True, strip=False)

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_indexes.add(
            Index(
                table, (table.user, Index.Equality()),
                (table.hash, Index.Equality(cardinality='high'))))

    @classmethod
    def renew(cls, user_id):
        "Return new recovery codes of the user, which replace the old ones."
        cls.clear([user_id])
        codes = [
            totp.new_recovery_code()
            for _ in range(totp.setting('recovery_codes'))]
        cls.create([{
                    'user': user_id,
                    'hash': totp.hash_recovery_code(code),
                    } for code in codes])
        return codes

    @classmethod
    def clear(cls, user_ids):
        "Remove the recovery codes of the users."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(
                where=fields.SQL_OPERATORS['in'](table.user, user_ids)))

    @classmethod
    def count(cls, user_ids):
        "Return for each user how many recovery codes are left."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        counts = dict.fromkeys(user_ids, 0)
        cursor.execute(*table.select(
                table.user, Count(table.id),
                where=fields.SQL_OPERATORS['in'](table.user, user_ids),
                group_by=table.user))
        counts.update(cursor)
        return counts

    @classmethod
    def find(cls, user_id, hash_):
        "Return the id of the user's recovery code with the hash, or None."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.user == user_id) & (table.hash == hash_)))
        row = cursor.fetchone()
        return row[0] if row else None

    @classmethod
    def use(cls, id_):
        "Remove the recovery code, and return the cursor that did it."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(where=table.id == id_))
        return cursor

    @classmethod
    @without_check_access
    def tell(cls, user_id):
        "Tell the user that a recovery code was used, and if few are left."
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Notification = pool.get('res.notification')
        User = pool.get('res.user')
        user = User(user_id)
        Event.record([user], 'recovered')
        left = cls.count([user_id])[user_id]
        if left <= _FEW_RECOVERY_CODES:
            language = user.language.code if user.language else None
            with Transaction().set_context(language=language):
                Notification.create([{
                            'user': user_id,
                            'label': gettext(
                                'authentication_totp'
                                '.msg_totp_few_recovery_codes_label'),
                            'description': gettext(
                                'authentication_totp'
                                '.msg_totp_few_recovery_codes', left=left),
                            'icon': 'tryton-warning',
                            }])


class UserTOTPEvent(ModelSQL, ModelView):
    "What happened to a user's TOTP"
    __name__ = 'res.user.totp_event'
    __string__ = "TOTP Event"

    user = fields.Many2One(
        'res.user', "User", readonly=True,
        help="Whose TOTP it happened to. Empty if the login has no TOTP.")
    time = fields.DateTime(
        "Time", required=True, readonly=True, help="When it happened.")
    kind = fields.Selection([
            ('invited', "Please set up TOTP"),
            ('set_up', "TOTP was set up"),
            ('replaced', "The TOTP key was replaced"),
            ('removed', "TOTP was turned off"),
            ('reset', "TOTP was reset"),
            ('failed', "Wrong codes were entered"),
            ('replayed', "A used code was entered again"),
            ('recovered', "A recovery code was used"),
            ('renewed', "New recovery codes were made"),
            ('locked', "TOTP was locked"),
            ('unlocked', "TOTP was unlocked"),
            ('resealed', "The TOTP key was sealed anew"),
            ], "Event", required=True, readonly=True, sort=False,
        help="What happened.")
    kind_string = kind.translated('kind')
    actor = fields.Many2One(
        'res.user', "Actor", readonly=True,
        help="Who was logged in and did it. Empty if it happened at a login "
        "or by the command on the server.")
    address = fields.Char(
        "Address", readonly=True,
        help="The IP address that it came from.")
    told = fields.Boolean(
        "Told", readonly=True,
        help="Checked if an e-mail about it was written to the user.")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._order = [('time', 'DESC'), ('id', 'DESC')]
        cls._sql_indexes.update({
                Index(
                    table, (table.user, Index.Equality()),
                    (table.time, Index.Range())),
                Index(table, (table.time, Index.Range())),
                })

    def get_rec_name(self, name):
        return self.kind_string

    @classmethod
    def record(cls, users, kind, tell=True):
        """Record that it happened just now, by the user of the transaction.

        users: the users whose TOTP it happened to
        kind: a key of the field kind
        tell: whether they are told by e-mail, as soon as the transaction is
            committed, unless they were told of the same within the last hour
        """
        transaction = Transaction()
        address, _ = transaction.remote_address()
        time = _second(totp.now())
        # The client may have put into it what delays or misleads the e-mail
        with transaction.reset_context():
            to_tell = cls._to_tell(users, kind, time) if tell else set()
            events = cls.create([{
                        'user': user.id,
                        'time': time,
                        'kind': kind,
                        'actor': transaction.user or None,
                        'address': str(address) if address else None,
                        'told': user in to_tell,
                        } for user in users])
            if to_tell:
                cls._queue_emails([e for e in events if e.told])

    @classmethod
    def _to_tell(cls, users, kind, time):
        if kind == 'resealed':
            return set()
        told = {e.user for e in cls.search([
                    ('user', 'in', [u.id for u in users]),
                    ('kind', '=', kind),
                    ('time', '>', time - _TELL_INTERVAL),
                    # The clock may have been set back
                    ('time', '<=', time),
                    ('told', '=', True),
                    ])}
        to_tell = set()
        for user in users:
            if not user.email:
                logger.info("no address to tell user %s of TOTP", user.id)
            elif user not in told:
                to_tell.add(user)
        return to_tell

    @classmethod
    def _queue_emails(cls, events):
        transaction = Transaction()
        with transaction.set_user(0):
            task, = cls.__queue__.send_emails(events)
        if task in transaction.tasks:
            # There is no worker, and nobody has to wait for a mail server
            transaction.tasks.remove(task)
            transaction.atexit(
                _MAILER.submit, run_task, transaction.database.name, task)

    @classmethod
    def send_emails(cls, events):
        "Send the e-mails that tell the users of the events."
        pool = Pool()
        Lang = pool.get('ir.lang')
        from_ = config.get('email', 'from')
        # One that hangs would hold up the e-mails to everybody
        uri = config.get('email', 'uri')
        if 'timeout=' not in uri:
            uri += f"{'&' if '?' in uri else '?'}timeout={_MAIL_TIMEOUT}"
        mailer = SMTPDataManager(uri)
        for event in events:
            user = event.user
            language = user.language or Lang.get()
            message, _ = get_email(
                'res.user.totp_event.email', event, [language])
            with Transaction().set_context(language=language.code):
                subject = gettext(
                    'authentication_totp.msg_totp_event_subject',
                    event=cls(event.id).kind_string, login=user.login)
            set_from_header(message, from_, from_)
            message['To'] = user.email
            # A login may hold what ends a line for an e-mail
            message['Subject'] = ' '.join(subject.split())
            send_message_transactional(message, datamanager=mailer)

    @classmethod
    def clean(cls):
        "Remove the events older than the setting event_retention."
        time = _timestamp(totp.now()) - dt.timedelta(
            days=totp.setting('event_retention'))
        cls.delete(cls.search([('time', '<', time)]))
