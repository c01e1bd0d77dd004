# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.exceptions import LoginException, UserError, UserWarning
from trytond.model.exceptions import AccessError


class TOTPCodeError(UserError):
    pass


class TOTPCodeBlankError(TOTPCodeError):
    pass


class TOTPCodeFormError(TOTPCodeError):
    pass


class TOTPCodeUsedError(TOTPCodeError):
    pass


class TOTPCodeRepeatedError(TOTPCodeUsedError):
    pass


class TOTPWaitError(TOTPCodeError):
    pass


class TOTPUnreadableError(TOTPCodeError):
    pass


class TOTPSetupError(UserError):
    pass


class TOTPTokenError(UserError):
    pass


class TOTPTurnOffWarning(UserWarning):
    pass


class TOTPRequiredError(UserError):
    pass


class TOTPRequiredWarning(UserWarning):
    pass


class TOTPAccessError(AccessError):
    pass


class TOTPSetupException(LoginException):

    def __str__(self):
        # The message contains the key, and exceptions may be logged
        return "TOTP has to be set up"

    __repr__ = __str__
