# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Why a code is refused, and how the user is told"

from typing import NamedTuple

from trytond.i18n import gettext

from . import totp
from .exceptions import (
    TOTPCodeError, TOTPCodeFormError, TOTPCodeRepeatedError, TOTPCodeUsedError,
    TOTPUnreadableError)


class Refusal(NamedTuple):
    """Why a code is refused

    error: the class of the error
    message: the id of the message
    digits: how many digits a code has, for the message
    counted: whether it counts as a failure of the user
    """
    error: type
    message: str
    digits: tuple = ()
    counted: bool = True

    def get_error(self, wait=None):
        """Return the error to raise.

        wait: the text that tells the user to wait, if the user has to
        """
        if wait:
            return self.error(wait)
        digits = ', '.join(map(str, self.digits))
        if len(self.digits) == 2:
            first, second = self.digits
            digits = gettext(
                'authentication_totp.msg_totp_either',
                first=first, second=second)
        return self.error(gettext(
                f'authentication_totp.{self.message}', digits=digits,
                length=totp.RECOVERY_LENGTH,
                characters=', '.join(totp.NOT_RECOVERY_CHARACTERS)))


WRONG = Refusal(TOTPCodeError, 'msg_totp_code_wrong')
# A code of a new key, which no code has confirmed yet
WRONG_NEW = Refusal(TOTPCodeError, 'msg_totp_new_code_wrong')
WRONG_RECOVERY_CODE = Refusal(TOTPCodeError, 'msg_totp_recovery_code_wrong')
USED = Refusal(TOTPCodeUsedError, 'msg_totp_code_used')
# A form that is sent twice, or a quick logout and login, is no attack
REPEATED = Refusal(
    TOTPCodeRepeatedError, 'msg_totp_code_used', counted=False)
# Not the fault of the user
UNREADABLE = Refusal(
    TOTPUnreadableError, 'msg_totp_unreadable', counted=False)


def explain(code, secrets, refusal):
    """Return the Refusal of a wrong code, which says what to enter instead.

    code: what a client sent, of any type
    secrets: the secrets of the user
    refusal: what to return if the code has the form of a code
    """
    digits = tuple(sorted({secret.digits for secret in secrets}))
    if not digits:
        return refusal
    if totp.is_key(code):
        message = 'msg_totp_code_is_key'
    elif totp.count_digits(code) not in {None, *digits}:
        message = 'msg_totp_code_digits'
    else:
        return refusal
    return Refusal(TOTPCodeFormError, message, digits)
