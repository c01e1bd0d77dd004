# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The users for whom TOTP is required"

import logging
from contextlib import contextmanager

from sql import Literal, Null
from sql.conditionals import Case, Coalesce
from sql.operators import Exists

from trytond.i18n import gettext
from trytond.model import ModelSingleton, ModelSQL, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval
from trytond.transaction import Transaction, without_check_access

from . import authentications, clock
from .exceptions import TOTPRequiredWarning

logger = logging.getLogger(__name__)

# The name of the group of administrators before Tryton 8.2
_GROUP = "Administration"
# The fields of users and groups that can make TOTP required for a user
_USER_FIELDS = {
    'totp_required', 'totp_required_from', 'groups', 'administrator', 'active'}
_GROUP_FIELDS = {
    'totp_required', 'totp_required_from', 'users', 'parent', 'active'}
# The maximum number of users that a warning names
_NAMES = 5


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    totp_required = fields.Boolean(
        "Require TOTP",
        help="Check to require TOTP for the user. A group of the user can "
        "require it too.")
    totp_required_from = fields.Date(
        "Require TOTP From",
        states={
            'invisible': ~Eval('totp_required', False),
            },
        help="The first day on which TOTP is required, in the time zone of "
        "the server. Leave it empty to require TOTP at once.")
    totp_mandatory = fields.Function(
        fields.Boolean(
            "Must Use TOTP",
            help="Checked if TOTP is required today, for the user or for one "
            "of the user's groups."),
        'get_totp_flag', searcher='search_totp_flag')
    totp_mandatory_from = fields.Function(
        fields.Date(
            "Must Use TOTP From",
            states={
                'invisible': (
                    ~Eval('totp_mandatory_from')
                    | Eval('totp_mandatory', False)),
                },
            help="The first day on which TOTP is required, for the user or "
            "for one of the user's groups."),
        'get_totp_mandatory_from')

    @classmethod
    def column_totp_required(cls, tables):
        table, _ = tables[None]
        return Case(
            (cls._is_totp_visible(table), table.totp_required),
            else_=Literal(False))

    @classmethod
    def column_totp_required_from(cls, tables):
        table, _ = tables[None]
        return cls.totp_required_from.sql_cast(Case(
                (cls._is_totp_visible(table), table.totp_required_from),
                else_=Null))

    @classmethod
    def _is_totp_mandatory(cls, table):
        return _is_in_force(table) | cls._is_in_totp_group(
            table, _is_in_force)

    @classmethod
    def _is_in_totp_group(cls, table, condition):
        """Return the SQL condition that a group of the user meets a condition.

        table: the table of the users
        condition: a function that returns the condition for the table of the
            groups
        """
        pool = Pool()
        Group = pool.get('res.group')
        UserGroup = pool.get('res.user-res.group')
        group = Group.__table__()
        user_group = UserGroup.user_group_all_table()
        meets = condition(group) & (group.active == Literal(True))
        in_group = table.id.in_(
            user_group
            .join(group, condition=user_group.group == group.id)
            .select(user_group.user, where=meets))
        if _administrator_is_flag():
            # Administrators have the access rights of all groups
            in_group |= ((table.administrator == Literal(True))
                & Exists(group.select(group.id, where=meets)))
        return in_group

    @classmethod
    def get_totp_mandatory_from(cls, users, name):
        pool = Pool()
        Group = pool.get('res.group')
        UserGroup = pool.get('res.user-res.group')
        table = cls.__table__()
        group = Group.__table__()
        user_group = UserGroup.user_group_all_table()
        cursor = Transaction().connection.cursor()
        days = {u.id: [] for u in users}
        visible = (fields.SQL_OPERATORS['in'](table.id, days)
            & cls._is_totp_visible(table))
        in_group = user_group.group == group.id
        if _administrator_is_flag():
            in_group |= table.administrator == Literal(True)
        today = clock.today()
        for query in [
                table.select(
                    table.id, table.totp_required_from,
                    where=visible & (table.totp_required == Literal(True))),
                table
                .join(user_group, 'LEFT',
                    condition=user_group.user == table.id)
                .join(group, condition=in_group)
                .select(
                    table.id, group.totp_required_from,
                    where=visible
                    & (group.totp_required == Literal(True))
                    & (group.active == Literal(True)))]:
            cursor.execute(*query)
            for id_, day in cursor:
                days[id_].append(day or today)
        return {id_: min(days_, default=None) for id_, days_ in days.items()}

    @classmethod
    def filter_locked_out_of_totp(cls, users):
        "Return those of the users who cannot log in without TOTP."
        options = authentications.options('totp')
        if options is None or 'setup_totp' in options:
            return []
        if 'no_totp_secret' in options:
            return [u for u in users if u.totp_mandatory]
        return list(users)

    @classmethod
    def create(cls, vlist):
        users = super().create(vlist)
        cls._warn_of_required_totp(cls._required_without_totp(users))
        return users

    @classmethod
    def write(cls, users, values, *args):
        with cls.warning_of_required_totp(
                _USER_FIELDS, values, *args[1::2],
                users=[u for users_ in (users, *args[::2]) for u in users_]):
            super().write(users, values, *args)

    @classmethod
    @contextmanager
    def warning_of_required_totp(cls, names, *values, users=None):
        """Warn the user of the transaction if the changes in this context
        require TOTP for users without an authenticator.

        names: the names of the fields that can require it
        values: dictionaries of the changes, by the name of the field
        users: the users who may be concerned, all by default
        Raise TOTPRequiredWarning until the user has confirmed it.
        """
        if all(names.isdisjoint(values_) for values_ in values):
            yield
            return
        before = cls._required_without_totp(users)
        yield
        cls._warn_of_required_totp({
                id_: day
                for id_, day in cls._required_without_totp(users).items()
                if id_ not in before or day < before[id_]})

    @classmethod
    def _required_without_totp(cls, users=None):
        """Return the first day on which TOTP is required, at the earliest
        today, by the id of each user who has not set it up.

        Only users whose status the user of the transaction may see are
        included. The user of the transaction comes first.

        users: the users to include, all by default
        """
        actor = Transaction().user
        if not actor:
            return {}
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = ((table.active == Literal(True))
            & (table.totp_secret == Null)
            & cls._is_totp_visible(table)
            & (_requires(table) | cls._is_in_totp_group(table, _requires)))
        if users is not None:
            where &= fields.SQL_OPERATORS['in'](
                table.id, [u.id for u in users])
        cursor.execute(*table.select(
                table.id, where=where,
                order_by=[
                    Case((table.id == actor, 0), else_=1), table.name,
                    table.id]))
        ids = [id_ for id_, in cursor]
        days = cls.get_totp_mandatory_from(
            cls.browse(ids), 'totp_mandatory_from')
        today = clock.today()
        return {id_: max(days[id_], today) for id_ in ids}

    @classmethod
    def _warn_of_required_totp(cls, days):
        """Raise TOTPRequiredWarning about the users, unless it is confirmed.

        days: the days by the id of the user, from _required_without_totp
        """
        pool = Pool()
        Lang = pool.get('ir.lang')
        Warning = pool.get('res.user.warning')
        users = cls.browse(list(days))
        warning = Warning.format('totp_required', users)
        if not users or not Warning.check(warning):
            return
        day = min(days.values())
        message, description = 'msg_totp_required_now', ''
        if day > clock.today():
            message = 'msg_totp_required_later'
        options = authentications.options('totp')
        if options is not None:
            description = gettext('authentication_totp.' + (
                    'msg_totp_required_set_up' if 'setup_totp' in options
                    else 'msg_totp_required_locked_out'))
        with without_check_access():
            names = [u.name or u.login for u in users[:_NAMES]]
        raise TOTPRequiredWarning(warning, gettext(
                f'authentication_totp.{message}',
                day=Lang.get().strftime(day), count=len(users),
                names=', '.join(names + ['…'] * (len(users) > _NAMES))),
            description)


