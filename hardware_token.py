# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Hardware tokens, for users without a smartphone"

from collections import defaultdict
from itertools import islice

from sql import Conflict, Literal, Null
from sql.aggregate import Count
from sql.functions import CurrentTimestamp, Random

from trytond.i18n import gettext
from trytond.model import Index, ModelSQL, ModelView, Unique, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.transaction import Transaction

from . import clock, seal, settings, totp
from .exceptions import TOTPTokenError

# The purpose that the sealed texts are bound to
_TOKEN = 'token'
_BATCH = 500
_HIDDEN = ['secret', 'number', 'counter', 'resync']


class UserTOTPToken(ModelSQL, ModelView):
    """A hardware token

    Once its user has confirmed it with a code, it is an authenticator like any
    other: the sealed secrets of the user contain a copy of its secret.
    """
    __name__ = 'res.user.totp_token'
    __string__ = "TOTP Token"
    _rec_name = 'serial'

    serial = fields.Char(
        "Serial Number", required=True, readonly=True,
        help="The number printed on the token.")
    user = fields.Many2One(
        'res.user', "User", readonly=True, ondelete='SET NULL',
        states={
            'invisible': ~Eval('user'),
            },
        help="The user to whom the token is assigned.")
    state = fields.Selection([
            ('free', "Free"),
            ('assigned', "Assigned"),
            ('in_use', "In Use"),
            ('lost', "Lost"),
            ], "State", required=True, readonly=True, sort=False,
        help="An assigned token is in use once its user has entered one of "
        "its codes.")
    algorithm = fields.Selection(
        [(name, name.upper().replace('SHA', 'SHA-'))
            for name in totp.ALGORITHMS],
        "Algorithm", required=True, readonly=True, sort=False, translate=False)
    digits = fields.Integer(
        "Digits", required=True, readonly=True,
        help="The number of digits of a code.")
    period = fields.Integer(
        "Period", required=True, readonly=True,
        help="The number of seconds for which the token shows a code.")
    imported = fields.DateTime("Imported", required=True, readonly=True)
    # Lazy because the server refuses a client that reads this field, and
    # clients read all eager fields together
    secret = fields.Char(
        "Secret", readonly=True, strip=False, loading='lazy',
        help="The key of the token. Nobody can read it.")
    # The number of the authenticator made from the token
    number = fields.Integer("Number", readonly=True, loading='lazy')
    # The time step of the last code accepted in an earlier use of the token
    counter = fields.Integer("Counter", readonly=True, loading='lazy')
    resync = fields.Integer("Resync", readonly=True, loading='lazy')

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._order = [('serial', 'ASC'), ('id', 'ASC')]
        cls._sql_constraints += [
            ('serial_unique', Unique(table, table.serial),
                'authentication_totp.msg_totp_token_serial_unique'),
            ]
        cls._sql_indexes.add(
            Index(table, (table.user, Index.Equality()), where=(
                    table.user != Null)))

    # As for the secrets of users, the ORM reads nothing from these columns

    @classmethod
    def column_secret(cls, tables):
        return cls.secret.sql_cast(Literal(None))

    @classmethod
    def column_number(cls, tables):
        return cls.number.sql_cast(Literal(None))

    @classmethod
    def column_counter(cls, tables):
        return cls.counter.sql_cast(Literal(None))

    @classmethod
    def column_resync(cls, tables):
        return cls.resync.sql_cast(Literal(None))

    @classmethod
    def preprocess_values(cls, mode, values):
        values = super().preprocess_values(mode, values)
        for name in values.keys() & set(_HIDDEN):
            if mode == 'write' or values[name] is not None:
                raise TOTPTokenError(gettext(
                        'authentication_totp.msg_totp_token_field_readonly',
                        **cls.__names__(name)))
        return values

    @staticmethod
    def _place(serial):
        # The secret of a token never changes, so its generation is constant
        return {'owner': serial, 'purpose': _TOKEN, 'generation': 0}

    @classmethod
    def _seal(cls, serial, secret):
        return seal.seal(
            secret.values, settings.get('encryption_keys'), clock.now(),
            **cls._place(serial))

    @classmethod
    def unseal(cls, serial, stored):
        """Return the Secret and whether it has to be sealed again.

        Raise ValueError if no key decrypts it.
        """
        values, stale = seal.unseal(
            stored, settings.get('encryption_keys'), **cls._place(serial))
        return totp.Secret.from_values(values), stale

    # Import

    @classmethod
    def known(cls, serials):
        "Return the set of those serial numbers that the database contains."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        known = set()
        for batch in _batches(serials):
            cursor.execute(*table.select(
                    table.serial, where=table.serial.in_(batch)))
            known.update(serial for serial, in cursor)
        return known

    @classmethod
    def store(cls, secrets):
        """Store the tokens as free tokens and return how many were stored.

        Skip the tokens whose serial numbers the database already contains.

        secrets: a list of pairs, the serial number and the Secret of each
            token
        """
        transaction = Transaction()
        table = cls.__table__()
        cursor = transaction.connection.cursor()
        imported = cls.imported.sql_format(clock.second(clock.now()))
        stored = 0
        for batch in _batches(secrets):
            cursor.execute(*table.insert(
                    [table.create_uid, table.create_date, table.serial,
                        table.state, table.algorithm, table.digits,
                        table.period, table.imported, table.secret],
                    [[transaction.user, CurrentTimestamp(), serial,
                            'free', secret.algorithm, secret.digits,
                            secret.period, imported,
                            cls._seal(serial, secret)]
                        for serial, secret in batch],
                    on_conflict=Conflict(
                        table, indexed_columns=[table.serial])))
            stored += cursor.rowcount
        return stored

    # What administrators do

    @classmethod
    def assign(cls, tokens, user):
        """Assign the free tokens to the user.

        Raise TOTPTokenError if a token is not free, or if the user would have
        more tokens than authenticators.
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        User = pool.get('res.user')
        # The message about a token that is not free names it
        User.check_totp_management(
            [user, *(t.user for t in tokens if t.user)])
        cls._check_state(tokens, {'free'}, 'msg_totp_token_not_free')
        if not tokens:
            return
        Guess.start([user.id])
        guess = Guess.__table__()
        # Simultaneous transactions do not see the tokens that the others
        # assign. Updating the same row lets only one of them succeed: the
        # others are repeated and count again.
        Transaction().connection.cursor().execute(*guess.update(
                [guess.failures], [guess.failures],
                where=guess.user == user.id))
        # Bounds the work of a login, which tries each token that waits for a
        # code
        most = settings.get('max_authenticators')
        count = cls.search([
                ('user', '=', user.id),
                ('state', 'in', ['assigned', 'in_use']),
                ], count=True)
        if count + len(tokens) > most:
            raise TOTPTokenError(gettext(
                    'authentication_totp.msg_totp_token_most',
                    login=user.login, most=most))
        cls.write(tokens, {'user': user.id, 'state': 'assigned'})
        cls._tell(user, 'token_assigned', tokens)

    @classmethod
    def _tell(cls, user, kind, tokens):
        "Record the event of the user about the tokens."
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Event.record(
            [user], kind, authenticator=', '.join(t.serial for t in tokens))

    @classmethod
    def take_back(cls, tokens):
        "Mark the tokens as free and remove the authenticators made from them."
        cls._withdraw(tokens)
        cls.write(tokens, {'user': None, 'state': 'free'})

    @classmethod
    def lose(cls, tokens):
        "Mark the tokens as lost and remove the authenticators made from them."
        cls._withdraw(tokens)
        cls.write(tokens, {'state': 'lost'})

    @classmethod
    def discard(cls, tokens):
        """Delete the tokens.

        Raise TOTPTokenError if a token is neither free nor lost.
        """
        pool = Pool()
        User = pool.get('res.user')
        User.check_totp_management([t.user for t in tokens if t.user])
        cls._check_state(
            tokens, {'free', 'lost'}, 'msg_totp_token_not_discarded')
        cls.delete(tokens)

    @classmethod
    def _check_state(cls, tokens, states, message):
        for token in tokens:
            if token.state not in states:
                raise TOTPTokenError(gettext(
                        f'authentication_totp.{message}',
                        serial=token.serial))

    @classmethod
    def _withdraw(cls, tokens):
        pool = Pool()
        User = pool.get('res.user')
        User.check_totp_management([t.user for t in tokens if t.user])
        User.check_not_own_totp(
            [t.user for t in tokens if t.state == 'in_use'])
        # A token in use causes another event: the removal of its
        # authenticator, or a reset
        waiting = defaultdict(list)
        for token in tokens:
            if token.state == 'assigned':
                waiting[token.user].append(token)
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        for token in tokens:
            cursor.execute(*table.select(
                    table.user, table.number,
                    where=(table.id == token.id) & (table.number != Null)))
            for user_id, number in cursor.fetchall():
                User(user_id)._drop_totp_authenticator(number)
        for user, withdrawn in waiting.items():
            cls._tell(user, 'token_withdrawn', withdrawn)

    @classmethod
    def release(cls, user_ids, number=None):
        """Turn the tokens in use of the users into assigned tokens.

        Call this before the authenticators made from them are removed: it
        copies the counters of their last codes to the tokens.

        number: the number of the authenticator, all by default
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        counter = Counter.__table__()
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = (fields.SQL_OPERATORS['in'](table.user, user_ids)
            & (table.number != Null))
        if number is not None:
            where &= table.number == number
        cursor.execute(*table.update(
                [table.state, table.number, table.resync, table.counter],
                ['assigned', Null, Null, counter.select(
                        counter.counter,
                        where=(counter.user == table.user)
                        & (counter.number == table.number))],
                where=where))

    # What the server does by itself

    @classmethod
    def ids(cls):
        "Return the ids of all tokens."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(table.id, order_by=table.id))
        return [id_ for id_, in cursor]

    @classmethod
    def reseal(cls, ids):
        """Seal the secrets of the tokens with the first key, unless they are
        already.

        Return the serial numbers of the tokens whose secrets no key decrypts.
        Their secrets stay unchanged.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id, table.serial, table.secret,
                where=fields.SQL_OPERATORS['in'](table.id, ids)))
        unreadable = []
        for id_, serial, stored in cursor.fetchall():
            try:
                secret, stale = cls.unseal(serial, stored)
            except ValueError:
                unreadable.append(serial)
                continue
            if stale:
                cursor.execute(*table.update(
                        [table.secret], [cls._seal(serial, secret)],
                        where=(table.id == id_) & (table.secret == stored)))
        return unreadable

    @classmethod
    def unreadable(cls, most=None):
        """Return the serial numbers of the tokens whose secrets no key
        decrypts, and how many secrets were tried.

        most: how many sealed secrets to try, chosen at random; all secrets by
            default
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        query = table.select(
            table.serial, table.secret, order_by=[table.serial, table.id])
        if most is not None:
            query.where = ~table.secret.like(f'{seal.CLEAR}%')
            query.order_by = Random()
            query.limit = most
        cursor.execute(*query)
        rows = cursor.fetchall()
        unreadable = []
        for serial, stored in rows:
            try:
                cls.unseal(serial, stored)
            except ValueError:
                unreadable.append(serial)
        return unreadable, len(rows)

    @classmethod
    def count_clear(cls):
        "Return how many secrets are stored unencrypted."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                Count(table.id), where=table.secret.like(f'{seal.CLEAR}%')))
        count, = cursor.fetchone()
        return count


def _batches(values):
    values = iter(values)
    while batch := list(islice(values, _BATCH)):
        yield batch
