# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Additions to the users: the secrets, and the status that people see"

from functools import partial

from sql import Literal, Null
from sql.conditionals import Case
from sql.functions import Lower

from trytond.i18n import gettext
from trytond.model import ModelView, dualmethod, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval
from trytond.transaction import Transaction, check_access

from .exceptions import TOTPAccessError

_STORED = [
    'totp_secret', 'totp_generation', 'totp_pending_secret',
    'totp_pending_expire', 'totp_pending_codes']


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    # The fields that users see in their preferences and cannot change
    _totp_preferences = ['totp_enabled', 'totp_since', 'totp_recovery_codes']
    # Lazy because a client that reads all eager fields would be refused access
    totp_secret = fields.Char(
        "TOTP Secret", readonly=True, strip=False, loading='lazy',
        help="The keys that the user's authenticators share with the server. "
        "Nobody can read them.")
    totp_generation = fields.Integer(
        "TOTP Generation", readonly=True, loading='lazy',
        help="The number of times the keys in force have changed.")
    totp_pending_secret = fields.Char(
        "TOTP Pending Secret", readonly=True, strip=False, loading='lazy',
        help="A new key that has not been confirmed with a code yet.")
    totp_pending_expire = fields.Timestamp(
        "TOTP Pending Expire", readonly=True, loading='lazy',
        help="The time until which the new key can be confirmed.")
    totp_pending_codes = fields.Integer(
        "TOTP Pending Codes", readonly=True, loading='lazy')
    totp_enabled = fields.Function(
        fields.Boolean(
            "Uses TOTP",
            help="Checked if the user has set up an authenticator."),
        'get_totp_flag', searcher='search_totp_flag')
    totp_locked = fields.Function(
        fields.Boolean(
            "TOTP Locked",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="Checked if codes no longer work because there were too "
            "many wrong ones."),
        'get_totp_status', searcher='search_totp_flag')
    totp_since = fields.Function(
        fields.DateTime(
            "TOTP Since",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="When the oldest authenticator in use was set up."),
        'get_totp_status')
    totp_last_used = fields.Function(
        fields.DateTime(
            "TOTP Last Used",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="When a code was last accepted."),
        'get_totp_status')
    totp_recovery_codes = fields.Function(
        fields.Integer(
            "TOTP Recovery Codes",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="The number of recovery codes that have not been used yet."),
        'get_totp_status')
    totp_failures = fields.Function(
        fields.Integer(
            "TOTP Failures",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="The number of wrong codes that count towards the lockout."),
        'get_totp_status')
    totp_waiting_until = fields.Function(
        fields.DateTime(
            "TOTP Waiting Until",
            states={
                'invisible': ~Eval('totp_waiting_until'),
                },
            help="The time until which codes are refused because of wrong "
            "ones."),
        'get_totp_status')

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls._buttons.update({
                'unlock_totp': {
                    'invisible': ~Eval('totp_failures', 0),
                    'depends': ['totp_failures'],
                    },
                })

    # Whatever the caller or the query, the ORM never reads the columns of the
    # secrets. Only the SQL of this module does.

    @classmethod
    def column_totp_secret(cls, tables):
        return cls.totp_secret.sql_cast(Literal(None))

    @classmethod
    def column_totp_generation(cls, tables):
        return cls.totp_generation.sql_cast(Literal(None))

    @classmethod
    def column_totp_pending_secret(cls, tables):
        return cls.totp_pending_secret.sql_cast(Literal(None))

    @classmethod
    def column_totp_pending_expire(cls, tables):
        return cls.totp_pending_expire.sql_cast(Literal(None))

    @classmethod
    def column_totp_pending_codes(cls, tables):
        return cls.totp_pending_codes.sql_cast(Literal(None))

    @classmethod
    def _is_totp_visible(cls, table):
        """Return the condition that the user of the transaction may see the
        status of a user: their own, and that of each user they may write.
        """
        pool = Pool()
        ModelAccess = pool.get('ir.model.access')
        Rule = pool.get('ir.rule')
        transaction = Transaction()
        # The ORM reads function fields without checking access, so only the
        # user tells whether the server itself asks
        if not transaction.user:
            return Literal(True)
        visible = table.id == transaction.user
        with check_access():
            if ModelAccess.check('res.user', 'write', raise_exception=False):
                visible |= table.id.in_(
                    Rule.query_get('res.user', mode='write'))
        return visible

    @classmethod
    def _filter_totp_visible(cls, users):
        """Return the ids of those users whose status the user of the
        transaction may see.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=fields.SQL_OPERATORS['in'](
                    table.id, [u.id for u in users])
                & cls._is_totp_visible(table)))
        return [id_ for id_, in cursor]

    @classmethod
    def _is_totp_enabled(cls, table):
        return table.totp_secret != Null

    @classmethod
    def _is_totp_locked(cls, table):
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        return table.id.in_(Guess.locked())

    @classmethod
    def get_totp_flag(cls, users, name):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        flags = dict.fromkeys((u.id for u in users), False)
        cursor.execute(*table.select(
                table.id,
                where=fields.SQL_OPERATORS['in'](table.id, flags)
                & cls._is_totp_visible(table)
                & getattr(cls, f'_is_{name}')(table)))
        flags.update((id_, True) for id_, in cursor)
        return flags

    @classmethod
    def search_totp_flag(cls, name, clause):
        table = cls.__table__()
        _, operator, value = clause
        Operator = fields.SQL_OPERATORS[operator]
        flag = Case((
                cls._is_totp_visible(table)
                & getattr(cls, f'_is_{name}')(table), Literal(True)),
            else_=Literal(False))
        return [
            ('id', 'in', table.select(table.id, where=Operator(flag, value)))]

    @classmethod
    def get_totp_status(cls, users, names):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Guess = pool.get('res.user.totp_guess')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        visible = cls._filter_totp_visible(users)
        counters = Counter.status(visible)
        guesses = Guess.status(visible)
        recovery_codes = RecoveryCode.count(visible)
        status = {
            id_: {
                **counters[id_], **guesses[id_],
                'totp_recovery_codes': recovery_codes[id_],
                }
            for id_ in visible}
        return {
            name: {u.id: status.get(u.id, {}).get(name) for u in users}
            for name in names}

    @classmethod
    def check_totp_management(cls, users):
        """Raise AccessError unless the user of the transaction may write each
        of the users, as ir.model.access and ir.rule say.
        """
        pool = Pool()
        ModelAccess = pool.get('ir.model.access')
        Rule = pool.get('ir.rule')
        # Wizards and buttons run without access checks
        with check_access():
            ModelAccess.check('res.user', 'write')
            Rule.check('res.user', [u.id for u in users], 'write')

    @classmethod
    def check_not_own_totp(cls, users):
        """Raise TOTPAccessError if the user of the transaction is one of the
        users and has an authenticator.

        Such a user has to prove every change with a code.
        """
        if any(
                user.id == Transaction().user and user._has_totp_secrets()
                for user in users):
            raise TOTPAccessError(
                gettext('authentication_totp.msg_totp_own_account'))

    @classmethod
    def _clear_login_attempts(cls, users):
        "Delete the failed logins of the users that Tryton's own limit counts."
        pool = Pool()
        LoginAttempt = pool.get('res.user.login.attempt')
        table = LoginAttempt.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(
                # A directory may accept the login in another case
                where=fields.SQL_OPERATORS['in'](
                    Lower(table.login), [
                        u.login[:LoginAttempt.login.size].lower()
                        for u in users])))

    @dualmethod
    @ModelView.button
    def unlock_totp(cls, users):
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Guess = pool.get('res.user.totp_guess')
        cls.check_totp_management(users)
        # Otherwise an attacker in the user's session could guess for ever
        cls.check_not_own_totp(users)
        Guess.unlock([u.id for u in users])
        cls._clear_login_attempts(users)
        Event.record(users, 'unlocked')

    @classmethod
    def preprocess_values(cls, mode, values):
        values = super().preprocess_values(mode, values)
        for name in values.keys() & {*cls._totp_preferences, *_STORED}:
            if mode == 'write' or values[name] is not None:
                raise TOTPAccessError(gettext(
                        'authentication_totp.msg_totp_field_readonly',
                        **cls.__names__(name)))
        return values

    @classmethod
    def create(cls, vlist):
        # A client's context may contain defaults for fields without a value
        with Transaction().set_context(
                dict.fromkeys(f'default_{name}' for name in _STORED)):
            return super().create(vlist)

    @classmethod
    def on_write(cls, users, values):
        pool = Pool()
        Device = pool.get('res.user.device')
        on_write = super().on_write(users, values)
        if 'login' in values:
            # Devices belong to the text of a login, which another user may
            # have had before or may get later
            logins = {u.login for u in users} - {values['login']}
            if logins:
                logins.add(values['login'])
                on_write.append(partial(Device.clear, list(logins)))
        return on_write

    @classmethod
    def copy(cls, users, default=None):
        default = default.copy() if default is not None else {}
        default.update(dict.fromkeys(_STORED))
        return super().copy(users, default=default)
