# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.tests.test_tryton import ModuleTestCase


class AuthenticationTOTPTestCase(ModuleTestCase):
    "Test authentication_totp module"
    module = 'authentication_totp'


del ModuleTestCase
