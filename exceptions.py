# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.exceptions import UserError
from trytond.model.exceptions import AccessError


class TOTPCodeError(UserError):
    pass


class TOTPCodeUsedError(TOTPCodeError):
    pass


class TOTPWaitError(TOTPCodeError):
    pass


class TOTPSetupError(UserError):
    pass


class TOTPRequiredError(UserError):
    pass


class TOTPAccessError(AccessError):
    pass
