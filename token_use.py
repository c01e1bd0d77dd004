# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The use of hardware tokens: from the first code to the removal"

import logging
from typing import NamedTuple

from sql import Null
from sql.conditionals import Coalesce
from sql.operators import Exists

from trytond import backend
from trytond.exceptions import LoginException
from trytond.i18n import gettext
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction

from . import clock, notice, refusal, settings, totp
from .exceptions import (
    TOTPCodeBlankError, TOTPCodeError, TOTPSetupError, TOTPTokenError,
    TOTPUnreadableError, TOTPWaitError)
from .language import sane_language

logger = logging.getLogger(__name__)

_WRONG = refusal.Refusal(TOTPCodeError, 'msg_totp_token_code_wrong')


class Match(NamedTuple):
    """A right code of a token that is not in use yet

    token: the id of the token
    serial: its serial number
    secret: its Secret
    state: its new State
    user: the id of the user to whom it is assigned
    failures: the Failures of the user when the code was verified
    """
    token: int
    serial: str
    secret: totp.Secret
    state: totp.State
    user: int
    failures: tuple


class UserTOTPToken(metaclass=PoolMeta):
    __name__ = 'res.user.totp_token'

    @classmethod
    def assigned(cls, user_id):
        "Return the serial numbers of the user's tokens that wait for a code."
        return [serial for _, serial, *_ in cls._waiting(user_id)]

    @classmethod
    def _waiting(cls, user_id):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id, table.serial, table.secret,
                Coalesce(table.counter, -1), table.resync,
                where=(table.user == user_id) & (table.state == 'assigned'),
                order_by=[table.serial, table.id]))
        return cursor.fetchall()

    @classmethod
    def match(cls, user_id, code, serial=None, known_device=False):
        """Return the Match of a right code of a token that waits for one.

        Wrong codes count as they do in UserTOTPCounter.verify. Otherwise an
        attacker who knows the password could guess a code.

        code: what a client sent, of any type
        serial: the serial number of the token, by default any token that waits
            for a code of the user
        known_device: whether the code comes from a device that the user has
            used
        Raise TOTPCodeError if the code is wrong and TOTPWaitError after too
        many failures. The caller must commit before it answers the client.
        The code stays usable until accept accepts the match.
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        waiting = [
            row for row in cls._waiting(user_id)
            if serial is None or row[1] == serial]
        kind = Guess.kind_of(False, known_device)
        failures = Guess.lock(user_id, kind)
        if not failures or Guess.is_locked(failures, len(waiting)):
            Guess.raise_wait(user_id, kind)
            raise TOTPWaitError(gettext('authentication_totp.msg_totp_locked'))
        rows, secrets = cls._open(waiting)
        verdict, index, states = totp.verify(
            secrets, code, clock.now(), settings.get('tolerance'))
        if verdict is totp.Verdict.RIGHT:
            id_, serial, *_ = rows[index]
            return Match(
                id_, serial, secrets[index][0], states[index], user_id,
                failures)
        cls._put_resync(rows, states)
        failures = Guess.fail(failures)
        Guess.record(failures, len(waiting), silent=False)
        raise refusal.explain(
            code, [secret for secret, _ in secrets],
            _WRONG if verdict is totp.Verdict.WRONG else refusal.USED
            ).get_error(Guess.explain_wait(failures, len(waiting)))

    @classmethod
    def _open(cls, waiting):
        """Return the rows whose secrets a key decrypts, and the Secret and
        State of each.

        Raise TOTPUnreadableError if there are none.
        """
        rows, secrets = [], []
        if settings.missing_libraries():
            raise refusal.UNREADABLE.get_error()
        for row in waiting:
            id_, serial, stored, counter, resync = row
            try:
                secret, _ = cls.unseal(serial, stored)
            except ValueError:
                logger.error("unreadable secret of TOTP token %s", id_)
                continue
            rows.append(row)
            secrets.append((secret, totp.State(counter, 0, resync)))
        if not rows:
            raise refusal.UNREADABLE.get_error()
        return rows, secrets

    @classmethod
    def _put_resync(cls, rows, states):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        for (id_, *_, resync), state in zip(rows, states, strict=True):
            if state.resync != resync:
                cursor.execute(*table.update(
                        [table.resync], [state.resync], where=table.id == id_))

    @classmethod
    def accept(cls, match):
        """Mark the token as in use, once for each code, and forgive the
        failures from the network of the code.

        Raise DatabaseOperationalError if the token or the failures have
        changed since the verification. Trytond then repeats the login.
        """
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.state, table.resync], ['in_use', Null],
                where=(table.id == match.token) & (table.user == match.user)
                & (table.state == 'assigned')
                & (Coalesce(table.counter, -1) < match.state.counter)
                & Exists(Guess.query_unchanged(match.failures))))
        if not cursor.rowcount:
            raise backend.DatabaseOperationalError("concurrent TOTP codes")
        Guess.forgive(match.failures)

    @classmethod
    def bind(cls, match, number):
        "Store the number of the new authenticator and the drift of its clock."
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        table = cls.__table__()
        counter = Counter.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.update(
                [table.number], [number], where=table.id == match.token))
        cursor.execute(*counter.update(
                [counter.drift], [match.state.drift],
                where=(counter.user == match.user)
                & (counter.number == number)))


class UserTOTPGuess(metaclass=PoolMeta):
    __name__ = 'res.user.totp_guess'

    @classmethod
    def lock(cls, user_id, kind):
        """Return the Failures of the user, locked against parallel guesses.

        Return None while the user has to wait.
        """
        allowed = cls.query_allowed(user_id, kind)
        cursor = Transaction().connection.cursor()
        cursor.execute(*allowed.select(
                allowed.user, allowed.kind, allowed.failures,
                allowed.consecutive, allowed.networks, with_=[allowed]))
        row = cursor.fetchone()
        return cls.failures_of(row) if row else None


class UserTOTPCounter(metaclass=PoolMeta):
    __name__ = 'res.user.totp_counter'

    @classmethod
    def remove(cls, user_ids, number=None):
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        Token.release(user_ids, number)
        super().remove(user_ids, number=number)


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    def get_totp_tokens(self):
        """Return the serial numbers of the hardware tokens that are assigned
        to the user and not in use yet.
        """
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        return Token.assigned(self.id)

    def add_totp_token(self, serial, code, current_code=None):
        """Make a hardware token that is assigned to the user an authenticator.

        serial: its serial number, as the user types it
        code: a code that it shows
        current_code: a code of a current authenticator or a recovery code,
            needed if the user has an authenticator; it is used up even if the
            other code is wrong
        Raise TOTPTokenError if no such token is assigned to the user,
        TOTPSetupError if the user may have no more authenticators, and
        TOTPCodeError if a code is not accepted. Before a TOTPCodeError the
        transaction is committed, so call this before you write anything.
        """
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        typed = _simplify(serial)
        for assigned in self.get_totp_tokens():
            if _simplify(assigned) == typed:
                break
        else:
            raise TOTPTokenError(
                gettext('authentication_totp.msg_totp_token_not_assigned'))
        if self._has_totp_secrets():
            try:
                # Checked first, so that nobody can guess the code of the token
                # without it
                self.verify_totp_code(current_code)
            except (TOTPCodeBlankError, TOTPUnreadableError, TOTPWaitError):
                raise
            except TOTPCodeError as error:
                raise error.__class__(
                    error.message, gettext(
                        'authentication_totp.msg_totp_token_current_code')
                    ) from None
        with sane_language():
            try:
                match = Token.match(self.id, code, serial=assigned)
            except TOTPCodeError:
                Transaction().commit()
                raise
        self._put_totp_token(match)

    def _put_totp_token(self, match):
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        Token.accept(match)
        self._add_totp_secret(
            match.secret,
            gettext(
                'authentication_totp.msg_totp_token_name',
                serial=match.serial),
            match.state.counter)
        # The number of a new authenticator is the new generation
        generation, _ = self._get_totp_secrets()
        Token.bind(match, generation)

    def _set_up_totp_in_dialog(self, login, parameters):
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        serials = self.get_totp_tokens()
        if not serials:
            return super()._set_up_totp_in_dialog(login, parameters)
        code = parameters.get('totp_code')
        if totp.is_blank(code):
            if 'totp_code' in parameters and self._has_alternative():
                return
            raise LoginException(
                'totp_code',
                gettext(
                    'authentication_totp.msg_totp_token_code',
                    serial=' / '.join(serials), login=self.login),
                type='char')
        try:
            match = Token.match(
                self.id, code,
                known_device=bool(parameters.get('device_cookie')))
        except TOTPUnreadableError:
            raise
        except TOTPCodeError as error:
            if not isinstance(error, TOTPWaitError):
                # Count no attempt for the login, as with an authenticator
                self._add_login_attempt('')
            raise LoginException(
                'totp_code', error.message, type='char') from None
        self._accept_totp(
            parameters, self.id, self._finish_token_setup, match)
        return self.id

    def _finish_token_setup(self, match):
        try:
            self._put_totp_token(match)
        except TOTPSetupError:
            raise backend.DatabaseOperationalError(
                "concurrent TOTP set-ups") from None

    def _drop_totp_authenticator(self, number):
        """Remove the authenticator with the number, without a code.

        The caller must have checked the right to do so. If the user has no
        other authenticator, reset TOTP.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        others = Counter.search([
                ('user', '=', self.id),
                ('number', '!=', number),
                ], count=True)
        if not others:
            self._clear_totp([self])
            Event.record([self], 'reset')
            return
        name = Counter.get_name(self.id, number)
        generation, secrets = self._get_totp_secrets()
        # If no key decrypts the secrets, the removal of the row is enough: no
        # code of the authenticator is accepted without it
        if secrets and secrets.pop(number, None):
            self._put_totp_secrets(generation, secrets)
        Counter.remove([self.id], number)
        self._end_totp_sessions([self])
        Event.record([self], 'authenticator_removed', authenticator=name)

    @classmethod
    def totp_tokens(cls):
        "Return the ids of all hardware tokens."
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        return Token.ids()

    @classmethod
    def drop_totp_token_files(cls):
        "Delete the tokens that were read from files and not imported yet."
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        File.clear()

    @classmethod
    def reseal_totp_tokens(cls, ids):
        """Seal the secrets of the tokens with the first key, unless they are
        already.

        Also delete the tokens that were read from files and not imported yet.
        Return the serial numbers of the tokens whose secrets no key decrypts.
        Their secrets stay unchanged.
        """
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        Token = pool.get('res.user.totp_token')
        File.clear()
        return Token.reseal(ids)

    @classmethod
    def unreadable_totp_tokens(cls):
        "Return the serial numbers of tokens whose secrets no key decrypts."
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        unreadable, _ = Token.unreadable()
        return unreadable

    @classmethod
    def clean_totp(cls):
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        File.clean()
        super().clean_totp()

    @classmethod
    def _check_totp_sealed(cls):
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        super()._check_totp_sealed()
        if count := Token.count_clear():
            notice.tell(
                logger, "TOTP tokens whose secrets are stored unencrypted in "
                "the database %s: %d; to encrypt them, run trytond_totp "
                "reseal",
                Transaction().database.name, count)

    @classmethod
    def _check_totp_readable(cls, most):
        pool = Pool()
        Token = pool.get('res.user.totp_token')
        super()._check_totp_readable(most)
        unreadable, tried = Token.unreadable(most)
        if unreadable:
            notice.tell(
                logger, "TOTP tokens whose secret no key decrypts in the "
                "database %s: %d of %d tried; nobody can confirm them with a "
                "code until the key is back in the file of encryption_keys; "
                "trytond_totp status names them",
                Transaction().database.name, len(unreadable), tried)


def _simplify(serial):
    """Return the serial number without spaces and in lower case.

    serial: what a user typed, of any type
    """
    return ''.join(str(serial or '').split()).casefold()
