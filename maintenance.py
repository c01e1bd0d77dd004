# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What the server does by itself to the secrets of all users"

import logging

from sql import Null
from sql.aggregate import Count, Max
from sql.conditionals import Coalesce
from sql.functions import Random

from trytond import backend
from trytond.model import fields
from trytond.pool import Pool, PoolMeta
from trytond.tools import grouped_slice, sqlite_apply_types
from trytond.transaction import Transaction

from . import clock, notice, seal, settings

logger = logging.getLogger(__name__)

_CLEAR = f'{seal.CLEAR}%'
# How many secrets of each kind are decrypted when a database is loaded
_SAMPLE = 100


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    @classmethod
    def totp_owners(cls):
        "Return the ids of the users with a secret, in force or pending."
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
        """Seal the secrets of the users, in force and pending, with the first
        key, unless they are already.

        Return the users with a secret that no key decrypts. Such a secret
        stays unchanged.
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
        """Remove the pending secrets, the remembered devices and the events
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
    def check_totp(cls):
        """Log what is wrong with the stored secrets and with the clock.

        Called once after the database is loaded.
        """
        try:
            keys = settings.get('encryption_keys')
        except settings.DeniedError:
            # The server reports the setting itself at start
            pass
        else:
            if keys:
                cls._check_totp_sealed()
            cls._check_totp_readable(_SAMPLE)
        cls._check_totp_clock()

    @classmethod
    def _check_totp_sealed(cls):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                Count(table.id),
                where=table.totp_secret.like(_CLEAR)))
        count, = cursor.fetchone()
        if count:
            notice.tell(
                logger, "users whose TOTP secrets are stored unencrypted in "
                "the database %s: %d; to encrypt them, run trytond_totp "
                "reseal",
                Transaction().database.name, count)

    @classmethod
    def _check_totp_readable(cls, most):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        # A new random sample at each start eventually finds a problem of a few
        # users too
        cursor.execute(*table.select(
                table.id, table.totp_secret,
                Coalesce(table.totp_generation, 0),
                where=~table.totp_secret.like(_CLEAR),
                order_by=Random(), limit=most))
        rows = cursor.fetchall()
        unreadable = cls._unreadable_totp_owners(rows)
        if unreadable:
            notice.tell(
                logger, "users whose TOTP secret no key decrypts in the "
                "database %s: %d of %d tried; their codes cannot be checked "
                "until the key is back in the file of encryption_keys; "
                "trytond_totp status names them",
                Transaction().database.name, len(unreadable), len(rows))

    @classmethod
    def unreadable_totp_owners(cls, users):
        "Return the set of ids of the users whose secrets no key decrypts."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        unreadable = set()
        for sub_users in grouped_slice(users):
            cursor.execute(*table.select(
                    table.id, table.totp_secret,
                    Coalesce(table.totp_generation, 0),
                    where=fields.SQL_OPERATORS['in'](
                        table.id, [u.id for u in sub_users])
                    & (table.totp_secret != Null)))
            unreadable |= cls._unreadable_totp_owners(cursor)
        return unreadable

    @classmethod
    def _unreadable_totp_owners(cls, rows):
        unreadable = set()
        for id_, stored, generation in rows:
            try:
                cls.unseal_totp_secrets(id_, stored, generation)
            except ValueError:
                unreadable.add(id_)
        return unreadable

    @classmethod
    def _check_totp_clock(cls):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        table = Counter.__table__()
        cursor = Transaction().connection.cursor()
        query = table.select(Max(table.last_used).as_('last_used'))
        if backend.name == 'sqlite':
            sqlite_apply_types(query, ['DATETIME'])
        cursor.execute(*query)
        last, = cursor.fetchone()
        if last is None:
            return
        now = clock.second(clock.now())
        ahead = (last - now).total_seconds()
        if ahead > (settings.get('tolerance') + 1) * settings.get('period'):
            notice.tell(
                logger, "the clock of this machine was set back: it shows %s "
                "UTC, but in the database %s a code was accepted at %s UTC; "
                "the codes of users who logged in since then do not work "
                "until the clock has caught up",
                now, Transaction().database.name, last)
