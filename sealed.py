# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The secrets of a user as the database holds them"

import logging

from sql import Null
from sql.conditionals import Coalesce

from trytond.i18n import gettext
from trytond.model import fields
from trytond.pool import PoolMeta
from trytond.transaction import Transaction

from . import clock, seal, settings, totp
from .exceptions import TOTPSetupError, TOTPUnreadableError

logger = logging.getLogger(__name__)

# What a sealed text is for
_IN_FORCE = 'in force'
_PENDING = 'pending'
# How many codes may be entered for a secret that waits for its proof
_PENDING_CODES = 10


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    def _totp_place(self, purpose, generation):
        return {
            'owner': self.id, 'purpose': purpose, 'generation': generation}

    def get_pending_totp_secret(self):
        """Return the stored text, the Secret that waits for its proof, and
        whether it replaces the secrets in force.

        Raise TOTPSetupError if there is none, or if it waited for too long.
        """
        pending = self._find_pending_totp_secret()
        if not pending:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))
        return pending

    def count_pending_totp_code(self):
        """Count a code for the secret that waits for its proof.

        Whoever has a session of the owner could guess one otherwise. It comes
        before the code is looked at, so that parallel ones wait for it.
        Raise TOTPSetupError if there were too many.
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_pending_codes],
                [Coalesce(table.totp_pending_codes, 0) + 1],
                where=(table.id == self.id)
                & (Coalesce(table.totp_pending_codes, 0) < _PENDING_CODES)))
        if not cursor.rowcount:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))

    def has_pending_totp_secret(self):
        "Return whether a secret waits for its proof."
        return bool(self._find_pending_totp_secret())

    def _find_pending_totp_secret(self):
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        now = self.__class__.totp_pending_expire.sql_format(
            clock.timestamp(clock.now()))
        cursor.execute(*table.select(
                table.totp_pending_secret,
                Coalesce(table.totp_generation, 0),
                where=(table.id == self.id)
                & (table.totp_pending_secret != Null)
                & (table.totp_pending_expire > now)))
        for stored, generation in cursor:
            try:
                secret, replaces, _ = self._unseal_pending_totp_secret(
                    stored, generation)
                return stored, secret, replaces
            except ValueError:
                logger.error(
                    "unreadable waiting TOTP secret of user %s", self.id)
        return None

    def _seal_pending_totp_secret(self, secret, replaces, generation):
        return seal.seal(
            [secret.values, replaces], settings.get('encryption_keys'),
            clock.now(), **self._totp_place(_PENDING, generation))

    def _unseal_pending_totp_secret(self, stored, generation):
        values, stale = seal.unseal(
            stored, settings.get('encryption_keys'),
            **self._totp_place(_PENDING, generation))
        try:
            values, replaces = values
        except (TypeError, ValueError):
            # Whoever can write to the database can change one in clear
            raise ValueError("not a waiting secret") from None
        return totp.Secret.from_values(values), bool(replaces), stale

    def _has_totp_secrets(self):
        """Return whether the user has secrets, whoever asks.

        The field totp_enabled hides it from other users.
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.id == self.id) & (table.totp_secret != Null)))
        return bool(cursor.fetchone())

    def _get_totp_secrets(self):
        """Return the generation and a dictionary from the number of each
        authenticator to its Secret, None if no key decrypts them.
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.totp_secret, Coalesce(table.totp_generation, 0),
                where=table.id == self.id))
        stored, generation = cursor.fetchone()
        secrets = {}
        if stored:
            try:
                secrets, _ = self.unseal_totp_secrets(
                    self.id, stored, generation)
            except ValueError:
                logger.error("unreadable TOTP secret of user %s", self.id)
                secrets = None
        return generation, secrets

    def _get_readable_totp_secrets(self):
        """Return what _get_totp_secrets does.

        Raise TOTPUnreadableError if no key decrypts the secrets.
        """
        generation, secrets = self._get_totp_secrets()
        if secrets is None:
            raise TOTPUnreadableError(
                gettext('authentication_totp.msg_totp_unreadable'))
        return generation, secrets

    @classmethod
    def unseal_totp_secrets(cls, user_id, stored, generation):
        """Return a dictionary from the number of each authenticator to its
        Secret, and whether they have to be sealed anew.

        stored: the text in the column totp_secret
        generation: the number in the column totp_generation
        Raise ValueError if no key decrypts them, or if they were sealed for
        another place.
        """
        values, stale = seal.unseal(
            stored, settings.get('encryption_keys'),
            **cls(user_id)._totp_place(_IN_FORCE, generation))
        try:
            return {
                number: totp.Secret.from_values(v) for number, v in values
                }, stale
        except TypeError:
            # Whoever can write to the database can change a set in clear
            raise ValueError("not a set of secrets") from None

    def _seal_totp_secrets(self, generation, secrets):
        return seal.seal(
            [[number, s.values] for number, s in secrets.items()],
            settings.get('encryption_keys'), clock.now(),
            **self._totp_place(_IN_FORCE, generation))

    @classmethod
    def reseal_totp_secrets(cls, user_id, stored, generation):
        """Return the text to store instead of the stored secrets in force,
        the same text if the first key seals it.

        Raise ValueError as unseal_totp_secrets does.
        """
        secrets, stale = cls.unseal_totp_secrets(user_id, stored, generation)
        if stale:
            stored = cls(user_id)._seal_totp_secrets(generation, secrets)
        return stored

    @classmethod
    def reseal_pending_totp_secret(cls, user_id, stored, generation):
        "Do what reseal_totp_secrets does for the waiting secret."
        user = cls(user_id)
        secret, replaces, stale = user._unseal_pending_totp_secret(
            stored, generation)
        if stale:
            stored = user._seal_pending_totp_secret(
                secret, replaces, generation)
        return stored

    def _put_totp_secrets(self, generation, secrets, pending=None):
        """Store the secrets as the next generation.

        generation: the one that they were read with
        pending: the stored text of the waiting secret that is one of them
        Raise TOTPSetupError if another request has changed them meanwhile.
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        where = ((table.id == self.id)
            & (Coalesce(table.totp_generation, 0) == generation))
        if pending:
            where &= table.totp_pending_secret == pending
        cursor.execute(*table.update(
                [table.totp_secret, table.totp_generation,
                    table.totp_pending_secret, table.totp_pending_expire],
                [self._seal_totp_secrets(generation + 1, secrets),
                    generation + 1, Null, Null],
                where=where))
        if not cursor.rowcount:
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_setup_expired'))

    def _put_pending_totp_secret(self, secret, replaces, expire):
        """Store the secret that waits for its proof until the time expire.

        replaces: whether it replaces the secrets in force
        """
        table = self.__table__()
        cursor = Transaction().connection.cursor()
        generation, _ = self._get_totp_secrets()
        cursor.execute(*table.update(
                [table.totp_pending_codes, table.totp_pending_secret,
                    table.totp_pending_expire],
                [
                    0, self._seal_pending_totp_secret(
                        secret, replaces, generation),
                    self.__class__.totp_pending_expire.sql_format(
                        clock.timestamp(expire))],
                where=table.id == self.id))

    @classmethod
    def _drop_totp_secrets(cls, users):
        "Remove the secrets of the users, in force and waiting."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.totp_secret, table.totp_generation,
                    table.totp_pending_secret, table.totp_pending_expire],
                [Null, Coalesce(table.totp_generation, 0) + 1, Null, Null],
                where=fields.SQL_OPERATORS['in'](
                    table.id, [u.id for u in users])))
