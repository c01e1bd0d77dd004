# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Remembered devices, which skip the code for a while"

import datetime as dt
import threading
from typing import Any, NamedTuple

from sql import Null

from trytond.i18n import gettext
from trytond.model import Index, fields
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction, without_check_access

from . import clock, settings
from .afterwards import after_transaction
from .exceptions import TOTPSetupError

# How long after its login a session can make a remembered device. Clients ask
# for the cookie of the device right after the login.
_RENEWAL = dt.timedelta(minutes=5)
_MARKS = [
    'totp_accepted', 'totp_generation', 'totp_last_used', 'totp_address']
# In a session that began without a code, these fields are empty, even if the
# context of the client contains defaults for them
_NO_LOGIN = dict.fromkeys([
        'totp_accepted', 'totp_generation', 'totp_recovered', 'totp_set_up'])


class RememberedDevice(NamedTuple):
    """A device that skips the code

    id: the id of its row in res.user.device
    first_seen: when the user first logged in on it
    last_used: when the user last logged in on it
    address: the IP address of that login, None if unknown
    """
    id: int
    first_seen: dt.datetime
    last_used: dt.datetime
    address: str | None


class _Note(NamedTuple):
    """A value that a transaction leaves to a later one of the same request

    Tryton runs the transactions of a request in the same thread, and all their
    contexts contain the same request object.
    """
    request: dict
    database: str
    user: int
    value: Any

    @classmethod
    def new(cls, user_id, value):
        transaction = Transaction()
        return cls(
            transaction.context.get('_request'), transaction.database.name,
            user_id, value)

    def get(self):
        "Return the value, or None in another request or for another user."
        transaction = Transaction()
        if (self.request is not None
                and self.request is transaction.context.get('_request')
                and self.database == transaction.database.name
                and self.user == transaction.user):
            return self.value


class _Notes(threading.local):
    """The notes of a thread

    accepted: the values that a login leaves to the session that it begins
    session: the key of the session of the request
    """
    accepted = None
    session = None


_notes = _Notes()


class Session(metaclass=PoolMeta):
    __name__ = 'ir.session'

    # Cleared once the client has asked for the cookie of its device
    totp_accepted = fields.DateTime("TOTP Accepted", readonly=True)
    totp_generation = fields.Integer("TOTP Generation", readonly=True)
    # For a while after these times, the wizard asks for no code
    totp_recovered = fields.DateTime("TOTP Recovered", readonly=True)
    totp_set_up = fields.DateTime("TOTP Set Up", readonly=True)

    @classmethod
    def create(cls, vlist):
        return super().create([{**_NO_LOGIN, **values} for values in vlist])

    @classmethod
    def note_totp_accepted(
            cls, user_id, generation, recovered=False, set_up=False):
        """Note that a code was accepted, for the session that this login
        begins.

        generation: the generation of the secrets that made the code, None if
            none did or if no device is to be remembered
        recovered: whether the code was a recovery code
        set_up: whether the code set up TOTP
        """
        now = clock.second(clock.now())
        values = {}
        if generation is not None:
            values.update(totp_accepted=now, totp_generation=generation)
        if recovered:
            values['totp_recovered'] = now
        if set_up:
            values['totp_set_up'] = now
        _notes.accepted = _Note.new(user_id, values) if values else None

    @classmethod
    def is_totp_recovered(cls):
        """Return whether the session of this request began with a recovery
        code, at most setup_timeout seconds ago.
        """
        return cls._is_recent('totp_recovered')

    @classmethod
    def is_totp_set_up(cls):
        """Return whether the session of this request began with a setup in the
        login dialog, at most setup_timeout seconds ago.
        """
        return cls._is_recent('totp_set_up')

    @classmethod
    def _is_recent(cls, name):
        key = _notes.session.get() if _notes.session else None
        if key is None:
            return False
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        time = getattr(table, name)
        now = clock.now()
        since = clock.second(now - settings.get('setup_timeout'))
        column = getattr(cls, name)
        cursor.execute(*table.select(
                table.id,
                where=(table.key == key)
                & (time > column.sql_format(since))
                # The clock may have been set back
                & (time <= column.sql_format(clock.second(now)))))
        return bool(cursor.fetchone())

    @classmethod
    def new(cls, values=None):
        note, _notes.accepted = _notes.accepted, None
        if note and (accepted := note.get()):
            values = {**(values or {}), **accepted}
        return super().new(values)

    @classmethod
    def check(cls, user, key, domain=None):
        found = super().check(user, key, domain=domain)
        _notes.session = _Note.new(user, key) if found else None
        return found

    @classmethod
    def take_totp_accepted(cls):
        """Return when the login that began the session of this request
        accepted a code, and the generation of the secrets that made it.

        Return None if the login accepted none, if it was too long ago or if an
        earlier call has returned it.
        """
        key = _notes.session.get() if _notes.session else None
        if key is None:
            return
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = (table.key == key) & (table.totp_accepted != Null)
        cursor.execute(*table.select(
                table.totp_accepted, table.totp_generation, where=where))
        if not (row := cursor.fetchone()):
            return
        cursor.execute(*table.update(
                [table.totp_accepted, table.totp_generation], [Null, Null],
                where=where))
        accepted, _ = row
        age = clock.second(clock.now()) - accepted
        if cursor.rowcount and dt.timedelta() <= age < _RENEWAL:
            return row

    @classmethod
    def forget_totp_accepted(cls, user_id):
        "Stop the sessions of the user from making a remembered device."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_accepted, table.totp_generation], [Null, Null],
                where=(table.create_uid == user_id)
                & (table.totp_accepted != Null)))


