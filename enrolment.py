# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"How a user sets up, changes and turns off TOTP"

from trytond.i18n import gettext
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction, without_check_access

from . import clock, settings, totp
from .exceptions import (
    TOTPCodeBlankError, TOTPCodeError, TOTPRequiredError, TOTPSetupError,
    TOTPUnreadableError)
from .language import sane_language


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    @property
    def totp_account(self):
        "The name of the account that the authenticator shows"
        return totp.display_name(self.login)

    @property
    def totp_new_account(self):
        """The name of the account for a new entry

        An authenticator overwrites an entry with the same name.
        """
        authenticators = self.list_totp_authenticators()
        if not authenticators:
            return self.totp_account
        number = authenticators[-1]['number'] + 1
        return totp.display_name(f'{self.totp_account[:56]} ({number})')

    def totp_new_name(self, replaces=False):
        """Return the default name of the next authenticator.

        replaces: as in start_totp_setup
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        return Counter.next_name(None if replaces else self.id)

    @property
    def totp_issuer(self):
        "The name of the service that the authenticator shows"
        company = getattr(self, 'company', None)
        return settings.issuer(
            database=Transaction().database.name,
            company=company.rec_name if company else '')

    @classmethod
    def describe_totp_parameters(cls, secret):
        """Return a list of texts, one for each parameter of the secret that
        differs from the default of most authenticators.
        """
        return [
            gettext(
                f'authentication_totp.msg_totp_parameter_{name}',
                value=str(value).replace('sha', 'SHA-'))
            for name, value in secret.unusual.items()]

    def start_totp_setup(self, code=None, replaces=False):
        """Return a new pending Secret, which a code has to confirm.

        It replaces an earlier pending secret; the secrets in force stay. It
        expires after as many seconds as the setting setup_timeout says.

        code: a code made with a secret in force, or a recovery code, if the
            user has an authenticator
        replaces: whether the new secret will replace the authenticators and
            the recovery codes; this takes no code in a session that began
            with a recovery code at most setup_timeout seconds ago
        Raise TOTPCodeError if the code is not accepted, TOTPSetupError if the
        user may have no more authenticators, and TOTPUnreadableError if no
        code can be checked.
        """
        if settings.missing_libraries():
            raise TOTPUnreadableError(
                gettext('authentication_totp.msg_totp_unreadable'))
        if (self._has_totp_secrets()
                and not (replaces and self.is_totp_recovered())):
            if not replaces:
                self._check_totp_number(self._get_readable_totp_secrets()[1])
            self.verify_totp_code(code)
            if not replaces:
                self._check_totp_failures()
        secret = totp.Secret.new(
            settings.get('key_length'), **settings.parameters())
        self._put_pending_totp_secret(
            secret, replaces, clock.now() + settings.get('setup_timeout'))
        return secret

    def finish_totp_setup(self, code, name=None):
        """Confirm the pending secret with a code, so that it takes effect.

        code: a code made with the pending secret
        name: the name of the new authenticator, "Authenticator" by default
        Return the recovery codes, if there are new ones.
        Raise TOTPSetupError if no secret is pending, if it has expired or if
        the user may have no more authenticators, and TOTPCodeError if the code
        is not accepted.
        """
        self.count_pending_totp_code()
        try:
            self._confirm_totp_setup(code, name)
        except TOTPCodeError:
            # Keep the count of codes
            Transaction().commit()
            raise
        return self.first_totp_recovery_codes()

    def first_totp_recovery_codes(self):
        """Return new recovery codes if the user has none left.

        It takes no code: the caller must have accepted one.
        """
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        if not RecoveryCode.count([self.id])[self.id]:
            return RecoveryCode.renew(self.id)
        return []

    def is_totp_recovered(self):
        """Return whether the user is in a session that began with a recovery
        code, at most setup_timeout seconds ago.
        """
        pool = Pool()
        Session = pool.get('ir.session')
        return (self.id == Transaction().user
            and Session.is_totp_recovered())

    def _confirm_totp_setup(self, code, name=None):
        "Do what finish_totp_setup does, but make no recovery codes."
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        pending, secret, replaces = self.get_pending_totp_secret()
        counter = Counter.match(secret, code)
        self._add_totp_secret(
            secret, name, counter, replaces=replaces, pending=pending)

    def set_totp_key(self, key, name=None):
        """Put a key into force at once, as the only one, without a code.

        For server code only: the caller must make sure that the user has the
        key.

        key: the key in base32, of at least 128 bits
        name: the name of the authenticator, "Authenticator" by default
        The algorithm, digits and period are those of the settings.
        Raise ValueError if the key is not base32 of at least 128 bits.
        """
        secret = totp.Secret.from_key(key, **settings.parameters())
        self._add_totp_secret(secret, name, replaces=True)

    def _add_totp_secret(
            self, secret, name, counter=-1, replaces=False, pending=None):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Event = pool.get('res.user.totp_event')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        enabled = self._has_totp_secrets()
        if replaces:
            generation, _ = self._get_totp_secrets()
            secrets = {}
        else:
            generation, secrets = self._get_readable_totp_secrets()
            self._check_totp_number(secrets)
            if enabled:
                self._check_totp_failures()
        number = generation + 1
        secrets[number] = secret
        self._put_totp_secrets(generation, secrets, pending=pending)
        if replaces:
            Counter.remove([self.id])
        if replaces or not enabled:
            RecoveryCode.clear([self.id])
        Counter.add(self.id, number, name, counter)
        self._end_totp_sessions([self])
        if not enabled:
            event = 'set_up'
        else:
            event = 'replaced' if replaces else 'added'
        Event.record(
            [self], event, authenticator=Counter.get_name(self.id, number))

    @classmethod
    def _check_totp_number(cls, secrets):
        if len(secrets) >= settings.get('max_authenticators'):
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_max_authenticators'))

    def _check_totp_failures(self):
        "Raise TOTPSetupError if another authenticator would lock the codes."
        pool = Pool()
        Guess = pool.get('res.user.totp_guess')
        authenticators = len(self.list_totp_authenticators())
        if not Guess.allows(self.id, authenticators + 1):
            raise TOTPSetupError(
                gettext('authentication_totp.msg_totp_too_many_failures'))

    def remove_totp(self, code):
        """Remove all authenticators and the recovery codes.

        code: a code made with a secret in force, or a recovery code
        Raise TOTPRequiredError if TOTP is required for the user, and
        TOTPCodeError if the code is not accepted.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        self.check_totp_optional()
        self.verify_totp_code(code)
        self._clear_totp([self])
        Event.record([self], 'removed')

    def check_totp_optional(self):
        "Raise TOTPRequiredError if TOTP is required for the user."
        if self.totp_mandatory:
            raise TOTPRequiredError(
                gettext('authentication_totp.msg_totp_required'))

    @classmethod
    def reset_totp(cls, users, tell=True):
        """Remove the authenticators and the recovery codes of the users.

        It takes no code, but requires the right to write each of the users.

        tell: whether the users are told by e-mail
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        cls.check_totp_management(users)
        cls.check_not_own_totp(users)
        cls._clear_totp(users)
        cls._clear_login_attempts(users)
        Event.record(users, 'reset', tell=tell)

    @classmethod
    def _clear_totp(cls, users):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Guess = pool.get('res.user.totp_guess')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        ids = [u.id for u in users]
        cls._drop_totp_secrets(users)
        Counter.remove(ids)
        Guess.unlock(ids)
        RecoveryCode.clear(ids)
        cls._end_totp_sessions(users)

    @classmethod
    @without_check_access
    def _end_totp_sessions(cls, users):
        "End the sessions of the users, and forget their devices."
        pool = Pool()
        Device = pool.get('res.user.device')
        Session = pool.get('ir.session')
        # An empty write clears the caches and runs the triggers
        cls.write(users, {})
        Session.clear(users)
        Device.clear([u.login for u in users])

    def renew_totp_recovery_codes(self, code):
        """Return new recovery codes. The old ones no longer work.

        code: a code made with a secret in force, or a recovery code
        Raise TOTPCodeError if it is not accepted.
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        self.verify_totp_code(code)
        codes = RecoveryCode.renew(self.id)
        Event.record([self], 'renewed')
        return codes

    def verify_totp_code(self, code):
        """Accept the code and use it up, or count a failure.

        code: a code made with a secret in force, or a recovery code; what a
            client sent, of any type
        Raise TOTPCodeError if it is not accepted. To keep the count, this
        commits the transaction first: call it before anything is written.
        A blank code is not counted.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        if totp.is_blank(code):
            raise TOTPCodeBlankError(
                gettext('authentication_totp.msg_totp_code_blank'))
        with sane_language():
            try:
                match = Counter.verify(self.id, code)
            except TOTPCodeError:
                Transaction().commit()
                raise
        Counter.consume(match)
