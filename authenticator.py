# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The authenticators of a user"

from sql import Conflict
from sql.aggregate import Max, Min

from trytond import backend
from trytond.i18n import gettext
from trytond.model import ModelSQL, Unique, fields
from trytond.pool import Pool, PoolMeta
from trytond.tools import sqlite_apply_types
from trytond.transaction import Transaction, without_check_access

from . import clock, settings, totp
from .exceptions import TOTPSetupError

_MAX_NAME_LENGTH = 100


class UserTOTPCounter(ModelSQL):
    """An authenticator of a user, with the last code that was accepted

    The rows are separate from res.user, so that no login waits for a
    transaction that edits the user. They have no foreign key for the same
    reason.

    The root user has rows, but no authenticator. They are read along with
    those of another user, so that each login reads the same number of rows.
    """
    __name__ = 'res.user.totp_counter'
    __string__ = "TOTP Counter"

    # The root user has no secret
    _NOBODY = 0

    user = fields.Integer("User", required=True)
    # Unique among the authenticators of a user, and never reused
    number = fields.Integer("Number", required=True)
    name = fields.Char("Name", required=True)
    since = fields.DateTime("Since", required=True)
    last_used = fields.DateTime("Last Used")
    counter = fields.Integer("Counter", required=True)
    drift = fields.Integer("Drift", required=True)
    resync = fields.Integer("Resync")
    # The network that the last accepted code came from
    network = fields.Char("Network")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_constraints += [
            ('user_number_unique', Unique(table, table.user, table.number),
                'authentication_totp.msg_totp_counter_user_number_unique'),
            ]

    @classmethod
    def __register__(cls, module):
        super().__register__(module)
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        since = cls.since.sql_format(clock.second(clock.now()))
        cursor.execute(*table.insert(
                [table.user, table.number, table.name, table.since,
                    table.counter, table.drift],
                [[cls._NOBODY, number, '', since, -1, 0]
                    for number in range(settings.MAX_AUTHENTICATORS)],
                on_conflict=Conflict(
                    table, indexed_columns=[table.user, table.number])))

    @classmethod
    @without_check_access
    def add(cls, user_id, number, name, counter):
        """Create the row of an authenticator.

        counter: the time step of the code that confirmed it, -1 for none
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        now = clock.second(clock.now())
        cls.create([{
                    'user': user_id,
                    'number': number,
                    'name': _clean(name) or cls.next_name(user_id),
                    'since': now,
                    'last_used': now if counter >= 0 else None,
                    'counter': counter,
                    'drift': 0,
                    'resync': None,
                    'network': Guess.network(),
                    }])
        Guess.start([user_id])

    @classmethod
    @without_check_access
    def next_name(cls, user_id):
        """Return the name of the user's next authenticator.

        user_id: None if it will be the only authenticator of its user
        """
        names = {c.name for c in cls.search([('user', '=', user_id)])}
        default = gettext('authentication_totp.msg_totp_authenticator')
        number = 1
        while (name := default if number == 1 else f'{default} {number}') \
                in names:
            number += 1
        return name

    @classmethod
    @without_check_access
    def describe(cls, user_id):
        """Return a list of dictionaries that describe the authenticators of
        the user, the oldest one first.
        """
        return [{
                'number': c.number,
                'name': c.name,
                'since': c.since,
                'last_used': c.last_used,
                } for c in cls.search(
                    [('user', '=', user_id)], order=[('number', 'ASC')])]

    @classmethod
    @without_check_access
    def get_name(cls, user_id, number):
        "Return the name of the authenticator, None if there is none."
        for counter in cls.search([
                    ('user', '=', user_id),
                    ('number', '=', number)]):
            return counter.name

    @classmethod
    @without_check_access
    def rename(cls, user_id, number, name):
        "Rename the authenticator, and return whether it exists."
        counters = cls.search([
                ('user', '=', user_id),
                ('number', '=', number),
                ])
        cls.write(counters, {'name': _clean(name)})
        return bool(counters)

    @classmethod
    @without_check_access
    def remove(cls, user_ids, number=None):
        "Delete the rows of the users, or only those with the number."
        domain = [('user', 'in', user_ids)]
        if number is not None:
            domain.append(('number', '=', number))
        cls.delete(cls.search(domain))

    @classmethod
    def status(cls, user_ids):
        """Return for each user a dictionary of the fields of res.user that
        describe the authenticators.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        query = table.select(
            table.user, Min(table.since).as_('since'),
            Max(table.last_used).as_('last_used'),
            where=fields.SQL_OPERATORS['in'](table.user, user_ids),
            group_by=table.user)
        if backend.name == 'sqlite':
            sqlite_apply_types(query, [None, 'DATETIME', 'DATETIME'])
        cursor.execute(*query)
        status = dict.fromkeys(
            user_ids, {'totp_since': None, 'totp_last_used': None})
        for user_id, since, last_used in cursor:
            status[user_id] = {
                'totp_since': since, 'totp_last_used': last_used}
        return status


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    def list_totp_authenticators(self):
        """Return a list of dictionaries that describe the authenticators:
        number, name, when it was set up and when it was last used.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        return Counter.describe(self.id)

    def choose_totp_authenticator(self, choice):
        """Return the number of the chosen authenticator.

        choice: the number as a text; what a client sent, of any type
        Raise TOTPSetupError if there is no such authenticator.
        """
        for authenticator in self.list_totp_authenticators():
            if str(authenticator['number']) == choice:
                return authenticator['number']
        raise TOTPSetupError(
            gettext('authentication_totp.msg_totp_no_authenticator'))

    def is_only_totp_authenticator(self, number):
        "Return whether the user has no authenticator but the one with number."
        return [number] == [
            a['number'] for a in self.list_totp_authenticators()]

    def rename_totp_authenticator(self, number, name, code):
        """Rename the authenticator with the number.

        code: a code made with a secret in force, or a recovery code
        Raise TOTPCodeError if the code is not accepted, and TOTPSetupError if
        there is no such authenticator.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        self.verify_totp_code(code)
        if not Counter.rename(self.id, number, name):
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_no_authenticator'))
        Event.record(
            [self], 'renamed', authenticator=Counter.get_name(self.id, number))

    def remove_totp_authenticator(self, number, code):
        """Remove the authenticator with the number, and keep the others.

        Removing the last one turns off TOTP.

        code: a code made with a secret in force, or a recovery code
        Raise as remove_totp does, and TOTPSetupError if there is no such
        authenticator.
        """
        _, secrets = self._get_readable_totp_secrets()
        if set(secrets) == {number}:
            self.remove_totp(code)
            return
        self.verify_totp_code(code)
        self.drop_totp_authenticator(number)

    def drop_totp_authenticator(self, number):
        """Remove the authenticator with the number, which is not the last.

        It checks neither a code nor access rights: the caller must do so.
        Raise TOTPSetupError if there is no such authenticator, and
        TOTPUnreadableError if no key decrypts the secrets.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        generation, secrets = self._get_readable_totp_secrets()
        if secrets.pop(number, None) is None:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_no_authenticator'))
        name = Counter.get_name(self.id, number)
        self._put_totp_secrets(generation, secrets)
        Counter.remove([self.id], number)
        self._end_totp_sessions([self])
        Event.record([self], 'authenticator_removed', authenticator=name)


def _clean(name):
    """Return the name of an authenticator as it is stored.

    The owner reads it in the e-mails about changes, which a mail server would
    refuse if it was very long. Administrators read one name a line.

    name: what a client sent, of any type
    """
    return totp.one_line(str(name or ''), _MAX_NAME_LENGTH)