class UserDevice(metaclass=PoolMeta):
    """A device on which a user has logged in, remembered if the login accepted
    a code

    It is remembered only while it has the totp_generation of the user, which
    changes with the user's authenticators.
    """
    __name__ = 'res.user.device'

    totp_accepted = fields.DateTime("TOTP Accepted", readonly=True)
    totp_generation = fields.Integer("TOTP Generation", readonly=True)
    totp_last_used = fields.DateTime("TOTP Last Used", readonly=True)
    totp_address = fields.Char("TOTP Address", readonly=True)

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_indexes.add(
            Index(
                table, (table.login, Index.Equality(cardinality='high')),
                (table.cookie, Index.Equality(cardinality='high'))))

    @classmethod
    def create(cls, vlist):
        # The context of a client may contain defaults for missing values
        marks = dict.fromkeys(_MARKS)
        return super().create([{**marks, **values} for values in vlist])

    @classmethod
    def renew(cls, current_cookie):
        pool = Pool()
        Session = pool.get('ir.session')
        cookie = super().renew(current_cookie)
        # Do so here, not at the login: until the client has asked for this
        # cookie, anyone with a copy of the last one could use it
        if accepted := Session.take_totp_accepted():
            cls._remember(cookie, *accepted)
        return cookie

    @classmethod
    def _remember(cls, cookie, accepted, generation):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        accepted = cls.totp_accepted.sql_format(accepted)
        cursor.execute(*table.update(
                [getattr(table, name) for name in _MARKS],
                [accepted, generation, accepted, _address()],
                where=table.cookie == cookie))

    @classmethod
    def skips_totp(cls, users, cookie):
        """Return whether the cookie is that of a remembered device.

        users: a query for the id of the user who logs in
        cookie: a cookie that core has found valid, or None
        """
        if not cookie:
            return False
        table, user = cls._tables()
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._remembered(table, user).select(
                table.id,
                where=(table.cookie == cookie) & user.id.in_(users)
                & cls._is_remembered(table, user)))
        row = cursor.fetchone()
        if row:
            # Writing in this transaction would end simultaneous logins with
            # serialization failures
            after_transaction(cls._use, *row)
        return bool(row)

    @classmethod
    def _use(cls, id_):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_last_used, table.totp_address],
                [cls.totp_last_used.sql_format(clock.second(clock.now())),
                    _address()],
                where=table.id == id_))

    @classmethod
    def remembered(cls, user_id):
        """Return a RememberedDevice for each remembered device of the user,
        the most recently used first.

        Return none if the user of the transaction may not see the status of
        the user.
        """
        pool = Pool()
        User = pool.get('res.user')
        table, user = cls._tables()
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._remembered(table, user).select(
                table.id, table.create_date, table.totp_last_used,
                table.totp_address,
                where=(user.id == user_id) & User._is_totp_visible(user)
                & cls._is_remembered(table, user),
                order_by=[table.totp_last_used.desc, table.id.desc]))
        return [
            RememberedDevice(
                id_, first_seen.replace(microsecond=0), last_used, address)
            for id_, first_seen, last_used, address in cursor.fetchall()]

    @classmethod
    def _tables(cls):
        pool = Pool()
        User = pool.get('res.user')
        return cls.__table__(), User.__table__()

    @classmethod
    def _remembered(cls, table, user):
        return table.join(user, condition=user.login == table.login)

    @classmethod
    def _is_remembered(cls, table, user):
        now = clock.now()
        return ((user.totp_secret != Null)
            & (user.totp_generation == table.totp_generation)
            & (table.totp_accepted > cls._expired())
            # The clock may have been set back
            & (table.totp_accepted <= cls.totp_accepted.sql_format(
                    clock.second(now))))

    @classmethod
    def _expired(cls):
        "Return the time up to which accepted codes have expired."
        return cls.totp_accepted.sql_format(
            clock.second(clock.now())
            - dt.timedelta(days=settings.get('device_days')))

    @classmethod
    def clean_totp(cls):
        "Clear the fields of the remembered devices that have expired."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [getattr(table, name) for name in _MARKS],
                [Null] * len(_MARKS),
                where=table.totp_accepted <= cls._expired()))

    @classmethod
    def copy(cls, devices, default=None):
        default = default.copy() if default is not None else {}
        default.update(dict.fromkeys(_MARKS))
        return super().copy(devices, default=default)


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    def totp_devices(self):
        """Return a RememberedDevice for each remembered device of the user,
        the most recently used first.

        Return none if the user of the transaction may not see the status of
        this user.
        """
        pool = Pool()
        Device = pool.get('res.user.device')
        return Device.remembered(self.id)

    def describe_totp_devices(self):
        """Return the id and a line of text for each remembered device.

        Return none if the user of the transaction may not see the status of
        this user.
        """
        pool = Pool()
        Lang = pool.get('ir.lang')
        lang = Lang.get()
        return [
            (device.id, gettext(
                    'authentication_totp.msg_totp_device_line',
                    address=device.address or '?',
                    first_seen=lang.strftime(
                        clock.local(device.first_seen), '%x'),
                    # Devices in one office differ only by this time
                    last_used=lang.strftime(
                        clock.local(device.last_used), '%x %H:%M')))
            for device in self.totp_devices()]

    def choose_totp_devices(self):
        "Return the entries of a selection of one remembered device, or all."
        return [
            ('all', gettext('authentication_totp.msg_totp_all_devices')),
            *((str(id_), line) for id_, line in self.describe_totp_devices())]

    def forget_chosen_totp_devices(self, choice):
        """Forget the chosen device, or all devices.

        choice: the key of an entry of choose_totp_devices; what a client sent,
            of any type
        Raise as forget_totp_devices does, and TOTPSetupError if the user has
        no such device.
        """
        ids = None
        if choice != 'all':
            ids = [d.id for d in self.totp_devices() if str(d.id) == choice]
            if not ids:
                raise TOTPSetupError(
                    gettext('authentication_totp.msg_totp_no_device'))
        self.forget_totp_devices(ids)

    def forget_totp_devices(self, ids=None):
        """Forget devices of the user, so that their next login needs a code.

        ids: the ids of the devices, all by default
        Raise AccessError if the user of the transaction is another user, and
        may not write this one.
        """
        pool = Pool()
        Device = pool.get('res.user.device')
        Event = pool.get('res.user.totp_event')
        Session = pool.get('ir.session')
        if Transaction().user != self.id:
            self.check_totp_management([self])
        domain = [('login', '=', self.login)]
        if ids is not None:
            domain.append(('id', 'in', ids))
        with without_check_access():
            devices = Device.search(domain)
            Device.delete(devices)
        Session.forget_totp_accepted(self.id)
        if devices:
            Event.record([self], 'devices_forgotten')


def _address():
    address, _ = Transaction().remote_address()
    return str(address) if address else None
