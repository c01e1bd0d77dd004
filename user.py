# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The wizard with which users manage their own TOTP"

import json
import logging

from trytond.i18n import gettext
from trytond.pool import Pool
from trytond.protocols.jsonrpc import JSONEncoder
from trytond.pyson import Eval
from trytond.tools import slugify
from trytond.transaction import Transaction
from trytond.wizard import Button, StateTransition, StateView

from . import clock, settings
from .checked import ForgetfulWizard
from .exceptions import TOTPTurnOffWarning
from .redaction import hide_arguments

try:
    from trytond.tools.qrcode import generate_png
except ImportError:
    generate_png = None

logger = logging.getLogger(__name__)

# In bytes. The envelope is the rest of the request, with room for large ids.
_MAX_REQUEST = 1400
_ENVELOPE = 180

hide_arguments('res.user.setup_totp')


class SetupTOTP(ForgetfulWizard):
    "The wizard with which users manage their own TOTP"
    __name__ = 'res.user.setup_totp'

    overview = StateView(
        'res.user.setup_totp.overview',
        'authentication_totp.setup_totp_overview_view_form', [
            Button("Close", 'end', 'tryton-close'),
            Button("Turn off TOTP", 'turn_off', 'tryton-cancel'),
            Button("New Recovery Codes", 'renew', 'tryton-refresh'),
            Button(
                "Forget Devices", 'forget', 'tryton-clear', states={
                    'invisible': ~Eval('device'),
                    }),
            Button(
                "Add Token", 'token', 'tryton-add', states={
                    'invisible': ~Eval('tokens'),
                    }),
            Button(
                "Remove", 'remove', 'tryton-delete', states={
                    'invisible': ~Eval('authenticator'),
                    }),
            Button(
                "Rename", 'rename', 'tryton-note', states={
                    'invisible': ~Eval('authenticator'),
                    'readonly': ~Eval('name'),
                    }),
            Button("Replace All", 'replace', 'tryton-switch'),
            Button("Add", 'add', 'tryton-add', default=True),
            ])
    add = StateTransition()
    replace = StateTransition()
    rename = StateTransition()
    remove = StateTransition()
    renew = StateTransition()
    turn_off = StateTransition()
    forget = StateTransition()
    token = StateView(
        'res.user.setup_totp.token',
        'authentication_totp.setup_totp_token_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button(
                "Use a Phone Instead", 'start', 'tryton-switch', states={
                    'invisible': Eval('enabled', False),
                    }),
            Button("Confirm", 'confirm_token', 'tryton-ok', default=True),
            ])
    confirm_token = StateTransition()
    start = StateView(
        'res.user.setup_totp.start',
        'authentication_totp.setup_totp_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Confirm", 'confirm', 'tryton-ok', default=True),
            ])
    confirm = StateTransition()
    done = StateView(
        'res.user.setup_totp.done',
        'authentication_totp.setup_totp_done_view_form', [
            Button(
                "Close", 'close', 'tryton-close', default=True, states={
                    'readonly': ~Eval('saved', False),
                    }),
            ])
    close = StateTransition()

    # Values that a transition leaves for the page that it leads to
    _secret = None
    _again = False
    _replaces = False
    _recovery_codes = ()

    @classmethod
    def create(cls):
        session_id, start, end = super().create()
        user = cls._get_user()
        if user.totp_enabled:
            start = 'overview'
            if user.is_totp_recovered():
                # The new authenticator replaces the lost one
                start = 'start'
            elif cls._lacks_recovery_codes(user):
                start = 'done'
        elif user.get_totp_tokens():
            start = 'token'
        return session_id, start, end

    @classmethod
    def _lacks_recovery_codes(cls, user):
        """Return whether the user has just set up TOTP in the login dialog
        and has no recovery codes yet.
        """
        pool = Pool()
        Session = pool.get('ir.session')
        return (
            user.totp_enabled and settings.get('recovery_codes')
            and not user.totp_recovery_codes and Session.is_totp_set_up())

    @classmethod
    def _get_user(cls):
        pool = Pool()
        User = pool.get('res.user')
        return User(Transaction().user)

    def default_overview(self, fields):
        user = self._get_user()
        return {
            'authenticators': [{
                    name: authenticator[name]
                    for name in ['name', 'since', 'last_used']
                    } for authenticator in user.list_totp_authenticators()],
            'recovery_codes': user.totp_recovery_codes,
            'devices': [{
                    'first_seen': device.first_seen,
                    'last_used': device.last_used,
                    'address': device.address,
                    } for device in user.totp_devices()],
            'tokens': len(user.get_totp_tokens()),
            }

    def transition_add(self):
        self._start_setup(self.overview.code)
        return 'start'

    def transition_replace(self):
        self._start_setup(self.overview.code, replaces=True)
        return 'start'

    def _start_setup(self, code=None, replaces=False):
        user = self._get_user()
        self._again = user.has_pending_totp_secret()
        self._replaces = replaces
        self._secret = user.start_totp_setup(code, replaces=replaces)

    def transition_rename(self):
        user = self._get_user()
        # Choose before the code is used up
        number = user.choose_totp_authenticator(self.overview.authenticator)
        user.rename_totp_authenticator(
            number, self.overview.name, self.overview.code)
        return 'overview'

    def transition_remove(self):
        user = self._get_user()
        number = user.choose_totp_authenticator(self.overview.authenticator)
        if user.is_only_totp_authenticator(number):
            return self.transition_turn_off()
        user.remove_totp_authenticator(number, self.overview.code)
        # The removal has ended the session, so no page can be shown
        return 'end'

    def transition_renew(self):
        self._recovery_codes = self._get_user().renew_totp_recovery_codes(
            self.overview.code)
        return 'done'

    def transition_turn_off(self):
        pool = Pool()
        Warning = pool.get('res.user.warning')
        user = self._get_user()
        user.check_totp_optional()
        key = Warning.format('totp_turn_off', [user])
        if Warning.check(key):
            raise TOTPTurnOffWarning(
                key, gettext('authentication_totp.msg_totp_turn_off'))
        user.remove_totp(self.overview.code)
        return 'end'

    def transition_forget(self):
        user = self._get_user()
        user.verify_totp_code(self.overview.code)
        user.forget_chosen_totp_devices(self.overview.device)
        return 'overview'

    def default_token(self, fields):
        user = self._get_user()
        serials = user.get_totp_tokens()
        return {
            'serial': serials[0] if len(serials) == 1 else None,
            'enabled': user.totp_enabled,
            }

    def transition_confirm_token(self):
        user = self._get_user()
        user.add_totp_token(
            self.token.serial or '', self.token.code,
            current_code=self.token.current_code)
        self._recovery_codes = user.first_totp_recovery_codes()
        return 'done'

    def default_start(self, fields):
        user = self._get_user()
        if not self._secret:
            self._start_setup(replaces=user.is_totp_recovered())
        secret = self._secret
        account = user.totp_new_account
        uri = secret.uri(account, user.totp_issuer, settings.get('image'))
        return {
            'required_from': (
                None if user.totp_enabled else user.totp_mandatory_from),
            'again': self._again,
            'account': account,
            'issuer': user.totp_issuer,
            'name': user.totp_new_name(self._replaces),
            'secret': secret.text,
            'parameters': ', '.join(user.describe_totp_parameters(secret)),
            'secret_uri': uri,
            'secret_qr_code': self._get_qr_code(uri),
            }

    def _get_qr_code(self, uri):
        if not generate_png:
            return None
        try:
            # Codes on a screen are not damaged: the lowest error correction
            # is enough, and makes the largest modules
            return generate_png(uri, error_correction='L').getvalue()
        except Exception as error:
            # The page still shows the key and the URI. The text of the error
            # may contain them, so it must not be logged.
            logger.error(
                "no QR code for user %s, perhaps because the URI is too long: "
                "%s", Transaction().user, type(error).__name__)

    def transition_confirm(self):
        self._recovery_codes = self._get_user().finish_totp_setup(
            self.start.code, name=self.start.name)
        return 'done'

    def default_done(self, fields):
        user = self._get_user()
        if not self._recovery_codes and self._lacks_recovery_codes(user):
            self._recovery_codes = user.first_totp_recovery_codes()
        if not self._recovery_codes:
            # The page can be closed at once
            return {'saved': True}
        codes = '\n'.join(self._recovery_codes)
        head = gettext(
            'authentication_totp.msg_totp_recovery_codes_file',
            account=user.totp_account, issuer=user.totp_issuer)
        date = clock.timestamp(clock.now()).date()
        values = {'recovery_codes': codes}
        for text in [f'{head}\n\n{codes}\n', f'{codes}\n']:
            with_file = {
                **values,
                'recovery_codes_file': text.encode(),
                'recovery_codes_name': slugify(
                    f'recovery-codes-{user.totp_account}-{date}') + '.txt',
                }
            if self._is_short(with_file):
                return with_file
        return values

    @staticmethod
    def _is_short(values):
        """Return whether the client can send the values back uncompressed.

        The setup has ended the session. Trytond answers a compressed request
        of an ended session with an error, and the desktop client compresses
        requests of more than 1400 bytes.
        """
        context = {
            name: value for name, value in Transaction().context.items()
            if not name.startswith('_')}
        size = len(json.dumps(values, cls=JSONEncoder)) + len(ascii(context))
        return size < _MAX_REQUEST - _ENVELOPE

    def transition_close(self):
        return 'end'
