# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging

from trytond.i18n import gettext
from trytond.model import ModelView, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.rpc import RPC
from trytond.tools import slugify
from trytond.transaction import Transaction
from trytond.wizard import Button, StateTransition, StateView

from . import clock, settings
from .checked import ForgetfulWizard
from .exceptions import TOTPSetupError, TOTPTurnOffWarning
from .redaction import hide_arguments

try:
    from trytond.tools.qrcode import generate_png
except ImportError:
    generate_png = None

logger = logging.getLogger(__name__)

hide_arguments('res.user.setup_totp')


class SetupTOTPOverview(ModelView):
    __name__ = 'res.user.setup_totp.overview'
    __string__ = "Set up TOTP"

    authenticators = fields.One2Many(
        'res.user.setup_totp.authenticator', None, "Authenticators",
        readonly=True, help="Each of them makes codes for you to log in.")
    recovery_codes = fields.Integer(
        "Recovery Codes Left", readonly=True,
        help="How many recovery codes you have not used yet.")
    code = fields.Char(
        "Code", strip=False,
        help="The code from your authenticator, or a recovery code.")
    devices = fields.One2Many(
        'res.user.setup_totp.device', None, "Remembered Devices",
        readonly=True,
        states={
            'invisible': ~Eval('devices'),
            },
        help="They ask for no code for a while.")
    tokens = fields.Integer(
        "Tokens", readonly=True,
        states={
            'invisible': True,
            })
    authenticator = fields.Selection(
        'get_authenticators', "Authenticator", sort=False,
        help="The authenticator to rename or remove.")
    name = fields.Char(
        "New Name", help="The name to give it, for example of your phone.")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        # By default the clients keep the names for a day
        cls.__rpc__['get_authenticators'] = RPC()

    @classmethod
    def get_authenticators(cls):
        pool = Pool()
        User = pool.get('res.user')
        user = User(Transaction().user)
        # For a moment after each change the web client takes the first one as
        # chosen, and a quick click on a button sends it
        return [(None, "")] + [
            (str(authenticator['number']), authenticator['name'])
            for authenticator in user.list_totp_authenticators()]


class SetupTOTPAuthenticator(ModelView):
    __name__ = 'res.user.setup_totp.authenticator'
    __string__ = "Authenticator"

    name = fields.Char("Name", readonly=True)
    since = fields.DateTime("Since", readonly=True)
    last_used = fields.DateTime("Last Used", readonly=True)


class SetupTOTPDevice(ModelView):
    __name__ = 'res.user.setup_totp.device'
    __string__ = "Remembered Device"

    first_seen = fields.DateTime("First Seen", readonly=True)
    last_used = fields.DateTime("Last Used", readonly=True)
    address = fields.Char("Address", readonly=True)


class SetupTOTPToken(ModelView):
    __name__ = 'res.user.setup_totp.token'
    __string__ = "Add Token"

    serial = fields.Char(
        "Serial Number", required=True, help="It is printed on the token.")
    code = fields.Char(
        "Code of the Token", required=True, strip=False,
        help="The code that the token shows.")
    enabled = fields.Boolean(
        "Enabled", readonly=True,
        states={
            'invisible': True,
            })
    current_code = fields.Char(
        "Code of Now", strip=False,
        states={
            'invisible': ~Eval('enabled', False),
            'required': Eval('enabled', False),
            },
        help="A code from an authenticator that you already have, or a "
        "recovery code.")


class SetupTOTPStart(ModelView):
    __name__ = 'res.user.setup_totp.start'
    __string__ = "Set up TOTP"

    required_from = fields.Date(
        "Required From", readonly=True,
        states={
            'invisible': ~Eval('required_from'),
            },
        help="From this day on you cannot log in without TOTP.")
    again = fields.Boolean(
        "Again", readonly=True,
        states={
            'invisible': True,
            })
    secret_qr_code = fields.Binary(
        "QR Code", readonly=True,
        states={
            'invisible': ~Eval('secret_qr_code'),
            },
        help="Scan it with the authenticator on your phone.")
    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows for the new entry.")
    name = fields.Char(
        "Name", help="The name of this authenticator, for example of your "
        "phone.")
    secret = fields.Char(
        "Key", readonly=True,
        help="Type it into the authenticator if you cannot scan the QR code. "
        "If it is refused, leave the spaces out.")
    parameters = fields.Char(
        "Settings", readonly=True,
        states={
            'invisible': ~Eval('parameters'),
            },
        help="Choose them in the authenticator if you type the key.")
    secret_uri = fields.Char(
        "URI", readonly=True,
        help="What the QR code says. Paste it into an authenticator that "
        "takes no picture.")
    account = fields.Char(
        "Account", readonly=True,
        help="The name of the account in your authenticator.")
    issuer = fields.Char(
        "Issuer", readonly=True,
        help="The name of the service in your authenticator.")

    @classmethod
    def view_attributes(cls):
        return super().view_attributes() + [
            ('/form/label[@id="again"]', 'states', {
                    'invisible': ~Eval('again'),
                    }),
            ]


