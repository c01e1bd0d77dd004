# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Wizards that accept only the fields of their pages"

from trytond.i18n import gettext
from trytond.pool import Pool
from trytond.wizard import StateView, Wizard

from .exceptions import TOTPAccessError


class CheckedWizard(Wizard):
    """A wizard that refuses all data but the fields of its pages

    Tryton sets any attribute that a client names, even one of the class, which
    all users share.
    """

    @classmethod
    def execute(cls, session_id, data, state_name):
        if not cls._is_valid(data):
            raise TOTPAccessError(gettext(
                    'ir.msg_access_wizard_error', wizard=cls.__name__))
        return super().execute(session_id, data, state_name)

    @classmethod
    def _is_valid(cls, data):
        pool = Pool()
        if not isinstance(data, dict):
            return False
        for name, values in data.items():
            state = cls.states.get(name)
            if (not isinstance(state, StateView)
                    or not isinstance(values, dict)
                    or not values.keys() <= {
                        'id', *pool.get(state.model_name)._fields}):
                return False
        return True


class ForgetfulWizard(CheckedWizard):
    """A wizard whose session stores no data

    Clients send back everything that they were shown, including keys, files
    and recovery codes, and the session would store it in the database.
    """

    def _save(self):
        for name, state in self.states.items():
            if isinstance(state, StateView):
                setattr(self, name, getattr(self, name).__class__())
        super()._save()
