# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The preferences of a user, and the wizard that opens after the login"

from trytond.pool import Pool, PoolMeta

from . import settings
from .authentications import methods


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls._preferences_fields.extend(cls._totp_preferences)

    @classmethod
    def get_preferences_fields_view(cls):
        view = super().get_preferences_fields_view()
        for name in cls._totp_preferences:
            view['fields'][name]['readonly'] = True
        return view

    @classmethod
    def _get_preferences(cls, user, context_only=False):
        pool = Pool()
        Action = pool.get('ir.action')
        ModelData = pool.get('ir.model.data')
        preferences = super()._get_preferences(
            user, context_only=context_only)
        if not context_only and (wizard := cls._get_totp_wizard(user)):
            action = Action.get_action_id(
                ModelData.get_id('authentication_totp', wizard))
            preferences['actions'] = [action, *preferences['actions']]
        return preferences

    @classmethod
    def _get_totp_wizard(cls, user):
        "Return the XML id of the wizard that opens by itself after the login."
        pool = Pool()
        Session = pool.get('ir.session')
        options = {
            option for method in methods() if method.name == 'totp'
            for option in method.options}
        if not user.totp_enabled:
            if 'no_totp_secret' in options:
                return 'wizard_setup_totp'
        elif ('setup_totp' in options and settings.get('recovery_codes')
                and not user.totp_recovery_codes):
            # The login dialog cannot show recovery codes
            return 'wizard_setup_totp'
        elif Session.is_totp_recovered():
            # The user can replace the lost authenticator at once
            return 'wizard_setup_totp'
