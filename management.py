# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"How administrators view and change the TOTP of other users"

from trytond.i18n import gettext
from trytond.model import ModelView, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval, If
from trytond.transaction import Transaction, without_check_access
from trytond.wizard import Button, StateTransition, StateView

from . import clock
from .checked import CheckedWizard
from .choices import optional
from .exceptions import TOTPAccessError


class User(metaclass=PoolMeta):
    __name__ = 'res.user'

    totp_authenticators = fields.Function(
        fields.Text(
            "TOTP Authenticators",
            states={
                'invisible': ~Eval('totp_enabled', False),
                },
            help="The authenticators in use, one a line."),
        'get_totp_authenticators')
    totp_remembered_devices = fields.Function(
        fields.Text(
            "Remembered Devices",
            states={
                'invisible': ~Eval('totp_remembered_devices'),
                },
            help="The devices that skip the code for a while, one a line."),
        'get_totp_remembered_devices')

    @classmethod
    def __setup__(cls):
        super().__setup__()
        for name, field, shown in [
                ('open_invite_totp', 'totp_enabled', False),
                ('open_remove_totp_authenticator', 'totp_enabled', True),
                ('open_forget_totp_devices', 'totp_remembered_devices', True),
                ('open_reset_totp', 'totp_enabled', True),
                ]:
            cls._buttons[name] = {
                'invisible': ~Eval(field) if shown else Eval(field, False),
                'depends': [field]}

    @classmethod
    def view_attributes(cls):
        return [
            *super().view_attributes(),
            ('/tree', 'visual', If(Eval('totp_locked', False), 'danger', ''),
                ['totp_locked']),
            ]

    @classmethod
    def get_totp_authenticators(cls, users, name):
        return cls._get_totp_lines(users, cls.describe_totp_authenticators)

    @classmethod
    def get_totp_remembered_devices(cls, users, name):
        return cls._get_totp_lines(users, cls.describe_totp_devices)

    @classmethod
    def _get_totp_lines(cls, users, describe):
        """Return for each user the described lines, or None if the user of the
        transaction may not see the status of the user.

        describe: a function that returns pairs, a key and a line, for a user
        """
        described = dict.fromkeys(u.id for u in users)
        for id_ in cls._filter_totp_visible(users):
            described[id_] = '\n'.join(line for _, line in describe(cls(id_)))
        return described

    @without_check_access
    def describe_totp_authenticators(self):
        """Return the number and a line of text of each authenticator.

        It does not check access rights: the caller must do so.
        """
        pool = Pool()
        Lang = pool.get('ir.lang')
        lang = Lang.get()

        def day(time):
            if time:
                return lang.strftime(clock.local(time).date())

        described = []
        for authenticator in self.list_totp_authenticators():
            message = 'msg_totp_authenticator_line'
            if authenticator['last_used']:
                message = 'msg_totp_authenticator_line_used'
            described.append((authenticator['number'], gettext(
                        f'authentication_totp.{message}',
                        name=authenticator['name'],
                        since=day(authenticator['since']),
                        last_used=day(authenticator['last_used']))))
        return described

    @classmethod
    def remove_totp_authenticator_of(cls, user, number):
        """Remove an authenticator of another user, and keep the others.

        It takes no code, but requires the right to write the user. Removing
        the last authenticator resets TOTP.
        Raise TOTPAccessError if it is the user of the transaction,
        TOTPSetupError if there is no such authenticator, and
        TOTPUnreadableError if no key decrypts the secrets.
        """
        cls.check_totp_management([user])
        cls.check_not_own_totp([user])
        if user.is_only_totp_authenticator(number):
            cls.reset_totp([user])
        else:
            user.drop_totp_authenticator(number)

    @classmethod
    @ModelView.button_action('authentication_totp.wizard_invite_totp')
    def open_invite_totp(cls, users):
        pass

    @classmethod
    @ModelView.button_action(
        'authentication_totp.wizard_remove_totp_authenticator')
    def open_remove_totp_authenticator(cls, users):
        pass

    @classmethod
    @ModelView.button_action('authentication_totp.wizard_forget_totp_devices')
    def open_forget_totp_devices(cls, users):
        pass

    @classmethod
    @ModelView.button_action('authentication_totp.wizard_reset_totp')
    def open_reset_totp(cls, users):
        pass


class RemoveTOTPAuthenticatorStart(ModelView):
    __name__ = 'res.user.remove_totp_authenticator.start'
    __string__ = "Remove Authenticator"

    user = fields.Many2One(
        'res.user', "User", readonly=True,
        help="The user whose authenticator is removed.")
    authenticator = fields.Selection(
        'get_authenticators', "Authenticator", required=True, sort=False,
        help="The authenticator to remove. The others stay.")

    @fields.depends('user')
    def get_authenticators(self):
        pool = Pool()
        User = pool.get('res.user')
        if not self.user:
            return []
        User.check_totp_management([self.user])
        return optional(
            (str(number), line)
            for number, line in self.user.describe_totp_authenticators())


class ManagersMixin:
    "A wizard for users who may write other users"

    @classmethod
    def check_access(cls):
        pool = Pool()
        User = pool.get('res.user')
        super().check_access()
        # Check even if the context names another model, or no user
        User.check_totp_management([])


