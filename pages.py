# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The pages of the wizard with which users manage their own TOTP"

from trytond.model import ModelView, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.rpc import RPC
from trytond.transaction import Transaction

from .choices import optional


class SetupTOTPOverview(ModelView):
    __name__ = 'res.user.setup_totp.overview'
    __string__ = "Set up TOTP"

    authenticators = fields.One2Many(
        'res.user.setup_totp.authenticator', None, "Authenticators",
        readonly=True, help="The authenticators that generate your codes.")
    recovery_codes = fields.Integer(
        "Recovery Codes Left", readonly=True,
        help="The number of recovery codes that you have not used yet.")
    code = fields.Char(
        "Code", strip=False,
        help="The code from your authenticator, or a recovery code.")
    devices = fields.One2Many(
        'res.user.setup_totp.device', None, "Remembered Devices",
        readonly=True,
        states={
            'invisible': ~Eval('devices'),
            },
        help="The devices that ask for no code for some time.")
    device = fields.Selection(
        'get_devices', "Device", sort=False,
        states={
            'invisible': ~Eval('devices'),
            },
        help="The device to forget.")
    tokens = fields.Integer(
        "Tokens", readonly=True,
        states={
            'invisible': True,
            })
    authenticator = fields.Selection(
        'get_authenticators', "Authenticator", sort=False,
        help="The authenticator to rename or remove.")
    name = fields.Char(
        "New Name", help="The new name of the authenticator, for example "
        "that of your phone.")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        # By default, clients cache the entries for a day
        for name in ['get_authenticators', 'get_devices']:
            cls.__rpc__[name] = RPC()

    @classmethod
    def get_authenticators(cls):
        pool = Pool()
        User = pool.get('res.user')
        user = User(Transaction().user)
        return optional(
            (str(authenticator['number']), authenticator['name'])
            for authenticator in user.list_totp_authenticators())

    @classmethod
    def get_devices(cls):
        pool = Pool()
        User = pool.get('res.user')
        return optional(User(Transaction().user).choose_totp_devices())


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
        "Serial Number", required=True, help="The number printed on the "
        "token.")
    code = fields.Char(
        "Token Code", required=True, strip=False,
        help="The code that the token shows.")
    enabled = fields.Boolean(
        "Enabled", readonly=True,
        states={
            'invisible': True,
            })
    current_code = fields.Char(
        "Current Code", strip=False,
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
        help="Scan the QR code with the authenticator on your phone.")
    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows for the new entry.")
    name = fields.Char(
        "Name", help="The name of this authenticator, for example that of "
        "your phone.")
    secret = fields.Char(
        "Key", readonly=True,
        help="Type the key into the authenticator if you cannot scan the QR "
        "code. If the key is refused, leave the spaces out.")
    parameters = fields.Char(
        "Settings", readonly=True,
        states={
            'invisible': ~Eval('parameters'),
            },
        help="Choose these settings in the authenticator if you type the key.")
    secret_uri = fields.Char(
        "URI", readonly=True,
        help="The content of the QR code. Paste it into an authenticator "
        "that cannot scan.")
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

    # When the page is closed, the client asks for the password over it
    _UNTIL_SAVED = {
        'invisible': ~Eval('recovery_codes') | Eval('saved', False),
        }

    recovery_codes = fields.Text(
        "Recovery Codes", readonly=True,
        states=_UNTIL_SAVED,
        help="Each recovery code can be used once instead of a code.")
    recovery_codes_file = fields.Binary(
        "Download", filename='recovery_codes_name', readonly=True,
        states={
            'invisible': ~Eval('recovery_codes_file') | Eval('saved', False),
            },
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
        help="The recovery codes are not shown again.")

    @classmethod
    def view_attributes(cls):
        return super().view_attributes() + [
            ('/form/group[@id="copy"]', 'states', cls._UNTIL_SAVED),
            ]
