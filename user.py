# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import logging

from trytond.i18n import gettext
from trytond.model import ModelView, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.report import Report
from trytond.tools import slugify, timezone
from trytond.transaction import Transaction
from trytond.url import host, http_base, is_secure
from trytond.wizard import Button, StateTransition, StateView, Wizard

from . import settings

try:
    from trytond.tools.qrcode import generate_png
except ImportError:
    generate_png = None

logger = logging.getLogger(__name__)


class SetupTOTPStart(ModelView):
    __name__ = 'res.user.setup_totp.start'
    __string__ = "Set up TOTP"

    account = fields.Char(
        "Account", readonly=True,
        help="The name of the account in your authenticator.")
    issuer = fields.Char(
        "Issuer", readonly=True,
        help="The name of the service in your authenticator.")
    secret_qr_code = fields.Binary(
        "QR Code", readonly=True,
        states={
            'invisible': ~Eval('secret_qr_code'),
            },
        help="Scan it with the authenticator on your phone.")
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
        help="A code that your authenticator shows for the key in use, "
        "or a recovery code.")
    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows for the new key.")


class SetupTOTPDone(ModelView):
    __name__ = 'res.user.setup_totp.done'
    __string__ = "Recovery Codes"

    recovery_codes = fields.Text(
        "Recovery Codes", readonly=True,
        states={
            'invisible': ~Eval('recovery_codes'),
            },
        help="Each logs you in once instead of a code.")
    recovery_codes_file = fields.Binary(
        "File", filename='recovery_codes_name', readonly=True,
        states={
            'invisible': ~Eval('recovery_codes'),
            },
        help="The same codes as a text file, to save or to print.")
    recovery_codes_name = fields.Char(
        "File Name", readonly=True,
        states={
            'invisible': True,
            })


class OwnTOTPMixin:
    "What users do to their own TOTP"

    @property
    def user(self):
        pool = Pool()
        User = pool.get('res.user')
        return User(Transaction().user)

    def _save(self):
        # The clients send back all they were shown, keys and recovery codes
        # too, and the session would keep it in the database
        for name, state in self.states.items():
            if isinstance(state, StateView):
                setattr(self, name, getattr(self, name).__class__())
        super()._save()


class RecoveryCodesMixin(OwnTOTPMixin):
    "Show recovery codes, once"
    recovery_codes = ()

    def default_done(self, fields):
        if not self.recovery_codes:
            return {}
        codes = '\n'.join(self.recovery_codes)
        user = self.user
        head = gettext(
            'authentication_totp.msg_totp_recovery_codes_file',
            account=user.totp_account, issuer=user.totp_issuer)
        return {
            'recovery_codes': codes,
            'recovery_codes_file': f'{head}\n\n{codes}\n'.encode(),
            'recovery_codes_name': slugify(
                f'{user.totp_issuer} {user.totp_account}') + '.txt',
            }


class SetupTOTP(RecoveryCodesMixin, Wizard):
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

    def default_start(self, fields):
        user = self.user
        secret = user.start_totp_setup()
        uri = secret.uri(
            user.totp_account, user.totp_issuer, settings.get('image'))
        return {
            'account': user.totp_account,
            'issuer': user.totp_issuer,
            'secret': secret.text,
            'parameters': ', '.join(user.describe_totp_parameters(secret)),
            'secret_uri': uri,
            'secret_qr_code': self._get_qr_code(uri),
            'replaces': user.totp_enabled,
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
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        user = self.user
        user.finish_totp_setup(
            self.start.code, current_code=self.start.current_code,
            replaces=True)
        self.recovery_codes = RecoveryCode.renew(user.id)
        return 'done'


class NewTOTPRecoveryCodesStart(ModelView):
    __name__ = 'res.user.new_totp_recovery_codes.start'
    __string__ = "New Recovery Codes"

    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows, or a recovery code.")


class NewTOTPRecoveryCodes(RecoveryCodesMixin, Wizard):
    "Replace the recovery codes of the user who runs it"
    __name__ = 'res.user.new_totp_recovery_codes'

    start = StateView(
        'res.user.new_totp_recovery_codes.start',
        'authentication_totp.new_totp_recovery_codes_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Make New Codes", 'confirm', 'tryton-ok', default=True),
            ])
    confirm = StateTransition()
    done = StateView(
        'res.user.setup_totp.done',
        'authentication_totp.new_totp_recovery_codes_done_view_form', [
            Button("Close", 'end', 'tryton-close', default=True),
            ])

    def transition_confirm(self):
        self.recovery_codes = self.user.renew_totp_recovery_codes(
            self.start.code)
        return 'done'


class RemoveTOTPStart(ModelView):
    __name__ = 'res.user.remove_totp.start'
    __string__ = "Turn off TOTP"

    code = fields.Char(
        "Code", required=True, strip=False,
        help="The code that your authenticator shows, or a recovery code.")


