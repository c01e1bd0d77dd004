# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"For whom TOTP is required"

import logging

from sql import Literal
from sql.conditionals import Case, Coalesce
from sql.operators import Exists

from trytond.model import ModelSingleton, ModelSQL, fields
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction

logger = logging.getLogger(__name__)

# The name of the group of administrators before Tryton 8.2
_GROUP = "Administration"


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    totp_required = fields.Boolean(
        "TOTP Required",
        help="Check to stop the user from logging in without TOTP.")
    totp_mandatory = fields.Function(
        fields.Boolean(
            "TOTP Mandatory",
            help="Checked if TOTP is required from the user or from one of "
            "the user's groups."),
        'get_totp_flag', searcher='search_totp_flag')

    @classmethod
    def column_totp_required(cls, tables):
        table, _ = tables[None]
        return Case(
            (cls._is_totp_visible(table), table.totp_required),
            else_=Literal(False))

    @classmethod
    def _is_totp_mandatory(cls, table):
        pool = Pool()
        Group = pool.get('res.group')
        UserGroup = pool.get('res.user-res.group')
        group = Group.__table__()
        user_group = UserGroup.user_group_all_table()
        required = ((group.totp_required == Literal(True))
            & (group.active == Literal(True)))
        mandatory = (table.totp_required == Literal(True)) | table.id.in_(
            user_group
            .join(group, condition=user_group.group == group.id)
            .select(user_group.user, where=required))
        if _administrator_is_flag():
            # Administrators have the access rights of all groups
            mandatory |= ((table.administrator == Literal(True))
                & Exists(group.select(group.id, where=required)))
        return mandatory


class Group(metaclass=PoolMeta):
    __name__ = 'res.group'

    totp_required = fields.Boolean(
        "TOTP Required",
        help="Check to stop the members of the group and of its subgroups "
        "from logging in without TOTP.")

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
    def on_modification(cls, mode, groups, field_names=None):
        pool = Pool()
        Administrators = pool.get('res.user.totp_administrators')
        super().on_modification(mode, groups, field_names=field_names)
        if mode == 'write' and not _administrator_is_flag():
            Administrators.remember()


class Administrators(ModelSingleton, ModelSQL):
    """Whether TOTP is required for the group of administrators

    Tryton 8.2 has no such group. Its update deletes the group, and the
    requirement would be lost with it.
    """
    __name__ = 'res.user.totp_administrators'
    __string__ = "TOTP Administrators"

    required = fields.Boolean("Required")

    @classmethod
    def remember(cls):
        "Store whether TOTP is required for the group."
        pool = Pool()
        Group = pool.get('res.group')
        ModelData = pool.get('ir.model.data')
        group = Group.__table__()
        data = ModelData.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*group
            .join(data,
                condition=(data.db_id == group.id) & cls._is_group(data))
            .select(Coalesce(group.totp_required, Literal(False))))
        for required, in cursor.fetchall():
            cls._put(bool(required))

    @classmethod
    def _is_group(cls, data):
        return ((data.model == 'res.group')
            & (data.module == 'res')
            & (data.fs_id == 'group_admin'))

    @classmethod
    def restore(cls):
        "Require TOTP for administrators by a group, if it was required."
        pool = Pool()
        Group = pool.get('res.group')
        ModelData = pool.get('ir.model.data')
        group = Group.__table__()
        data = ModelData.__table__()
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id, where=table.required == Literal(True)))
        if not cursor.fetchone():
            return
        # The update deletes what it knows by this name once all is loaded
        cursor.execute(*data.delete(where=cls._is_group(data)))
        cursor.execute(*group.update(
                [group.totp_required, group.active],
                [Literal(True), Literal(True)],
                where=group.name == _GROUP))
        if not cursor.rowcount:
            cursor.execute(*group.insert(
                    [group.name, group.totp_required, group.active],
                    [[_GROUP, True, True]]))
        cls._put(False)
        logger.warning(
            "TOTP stays required for administrators by the group %r", _GROUP)

    @classmethod
    def _put(cls, required):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update([table.required], [required]))
        if not cursor.rowcount:
            cursor.execute(*table.insert([table.required], [[required]]))


def _administrator_is_flag():
    "Return whether administrators are marked, not members of a group."
    pool = Pool()
    User = pool.get('res.user')
    return hasattr(User, 'administrator')