class SetupTOTPDone(ModelView):
    __name__ = 'res.user.setup_totp.done'
    __string__ = "Recovery Codes"

    # The client asks for the password over this page when it is closed
    _UNTIL_SAVED = {
        'invisible': ~Eval('recovery_codes') | Eval('saved', False),
        }

    # The client sends all of it back. It must be short: trytond answers a
    # compressed request of an ended session with an error, and the desktop
    # client compresses more than 1400 bytes.
    recovery_codes = fields.Text(
        "Recovery Codes", readonly=True,
        states=_UNTIL_SAVED,
        help="Each can be used once instead of a code.")
    recovery_codes_file = fields.Binary(
        "Download", filename='recovery_codes_name', readonly=True,
        states=_UNTIL_SAVED,
        help="The same codes as a text file, to save or to print.")
    recovery_codes_name = fields.Char(
        "File Name", readonly=True,
        states={
            'invisible': True,
            })
    saved = fields.Boolean(
        "I have saved them",
        states={
            'invisible': ~Eval('recovery_codes'),
            },
        help="They are not shown again.")

    @classmethod
    def view_attributes(cls):
        return super().view_attributes() + [
            ('/form/group[@id="copy"]', 'states', cls._UNTIL_SAVED),
            ]


class SetupTOTP(ForgetfulWizard):
    "Where users look after their own TOTP"
    __name__ = 'res.user.setup_totp'

    overview = StateView(
        'res.user.setup_totp.overview',
        'authentication_totp.setup_totp_overview_view_form', [
            Button("Close", 'end', 'tryton-close'),
            Button("Turn off TOTP", 'turn_off', 'tryton-cancel'),
            Button("New Recovery Codes", 'renew', 'tryton-refresh'),
            Button(
                "Forget Devices", 'forget', 'tryton-clear', states={
                    'invisible': ~Eval('devices'),
                    }),
            Button(
                "Add Token", 'token', 'tryton-add', states={
                    'invisible': ~Eval('tokens'),
                    }),
            Button(
                "Remove", 'remove', 'tryton-delete', states={
                    'readonly': ~Eval('authenticator'),
                    }),
            Button(
                "Rename", 'rename', 'tryton-note', states={
                    'readonly': ~Eval('authenticator') | ~Eval('name'),
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

    # What a request leaves to the page that its answer shows
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
                # The lost authenticator is replaced
                start = 'start'
            elif cls._lacks_recovery_codes(user):
                start = 'done'
        elif user.get_totp_tokens():
            start = 'token'
        return session_id, start, end

    @classmethod
    def _lacks_recovery_codes(cls, user):
        "Return whether the user has set TOTP up in the login dialog just now."
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
        self._get_user().rename_totp_authenticator(
            self._get_number(), self.overview.name, self.overview.code)
        return 'overview'

    def transition_remove(self):
        user = self._get_user()
        number = self._get_number()
        if [a['number'] for a in user.list_totp_authenticators()] == [number]:
            return self.transition_turn_off()
        user.remove_totp_authenticator(number, self.overview.code)
        # It has ended the session, so another page could not be filled in
        return 'end'

    def _get_number(self):
        """Return the number of the authenticator chosen.

        Raise TOTPSetupError if there is none, before the code is used up.
        """
        for authenticator in self._get_user().list_totp_authenticators():
            if str(authenticator['number']) == self.overview.authenticator:
                return authenticator['number']
        raise TOTPSetupError(
            gettext('authentication_totp.msg_totp_no_authenticator'))

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
        user.forget_totp_devices()
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
            # A screen damages nothing, so the lowest correction, which makes
            # the largest modules
            return generate_png(uri, error_correction='L').getvalue()
        except Exception as error:
            # Key and URI are shown all the same. The text of the error may
            # hold them.
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
        return {
            'recovery_codes': codes,
            'recovery_codes_file': f'{head}\n\n{codes}\n'.encode(),
            'recovery_codes_name': slugify(
                f'recovery-codes-{user.totp_account}-{date}') + '.txt',
            }

    def transition_close(self):
        return 'end'
