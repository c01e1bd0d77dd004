# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The remembered devices, which skip the code for a while"

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

# Clients ask for the cookie of the device right after the login
_RENEWAL = dt.timedelta(minutes=5)
_MARKS = [
    'totp_accepted', 'totp_generation', 'totp_last_used', 'totp_address']
# What a session has that began otherwise
_NO_LOGIN = dict.fromkeys([
        'totp_accepted', 'totp_generation', 'totp_recovered', 'totp_set_up'])


class RememberedDevice(NamedTuple):
    """A device that skips the code

    id: of the row of res.user.device
    first_seen: when the user first logged in on it
    last_used: when the user last logged in on it
    address: the IP address of that login, None if it is not known
    """
    id: int
    first_seen: dt.datetime
    last_used: dt.datetime
    address: str | None


class _Note(NamedTuple):
    """What a transaction leaves to a later one of the same request

    Tryton runs the transactions of a request in the same thread, and gives
    each of them the same object about the request.
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
        "Return the value, None in another request or for another user."
        transaction = Transaction()
        if (self.request is not None
                and self.request is transaction.context.get('_request')
                and self.database == transaction.database.name
                and self.user == transaction.user):
            return self.value


class _Notes(threading.local):
    """The notes of a thread

    accepted: what the login leaves to the session that it begins
    session: the key with which the request came
    """
    accepted = None
    session = None


_notes = _Notes()


class Session(metaclass=PoolMeta):
    __name__ = 'ir.session'

    # Until the client has asked for the cookie of its device
    totp_accepted = fields.DateTime("TOTP Accepted", readonly=True)
    totp_generation = fields.Integer("TOTP Generation", readonly=True)
    # For a while the wizard asks for no other code
    totp_recovered = fields.DateTime("TOTP Recovered", readonly=True)
    totp_set_up = fields.DateTime("TOTP Set Up", readonly=True)

    @classmethod
    def create(cls, vlist):
        return super().create([{**_NO_LOGIN, **values} for values in vlist])

    @classmethod
    def note_totp_accepted(
            cls, user_id, generation, recovered=False, set_up=False):
        """Let the session that this login begins know that a code was
        accepted.

        generation: of the secrets that made the code, None if none did or if
            no device is to be remembered
        recovered: whether it was a recovery code
        set_up: whether it has set TOTP up
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
        code, at most setup_timeout ago.
        """
        return cls._is_recent('totp_recovered')

    @classmethod
    def is_totp_set_up(cls):
        """Return whether the session of this request began with a set-up in
        the login dialog, at most setup_timeout ago.
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
        """Return when a code was accepted in the login that began the session
        of this request, and the generation of the secrets that made it.

        Return None if none was, if it is too long ago or if it was already
        taken.
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
        "Let no session of the user make a remembered device any more."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_accepted, table.totp_generation], [Null, Null],
                where=(table.create_uid == user_id)
                & (table.totp_accepted != Null)))


class UserDevice(metaclass=PoolMeta):
    """A device on which a user has logged in, remembered if a code was
    accepted in such a login

    It is remembered only as long as the user has the secrets of that
    generation.
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
        # A client's context may hold defaults for what is not given
        marks = dict.fromkeys(_MARKS)
        return super().create([{**marks, **values} for values in vlist])

    @classmethod
    def renew(cls, current_cookie):
        pool = Pool()
        Session = pool.get('ir.session')
        cookie = super().renew(current_cookie)
        # Not at the login: whoever has copied the cookie of before could use
        # it until the client has asked for this one
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
        cookie: one that core has found valid, or None
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
            # Simultaneous logins would otherwise end in serialization
            # failures
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
        "Return the RememberedDevice of each such device of the user."
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
        "Return the time of the last code of the devices that expire now."
        return cls.totp_accepted.sql_format(
            clock.second(clock.now())
            - dt.timedelta(days=settings.get('device_days')))

    @classmethod
    def clean_totp(cls):
        "Remove from the devices what makes them remembered, if it expired."
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
        """Return the RememberedDevice of each device that skips the code, the
        one used last first.

        There is none for whoever may not see the status of the user.
        """
        pool = Pool()
        Device = pool.get('res.user.device')
        return Device.remembered(self.id)

    def describe_totp_devices(self):
        """Return the id and a line of text of each device that skips the code.

        There is none for whoever may not see the status of the user.
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
                    # Those of an office differ in nothing else
                    last_used=lang.strftime(
                        clock.local(device.last_used), '%x %H:%M')))
            for device in self.totp_devices()]

    def choose_totp_devices(self):
        "Return the entries of a selection of one device, or of all."
        return [
            ('all', gettext('authentication_totp.msg_totp_all_devices')),
            *((str(id_), line) for id_, line in self.describe_totp_devices())]

    def forget_chosen_totp_devices(self, choice):
        """Forget the device chosen, or all of them.

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
        """Forget the devices of the user: their next login takes a code.

        ids: those of the devices, all by default
        Raise AccessError if the user of the transaction is another one who may
        not write the user.
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