class SelectedUserMixin(ManagersMixin):
    "A wizard that changes the selected user"

    @property
    def user(self):
        pool = Pool()
        User = pool.get('res.user')
        user = User(Transaction().context.get('active_id'))
        if user.id is None:
            raise TOTPAccessError(gettext(
                    'ir.msg_access_wizard_error', wizard=self.__name__))
        User.check_totp_management([user])
        return user

    def default_start(self, fields):
        return {'user': self.user.id}


class RemoveTOTPAuthenticator(SelectedUserMixin, CheckedWizard):
    "Remove one of the authenticators of the selected user"
    __name__ = 'res.user.remove_totp_authenticator'

    start = StateView(
        'res.user.remove_totp_authenticator.start',
        'authentication_totp.remove_totp_authenticator_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Remove", 'remove', 'tryton-ok'),
            ])
    remove = StateTransition()

    def transition_remove(self):
        pool = Pool()
        User = pool.get('res.user')
        user = self.user
        User.remove_totp_authenticator_of(
            user, user.choose_totp_authenticator(self.start.authenticator))
        return 'end'


class ForgetTOTPDevicesStart(ModelView):
    __name__ = 'res.user.forget_totp_devices.start'
    __string__ = "Forget Devices"

    user = fields.Many2One(
        'res.user', "User", readonly=True,
        help="The user whose devices are forgotten.")
    device = fields.Selection(
        'get_devices', "Device", required=True, sort=False,
        help="Its next login asks for a code again.")

    @classmethod
    def default_device(cls):
        return 'all'

    @fields.depends('user')
    def get_devices(self):
        pool = Pool()
        User = pool.get('res.user')
        if not self.user:
            return []
        User.check_totp_management([self.user])
        return optional(self.user.choose_totp_devices())


class ForgetTOTPDevices(SelectedUserMixin, CheckedWizard):
    """Forget one or all of the remembered devices of the selected user

    Administrators may also use it for their own account, because it gives no
    access: it only makes logins ask for a code again.
    """
    __name__ = 'res.user.forget_totp_devices'

    start = StateView(
        'res.user.forget_totp_devices.start',
        'authentication_totp.forget_totp_devices_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Forget", 'forget', 'tryton-ok'),
            ])
    forget = StateTransition()

    def transition_forget(self):
        self.user.forget_chosen_totp_devices(self.start.device)
        return 'end'


class ResetTOTPStart(ModelView):
    __name__ = 'res.user.reset_totp.start'
    __string__ = "Reset TOTP"

    users = fields.Many2Many(
        'res.user', None, None, "Users", readonly=True,
        help="The users whose TOTP is reset.")
    locked_out = fields.Many2Many(
        'res.user', None, None, "Locked Out", readonly=True,
        states={
            'invisible': ~Eval('locked_out'),
            },
        help="The users who cannot log in without TOTP.")


class SelectedUsersMixin(ManagersMixin):
    "A wizard that changes the selected users"

    @property
    def users(self):
        pool = Pool()
        User = pool.get('res.user')
        users = User.browse(Transaction().context.get('active_ids') or [])
        User.check_totp_management(users)
        return users


class ResetTOTP(SelectedUsersMixin, CheckedWizard):
    "Reset TOTP for the selected users"
    __name__ = 'res.user.reset_totp'

    start = StateView(
        'res.user.reset_totp.start',
        'authentication_totp.reset_totp_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Reset", 'reset', 'tryton-ok'),
            ])
    reset = StateTransition()

    def default_start(self, fields):
        pool = Pool()
        User = pool.get('res.user')
        users = self.users
        return {
            'users': [u.id for u in users],
            'locked_out': [
                u.id for u in User.filter_locked_out_of_totp(users)],
            }

    def transition_reset(self):
        pool = Pool()
        User = pool.get('res.user')
        User.reset_totp(self.users)
        return 'end'


class InvitedUsersMixin:
    "The lists of users who get an e-mail, and of users who get none"
    __slots__ = ()

    users = fields.Many2Many(
        'res.user', None, None, "Users", readonly=True,
        help="The users who have an e-mail address and have not set up TOTP.")
    without_email = fields.Many2Many(
        'res.user', None, None, "Without E-mail", readonly=True,
        states={
            'invisible': ~Eval('without_email'),
            },
        help="The users without an e-mail address.")
    bad_email = fields.Many2Many(
        'res.user', None, None, "Wrong E-mail", readonly=True,
        states={
            'invisible': ~Eval('bad_email'),
            },
        help="The users whose e-mail address is not valid.")
    already_invited = fields.Many2Many(
        'res.user', None, None, "Already Invited", readonly=True,
        states={
            'invisible': ~Eval('already_invited'),
            },
        help="The users who were invited within the last hour.")


class InviteTOTPStart(InvitedUsersMixin, ModelView):
    __name__ = 'res.user.invite_totp.start'
    __string__ = "Invite to Set up TOTP"


class InviteTOTPDone(InvitedUsersMixin, ModelView):
    __name__ = 'res.user.invite_totp.done'
    __string__ = "Invited to Set up TOTP"


class InviteTOTP(SelectedUsersMixin, CheckedWizard):
    "Ask the selected users by e-mail to set up TOTP"
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
        "Return the ids of the users on each list."
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
        # A client that skips Send sees no users
        return self.sent or {}
