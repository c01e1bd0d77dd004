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
    TOTPCodeError, TOTPCodeUsedError, TOTPSetupError, TOTPSetupException,
    TOTPUnreadableError, TOTPWaitError)
from .language import sane_language

logger = logging.getLogger(__name__)

# No client can send it, because its keys are strings
_STATE = object()


@dataclasses.dataclass
class _State:
    """What the methods of a request leave to those that follow

    passed: whether an earlier method of the chain has passed
    set_up: whether the key is shown in the dialog to a user without TOTP
    unknown: whether a user was refused because of an unknown method
    accepted: what consumes the code, by the id of the user
    """
    passed: bool = False
    set_up: bool = False
    unknown: bool = False
    accepted: dict[int, Callable] = dataclasses.field(default_factory=dict)


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    @classmethod
    def get_login(cls, login, parameters):
        cls._refuse_unknown_methods()
        state = _State()
        with sane_language():
            user_id = super().get_login(login, {**parameters, _STATE: state})
            # The client sends the code again with the answers to the methods
            # that follow, so it is consumed only once they all have passed
            if user_id in state.accepted:
                state.accepted[user_id]()
            elif not user_id and state.unknown:
                # Clients show no other error at a login in words
                raise LoginException(
                    'totp_code',
                    gettext('authentication_totp.msg_totp_login_unavailable'),
                    type='char')
        return user_id

    @classmethod
    def _refuse_unknown_methods(cls):
        """Define a login method that refuses everybody for each name of the
        setting authentications that is none.
        """
        strip()
        for method in methods():
            if not hasattr(cls, f'_login_{method.name}'):
                setattr(
                    cls, f'_login_{method.name}', _UnknownMethod(method.name))

    @classmethod
    def check_authentications(cls):
        "Log each name of the setting authentications that is unknown."
        cls._refuse_unknown_methods()
        tell = partial(notice.tell, logger)
        for name in dict.fromkeys(method.name for method in methods()):
            unknown = getattr(cls, f'_login_{name}')
            if isinstance(unknown, _UnknownMethod):
                unknown.log(tell)
        for method in methods():
            for option in method.options:
                cls._is_login_option(option, tell)

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
        # Called only once an earlier factor has passed, even without options
        if state := parameters.get(_STATE):
            state.passed = True
        if options and cls._is_for_unknown_method(options):
            # A method that refuses everybody must not be skipped
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
            for user in cls._get_login_users(login):
                if not user.totp_enabled:
                    try:
                        return user._set_up_totp_in_dialog(parameters)
                    except TOTPUnreadableError as error:
                        cls._refuse_totp_code(login, parameters, error)
        if 'totp_code' not in parameters:
            raise LoginException(
                'totp_code',
                gettext('authentication_totp.msg_totp_code', login=login),
                type='char')
        code = parameters['totp_code']
        if totp.is_blank(code):
            return
        try:
            match = Counter.verify(
                cls._query_login(login, enrolled=True), code,
                known_device=bool(parameters.get('device_cookie')),
                decoy=None if state.passed else login)
        except TOTPCodeError as error:
            cls._refuse_totp_code(login, parameters, error)
        cls._accept_totp(parameters, match.user, Counter.consume, match)
        return match.user

    @classmethod
    def _accept_totp(cls, parameters, user_id, function, *args):
        if state := parameters.get(_STATE):
            state.accepted[user_id] = partial(function, *args)
        else:
            function(*args)

    @classmethod
    def _refuse_totp_code(cls, login, parameters, error):
        pool = Pool()
        LoginAttempt = pool.get('res.user.login.attempt')
        message = error.message
        passed = _STATE in parameters and parameters[_STATE].passed
        # Only a right code was used, the rest is the same for everybody
        if not passed and not isinstance(error, TOTPCodeUsedError):
            message = gettext('authentication_totp.msg_totp_code_refused')
        if not (passed and isinstance(
                    error, (TOTPWaitError, TOTPUnreadableError))):
            # get_login adds none if a method raises
            LoginAttempt.add(login, parameters.get('device_cookie'))
        raise LoginException('totp_code', message, type='char') from None

    def _set_up_totp_in_dialog(self, parameters):
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        LoginAttempt = pool.get('res.user.login.attempt')
        if 'totp_code' not in parameters:
            # A new key, for whoever asks: an attacker who knows the password
            # would otherwise see the key that the owner confirms
            secret = self.start_totp_setup()
            raise TOTPSetupException('totp_code', gettext(
                    'authentication_totp.msg_totp_setup',
                    key=secret.text, account=self.totp_account), type='char')
        code = parameters['totp_code']
        if totp.is_blank(code):
            return
        try:
            Counter.match(self.get_pending_totp_secret()[1], code)
        except TOTPUnreadableError:
            raise
        except (TOTPCodeError, TOTPSetupError):
            # get_login adds none if a method raises
            LoginAttempt.add(self.login, parameters.get('device_cookie'))
            raise LoginException(
                'totp_code',
                gettext('authentication_totp.msg_totp_setup_wrong'),
                type='char') from None
        self._accept_totp(
            parameters, self.id, self._finish_login_setup, code)
        return self.id

    def _finish_login_setup(self, code):
        try:
            self.finish_totp_setup(code)
        except (TOTPCodeError, TOTPSetupError):
            raise backend.DatabaseOperationalError(
                "concurrent TOTP set-ups") from None

    @classmethod
    def _check_login_options_setup_totp(cls, login, parameters):
        if state := parameters.get(_STATE):
            state.set_up = True
        return False

    @classmethod
    def _check_login_options_no_totp_secret(cls, login, parameters):
        return any(
            not u.totp_enabled and not u.totp_mandatory
            for u in cls._get_login_users(login))

    @classmethod
    def _query_login(cls, login, enrolled=False):
        table = cls.__table__()
        where = (table.login == login) & (table.active == Literal(True))
        if enrolled:
            where &= table.totp_secret != Null
        return table.select(table.id, where=where)

    @classmethod
    def _get_login_users(cls, login):
        # Core's _get_login reads the password too, whose time tells whether
        # the login exists
        cursor = Transaction().connection.cursor()
        cursor.execute(*cls._query_login(login))
        return cls.browse([id_ for id_, in cursor])


class _UnknownMethod:
    "A login method that refuses everybody, in the place of one unknown"

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
            # Before a factor has passed nobody learns why
            state.unknown |= state.passed