class Group(metaclass=PoolMeta):
    __name__ = 'res.group'

    totp_required = fields.Boolean(
        "Require TOTP",
        help="Check to require TOTP for the members of the group and of its "
        "subgroups.")
    totp_required_from = fields.Date(
        "Require TOTP From",
        states={
            'invisible': ~Eval('totp_required', False),
            },
        help="The first day on which TOTP is required, in the time zone of "
        "the server. Leave it empty to require TOTP at once.")

    @classmethod
    def __register__(cls, module):
        pool = Pool()
        Administrators = pool.get('res.user.totp_administrators')
        super().__register__(module)
        if _administrator_is_flag():
            Administrators.restore()
        else:
            Administrators.remember()

    @classmethod
    def create(cls, vlist):
        pool = Pool()
        User = pool.get('res.user')
        with User.warning_of_required_totp(_GROUP_FIELDS, *vlist):
            return super().create(vlist)

    @classmethod
    def write(cls, groups, values, *args):
        pool = Pool()
        User = pool.get('res.user')
        with User.warning_of_required_totp(
                _GROUP_FIELDS, values, *args[1::2]):
            super().write(groups, values, *args)

    @classmethod
    def on_modification(cls, mode, groups, field_names=None):
        pool = Pool()
        Administrators = pool.get('res.user.totp_administrators')
        super().on_modification(mode, groups, field_names=field_names)
        if mode == 'write' and not _administrator_is_flag():
            Administrators.remember()


