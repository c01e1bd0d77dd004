# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The login method totp, and its options"

import dataclasses
import logging
from collections.abc import Callable
from functools import partial

from sql import Literal, Null

from trytond import backend
from trytond.exceptions import LoginException
from trytond.i18n import gettext
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction

from . import notice, totp
from .authentications import methods, strip
from .exceptions import (
    TOTPCodeError, TOTPCodeFormError, TOTPCodeRepeatedError,
    TOTPCodeUsedError, TOTPSetupError, TOTPSetupException, TOTPUnreadableError,
    TOTPWaitError)
from .language import sane_language

logger = logging.getLogger(__name__)

# Clients cannot send this key, because theirs are strings
_STATE = object()


@dataclasses.dataclass
class _State:
    """What the login methods of a request tell the methods after them

    passed: whether an earlier method of the chain has passed
    user: the id of the user that an earlier method has named
    set_up: whether the dialog shows a key to a user without TOTP
    unknown: whether an unknown method has refused a user
    accepted: by the id of the user, the function that consumes the accepted
        code and returns the generation of the secrets that made it
    recovered: whether the accepted code is a recovery code
    was_enabled: whether TOTP was already set up
    """
    passed: bool = False
    user: int | None = None
    set_up: bool = False
    unknown: bool = False
    accepted: dict[int, Callable] = dataclasses.field(default_factory=dict)
    recovered: bool = False
    was_enabled: bool = False


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    @classmethod
    def get_login(cls, login, parameters):
        pool = Pool()
        Session = pool.get('ir.session')
        cls._prepare_methods()
        state = _State()
        Session.note_totp_accepted(None, None)
        with sane_language():
            user_id = super().get_login(login, {**parameters, _STATE: state})
            # The client sends the code again with the answers to the methods
            # that follow, so it is consumed only once they all have passed
            if user_id in state.accepted:
                generation = state.accepted[user_id]()
                if not cls._has_totp_devices():
                    generation = None
                Session.note_totp_accepted(
                    user_id, generation, recovered=state.recovered,
                    set_up=not state.was_enabled)
                if state.recovered:
                    # A thief may be logged in with the lost phone
                    Session.clear([cls(user_id)])
            elif not user_id and state.unknown:
                # Clients show the text of this error, and of no other one
                raise LoginException(
                    'totp_code',
                    gettext('authentication_totp.msg_totp_login_unavailable'),
                    type='char')
        return user_id

    @classmethod
    def _prepare_methods(cls):
        """Wrap each login method of the setting authentications, so that it
        tells the next methods which user it has named.

        An unknown method gets a wrapper that refuses every login.
        """
        strip()
        for name in {method.name for method in methods()}:
            function = getattr(cls, f'_login_{name}', None)
            if not isinstance(function, _Method):
                setattr(
                    cls, f'_login_{name}',
                    _Method(function) if function else _UnknownMethod(name))

    @classmethod
    def check_authentications(cls):
        "Log the mistakes in the setting authentications."
        cls._prepare_methods()
        tell = partial(notice.tell, logger)
        for name in dict.fromkeys(method.name for method in methods()):
            unknown = getattr(cls, f'_login_{name}')
            if isinstance(unknown, _UnknownMethod):
                unknown.log(tell)
        for method in methods():
            for option in method.options:
                cls._is_login_option(option, tell)
        cls._check_chains(tell)

    @classmethod
    def _check_chains(cls, tell):
        "Log chains that accept users without the code that others ask for."
        chains = {}
        for method in methods():
            chains.setdefault(method.chain, set()).add(method.name)
        with_totp = {c: n for c, n in chains.items() if 'totp' in n}
        without = {
            chain: names for chain, names in chains.items()
            if chain not in with_totp and not any(
                isinstance(getattr(cls, f'_login_{name}'), _UnknownMethod)
                for name in names)}
        if without and not with_totp and cls._is_totp_in_use():
            tell(
                "[session] authentications: %s names no totp, so no user of "
                "the database %s is asked for a code",
                ' or '.join(map(repr, without)), Transaction().database.name)
        for chain, names in without.items():
            for other, others in with_totp.items():
                if names < others:
                    tell(
                        "[session] authentications: %r lets users log in "
                        "without the code that %r asks for", chain, other)

    @classmethod
    def _is_totp_in_use(cls):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.totp_secret != Null)
                | cls._is_totp_mandatory(table),
                limit=1))
        return bool(cursor.fetchone())

    @classmethod
    def _is_login_option(cls, option, log=logger.error):
        if hasattr(cls, f'_check_login_options_{option}'):
            return True
        log("[session] authentications: %r is not an option of a login method "
            "in the database %s; it is ignored",
            option, Transaction().database.name)
        return False

    @classmethod
    def _check_login_options(cls, options, login, parameters):
        # Core calls this only once an earlier factor has passed, and does so
        # even without options
        if state := parameters.get(_STATE):
            state.passed = True
        if options and cls._is_for_unknown_method(options):
            # An unknown method refuses all logins, so no option may skip it
            return False
        return super()._check_login_options(
            list(filter(cls._is_login_option, options)), login, parameters)

    @classmethod
    def _is_for_unknown_method(cls, options):
        return any(
            method.options == options
            and isinstance(
                getattr(cls, f'_login_{method.name}'), _UnknownMethod)
            for method in methods())

    @classmethod
    def _login_totp(cls, login, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        state = parameters.get(_STATE) or _State()
        if state.set_up:
            for user in cls._get_login_users(login, parameters):
                if not user.totp_enabled:
                    try:
                        return user._set_up_totp_in_dialog(
                            login, parameters)
                    except TOTPUnreadableError as error:
                        cls._refuse_totp_code(login, parameters, error)
        code = parameters.get('totp_code')
        if totp.is_blank(code):
            if 'totp_code' in parameters and cls._has_alternative():
                return
            cls._refuse_without_totp(login, parameters)
            raise LoginException(
                'totp_code',
                gettext('authentication_totp.msg_totp_code', login=login),
                type='char')
        try:
            match = Counter.verify(
                cls._query_login(login, parameters, enrolled=True), code,
                known_device=bool(parameters.get('device_cookie')),
                decoy=None if state.passed else login)
        except TOTPCodeError as error:
            cls._refuse_totp_code(login, parameters, error)
        state.was_enabled = True
        state.recovered = bool(match.recovery_code)
        cls._accept_totp(parameters, match.user, Counter.consume, match)
        return match.user

    @classmethod
    def _has_alternative(cls):
        "Return whether a blank code moves on to another chain of methods."
        return len({method.chain for method in methods()}) > 1

    @classmethod
    def _accept_totp(cls, parameters, user_id, function, *args):
        if state := parameters.get(_STATE):
            state.accepted[user_id] = partial(function, *args)
        else:
            function(*args)

    @classmethod
    def _refuse_totp_code(cls, login, parameters, error):
        message = error.message
        passed = _STATE in parameters and parameters[_STATE].passed
        cls._refuse_without_totp(login, parameters)
        # Before an earlier factor has passed, the answer is the same for all
        # users. Used codes have their own, which only correct codes cause.
        if not passed:
            message = gettext(
                'authentication_totp.msg_totp_code_used'
                if isinstance(error, TOTPCodeUsedError)
                else 'authentication_totp.msg_totp_code_refused')
        if not isinstance(error, TOTPCodeRepeatedError) and not (
                passed and isinstance(
                    error, (TOTPWaitError, TOTPUnreadableError))):
            # Without the login, only Tryton's limit for the network counts
            # the attempt. The module counts wrong codes itself, and Tryton's
            # limit for the login would also refuse the recovery code that
            # ends the delay.
            cls._add_login_attempt('')
        raise LoginException('totp_code', message, type='char') from None

    @classmethod
    def _refuse_without_totp(cls, login, parameters):
        """Tell users without TOTP that they need it, rather than ask for a
        code that does not exist or say that it is wrong.

        Before an earlier factor has passed, all users get the same answer.
        """
        state = parameters.get(_STATE)
        if not state or not state.passed or state.set_up:
            return
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._query_login(login, parameters, enrolled=True))
        if cursor.fetchone():
            return
        message = 'msg_totp_login_without'
        if cls._has_alternative():
            message = 'msg_totp_login_without_other'
        # Not an attempt, because there is no code to guess
        raise LoginException(
            'totp_code', gettext(f'authentication_totp.{message}'),
            type='char') from None

    @classmethod
    def _add_login_attempt(cls, login, device_cookie=None):
        "Record a failed login, as get_login does not if a method raises."
        pool = Pool()
        LoginAttempt = pool.get('res.user.login.attempt')
        LoginAttempt.add(login, device_cookie)

    def _set_up_totp_in_dialog(self, login, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        code = parameters.get('totp_code')
        if totp.is_blank(code):
            if 'totp_code' in parameters and self._has_alternative():
                return
            # Make a new key each time: an attacker who knows the password
            # would otherwise see the key that the owner confirms
            secret = self.start_totp_setup()
            raise TOTPSetupException('totp_code', gettext(
                    'authentication_totp.msg_totp_setup',
                    key=secret.text, account=self.totp_account,
                    parameters=''.join(
                        f', {p}' for p in self.describe_totp_parameters(
                            secret))), type='char')
        try:
            _, secret, _ = self.get_pending_totp_secret()
            self.count_pending_totp_code()
            Counter.match(secret, code)
        except TOTPUnreadableError:
            raise
        except (TOTPCodeError, TOTPSetupError) as error:
            # Tryton's limit compares the login as it was typed, and a
            # directory may accept it in another case
            self._add_login_attempt(login, parameters.get('device_cookie'))
            message = error.message
            if not isinstance(error, TOTPCodeFormError):
                message = gettext('authentication_totp.msg_totp_setup_wrong')
            raise LoginException(
                'totp_code', message, type='char') from None
        self._accept_totp(
            parameters, self.id, self._finish_login_setup, code)
        return self.id

    def _finish_login_setup(self, code):
        try:
            # Make no recovery codes, because nobody would see them
            self._confirm_totp_setup(code)
        except (TOTPCodeError, TOTPSetupError):
            raise backend.DatabaseOperationalError(
                "concurrent TOTP set-ups") from None
        generation, _ = self._get_totp_secrets()
        return generation

    @classmethod
    def _check_login_options_setup_totp(cls, login, parameters):
        if state := parameters.get(_STATE):
            state.set_up = True
        return False

    @classmethod
    def _check_login_options_no_totp_secret(cls, login, parameters):
        return any(
            not u.totp_enabled and not u.totp_mandatory
            for u in cls._get_login_users(login, parameters))

    @classmethod
    def _check_login_options_totp_device(cls, login, parameters):
        pool = Pool()
        Device = pool.get('res.user.device')
        return Device.skips_totp(
            cls._query_login(login, parameters),
            parameters.get('device_cookie'))

    @classmethod
    def _has_totp_devices(cls):
        return any(
            method.name == 'totp' and 'totp_device' in method.options
            for method in methods())

    @classmethod
    def _query_login(cls, login, parameters, enrolled=False):
        table = cls.__table__()
        state = parameters.get(_STATE)
        if state and state.user:
            # A directory may accept the login in another case
            where = table.id == state.user
        else:
            where = table.login == login
        where &= table.active == Literal(True)
        if enrolled:
            where &= table.totp_secret != Null
        return table.select(table.id, where=where)

    @classmethod
    def _get_login_users(cls, login, parameters):
        # Core's _get_login also reads the hash of the password, and the time
        # for it reveals whether the login exists
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._query_login(login, parameters))
        return cls.browse([id_ for id_, in cursor])


class _Method:
    "A login method that tells the methods after it which user it has named"

    def __init__(self, function):
        self.function = function

    def __call__(self, login, parameters):
        user_id = self.function(login, parameters)
        if state := parameters.get(_STATE):
            state.user = user_id
        return user_id


class _UnknownMethod(_Method):
    "A login method that refuses all logins, in the place of an unknown one"

    def __init__(self, name):
        self.name = name

    def log(self, log=logger.error):
        chains = [m.chain for m in methods() if m.name == self.name]
        log("[session] authentications: %r is not a login method in the "
            "database %s; nobody can log in by %s",
            self.name, Transaction().database.name,
            ", ".join(map(repr, chains)))

    def __call__(self, login, parameters):
        self.log()
        if state := parameters.get(_STATE):
            # Before a factor has passed, the answer must not say why
            state.unknown |= state.passed