class RemoveTOTP(OwnTOTPMixin, Wizard):
    "Turn the TOTP off of the user who runs it"
    __name__ = 'res.user.remove_totp'

    start = StateView(
        'res.user.remove_totp.start',
        'authentication_totp.remove_totp_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Turn Off", 'remove', 'tryton-ok', default=True),
            ])
    remove = StateTransition()

    def transition_remove(self):
        self.user.remove_totp(self.start.code)
        return 'end'


class ResetTOTPStart(ModelView):
    __name__ = 'res.user.reset_totp.start'
    __string__ = "Reset TOTP"

    users = fields.Many2Many(
        'res.user', None, None, "Users", readonly=True,
        help="Those whose TOTP is reset.")


class SelectedUsersMixin:
    "What administrators do to the users whom they select"

    @classmethod
    def check_access(cls):
        pool = Pool()
        User = pool.get('res.user')
        super().check_access()
        # Also where the context names another model, or no user
        User.check_totp_management([])

    @property
    def users(self):
        pool = Pool()
        User = pool.get('res.user')
        users = User.browse(Transaction().context.get('active_ids') or [])
        User.check_totp_management(users)
        return users


class ResetTOTP(SelectedUsersMixin, Wizard):
    "Take the TOTP away from the users selected"
    __name__ = 'res.user.reset_totp'

    start = StateView(
        'res.user.reset_totp.start',
        'authentication_totp.reset_totp_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Reset", 'reset', 'tryton-ok'),
            ])
    reset = StateTransition()

    def default_start(self, fields):
        return {'users': [u.id for u in self.users]}

    def transition_reset(self):
        pool = Pool()
        User = pool.get('res.user')
        User.reset_totp(self.users)
        return 'end'


class InvitedUsersMixin:
    "Who gets an e-mail, and who gets none"
    __slots__ = ()

    users = fields.Many2Many(
        'res.user', None, None, "Users", readonly=True,
        help="Those who have no TOTP yet and an e-mail address.")
    without_email = fields.Many2Many(
        'res.user', None, None, "Without E-mail", readonly=True,
        states={
            'invisible': ~Eval('without_email'),
            },
        help="Those who have no e-mail address.")
    bad_email = fields.Many2Many(
        'res.user', None, None, "Wrong E-mail", readonly=True,
        states={
            'invisible': ~Eval('bad_email'),
            },
        help="Those whose e-mail address is not valid.")
    already_invited = fields.Many2Many(
        'res.user', None, None, "Already Invited", readonly=True,
        states={
            'invisible': ~Eval('already_invited'),
            },
        help="Those who were invited within the last hour.")


class InviteTOTPStart(InvitedUsersMixin, ModelView):
    __name__ = 'res.user.invite_totp.start'
    __string__ = "Invite to Set up TOTP"


class InviteTOTPDone(InvitedUsersMixin, ModelView):
    __name__ = 'res.user.invite_totp.done'
    __string__ = "Invited to Set up TOTP"


class InviteTOTP(SelectedUsersMixin, Wizard):
    "Ask the users selected by e-mail to set TOTP up"
    __name__ = 'res.user.invite_totp'

    start = StateView(
        'res.user.invite_totp.start',
        'authentication_totp.invite_totp_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Send", 'send', 'tryton-ok', default=True),
            ])
    send = StateTransition()
    done = StateView(
        'res.user.invite_totp.done',
        'authentication_totp.invite_totp_done_view_form', [
            Button("Close", 'end', 'tryton-close', default=True),
            ])
    sent = None

    @property
    def users(self):
        return [u for u in super().users if not u.totp_enabled]

    def _sort(self):
        "Return the values of the lists of users."
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        users = self.users
        untold = Event.untold(users, 'invited')

        def ids(reason):
            return [u.id for u in users if untold.get(u) == reason]
        return {
            'users': ids(None),
            'without_email': ids('no_email'),
            'bad_email': ids('bad_email'),
            'already_invited': ids('told'),
            }

    def default_start(self, fields):
        return self._sort()

    def transition_send(self):
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        User = pool.get('res.user')
        self.sent = self._sort()
        Event.record(User.browse(self.sent['users']), 'invited')
        return 'done'

    def default_done(self, fields):
        # Only Send leads here
        return self.sent or {}


class TOTPEventEmail(Report):
    __name__ = 'res.user.totp_event.email'

    @classmethod
    def get_context(cls, records, header, data):
        pool = Pool()
        Lang = pool.get('ir.lang')
        context = super().get_context(records, header, data)
        context['direction'] = Lang.get().direction
        context['timezone'] = timezone.SERVER
        database = Transaction().database.name
        context['web_url'] = f"{http_base().rstrip('/')}/#{database}"
        netloc = host()
        if is_secure() and ':' not in netloc:
            # The desktop client takes 8000 by default
            netloc += ':443'
        context['desktop_url'] = f'tryton://{netloc}/{database}'
        return context
