# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.model import ModelView, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.report import Report
from trytond.tools import timezone
from trytond.transaction import Transaction
from trytond.url import host, http_host
from trytond.wizard import Button, StateTransition, StateView, Wizard

try:
    from trytond.tools.qrcode import generate_png
except ImportError:
    generate_png = None


class SetupTOTPStart(ModelView):
    __name__ = 'res.user.setup_totp.start'

    account = fields.Char("Account", readonly=True)
    issuer = fields.Char("Issuer", readonly=True)
    secret_qr_code = fields.Binary(
        "QR Code", readonly=True,
        states={
            'invisible': ~Eval('secret_qr_code'),
            })
    secret = fields.Char("Key", readonly=True)
    secret_uri = fields.Char("URI", readonly=True)
    replaces = fields.Boolean(
        "Replaces", readonly=True,
        states={
            'invisible': True,
            })
    current_code = fields.Char(
        "Current Code", strip=False,
        states={
            'invisible': ~Eval('replaces', False),
            'required': Eval('replaces', False),
            },
        help="A code that your authenticator shows for the key in use.")
    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows for the new key.")


class SetupTOTPDone(ModelView):
    __name__ = 'res.user.setup_totp.done'


class SetupTOTP(Wizard):
    "Set up the TOTP of the user who runs it"
    __name__ = 'res.user.setup_totp'

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
            Button("Close", 'end', 'tryton-close', default=True),
            ])

    @property
    def user(self):
        pool = Pool()
        User = pool.get('res.user')
        return User(Transaction().user)

    def default_start(self, fields):
        user = self.user
        secret = user.start_totp_setup()
        uri = secret.uri(user.totp_account, user.totp_issuer)
        return {
            'account': user.totp_account,
            'issuer': user.totp_issuer,
            'secret': secret.text,
            'secret_uri': uri,
            # A screen damages nothing, so the lowest correction, which makes
            # the largest modules
            'secret_qr_code': (
                generate_png(uri, error_correction='L').getvalue()
                if generate_png else None),
            'replaces': user.totp_enabled,
            }

    def transition_confirm(self):
        self.user.finish_totp_setup(
            self.start.code, current_code=self.start.current_code)
        return 'done'

    def _save(self):
        # The clients send back all they were shown, the key too, and the
        # session would keep it in the database
        self.start = self.start.__class__()
        super()._save()


class TOTPEventEmail(Report):
    __name__ = 'res.user.totp_event.email'

    @classmethod
    def get_context(cls, records, header, data):
        context = super().get_context(records, header, data)
        context['timezone'] = timezone.SERVER
        context['host'] = host()
        context['http_host'] = http_host()
        context['database'] = Transaction().database.name
        return context