class Administrators(ModelSingleton, ModelSQL):
    """A copy of the requirement of the group of administrators

    Tryton 8.2 has no such group. Its update deletes the group, and would
    delete the requirement with it.
    """
    __name__ = 'res.user.totp_administrators'
    __string__ = "TOTP Administrators"

    required = fields.Boolean("Required")
    required_from = fields.Date("Required From")

    @classmethod
    def remember(cls):
        "Store whether TOTP is required for the group of administrators."
        pool = Pool()
        Group = pool.get('res.group')
        ModelData = pool.get('ir.model.data')
        group = Group.__table__()
        data = ModelData.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*group
            .join(data,
                condition=(data.db_id == group.id) & cls._is_group(data))
            .select(
                Coalesce(group.totp_required, Literal(False)),
                group.totp_required_from))
        for required, day in cursor.fetchall():
            cls._put(bool(required), day)

    @classmethod
    def _is_group(cls, data):
        return ((data.model == 'res.group')
            & (data.module == 'res')
            & (data.fs_id == 'group_admin'))

    @classmethod
    def restore(cls):
        "Restore the stored requirement, if any, in a group of the same name."
        pool = Pool()
        Group = pool.get('res.group')
        ModelData = pool.get('ir.model.data')
        group = Group.__table__()
        data = ModelData.__table__()
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.required_from, where=table.required == Literal(True)))
        remembered = cursor.fetchone()
        if not remembered:
            return
        day, = remembered
        # At its end, the update would delete the group of this entry
        cursor.execute(*data.delete(where=cls._is_group(data)))
        cursor.execute(*group.update(
                [group.totp_required, group.totp_required_from, group.active],
                [Literal(True), day, Literal(True)],
                where=group.name == _GROUP))
        if not cursor.rowcount:
            cursor.execute(*group.insert(
                    [group.name, group.totp_required,
                        group.totp_required_from, group.active],
                    [[_GROUP, True, day, True]]))
        cls._put(False)
        logger.warning(
            "TOTP stays required for administrators by the group %r", _GROUP)

    @classmethod
    def _put(cls, required, day=None):
        table = cls.__table__()
        columns = [table.required, table.required_from]
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(columns, [required, day]))
        if not cursor.rowcount:
            cursor.execute(*table.insert(columns, [[required, day]]))


def _administrator_is_flag():
    "Return whether a field of the users, not a group, marks administrators."
    pool = Pool()
    User = pool.get('res.user')
    return hasattr(User, 'administrator')


def _requires(table):
    "Return the SQL condition that the row requires TOTP, now or later."
    return table.totp_required == Literal(True)


def _is_in_force(table):
    "Return the SQL condition that the row requires TOTP today."
    return _requires(table) & (
        (table.totp_required_from == Null)
        | (table.totp_required_from <= clock.today()))
