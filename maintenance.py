# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What the server does by itself to the secrets of all users"

import logging

from sql import Null
from sql.aggregate import Count
from sql.conditionals import Coalesce

from trytond.model import fields
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction

from . import clock, seal

logger = logging.getLogger(__name__)


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

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
        for column, reseal in [
                (table.totp_secret, cls.reseal_totp_secrets),
                (table.totp_pending_secret, cls.reseal_pending_totp_secret),
                ]:
            cursor.execute(*table.select(
                    table.id, column, Coalesce(table.totp_generation, 0),
                    where=fields.SQL_OPERATORS['in'](
                        table.id, [u.id for u in users])
                    & (column != Null)))
            for id_, stored, generation in cursor.fetchall():
                try:
                    sealed = reseal(id_, stored, generation)
                except ValueError:
                    unreadable.add(id_)
                    continue
                if sealed == stored:
                    continue
                cursor.execute(*table.update(
                        [column], [sealed],
                        where=(table.id == id_) & (column == stored)))
                if cursor.rowcount:
                    resealed.add(id_)
        if resealed:
            Event.record(cls.browse(sorted(resealed)), 'resealed')
        return cls.browse(sorted(unreadable))

    @classmethod
    def clean_totp(cls):
        """Remove the waiting secrets, the remembered devices and the events
        that are too old, and forget the failures of the decoys.
        """
        pool = Pool()
        Device = pool.get('res.user.device')
        Event = pool.get('res.user.totp_event')
        Guess = pool.get('res.user.totp_guess')
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        now = cls.totp_pending_expire.sql_format(
            clock.timestamp(clock.now()))
        cursor.execute(*table.update(
                [table.totp_pending_secret, table.totp_pending_expire],
                [Null, Null],
                where=table.totp_pending_expire <= now))
        Device.clean_totp()
        Event.clean()
        # Runs last: the lock it takes would block logins without TOTP
        Guess.clean()

    @classmethod
    def check_totp_sealed(cls):
        "Log how many secrets are stored in clear although there are keys."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                Count(table.id),
                where=table.totp_secret.like(f'{seal.CLEAR}%')))
        count, = cursor.fetchone()
        if count:
            logger.error(
                "users whose TOTP secrets are stored in clear in the database "
                "%s: %d; to seal them, run trytond_totp reseal",
                Transaction().database.name, count)
