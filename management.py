# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"What administrators see of a user's authenticators, and do to them"

from trytond.i18n import gettext
from trytond.model import ModelView, fields
from trytond.pool import Pool, PoolMeta
from trytond.pyson import Eval, If
from trytond.tools import timezone
from trytond.transaction import Transaction, without_check_access
from trytond.wizard import Button, StateTransition, StateView, Wizard


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

    @classmethod
    def __setup__(cls):
        super().__setup__()
        for name, invisible in [
                ('open_invite_totp', Eval('totp_enabled', False)),
                ('open_remove_totp_authenticator',
                    ~Eval('totp_enabled', False)),
                ('open_reset_totp', ~Eval('totp_enabled', False)),
                ]:
            cls._buttons[name] = {
                'invisible': invisible, 'depends': ['totp_enabled']}

    @classmethod
    def view_attributes(cls):
        return [
            *super().view_attributes(),
            ('/tree', 'visual', If(Eval('totp_locked', False), 'danger', ''),
                ['totp_locked']),
            ]

    @classmethod
    def get_totp_authenticators(cls, users, name):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=fields.SQL_OPERATORS['in'](
                    table.id, [u.id for u in users])
                & cls._is_totp_visible(table)))
        described = dict.fromkeys(u.id for u in users)
        for id_, in cursor.fetchall():
            described[id_] = '\n'.join(
                line for _, line in cls(id_).describe_totp_authenticators())
        return described

    @without_check_access
    def describe_totp_authenticators(self):
        """Return the number and a line of text of each authenticator.

        It does not check who asks.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        Lang = pool.get('ir.lang')
        lang = Lang.get()

        def day(time):
            if time:
                return lang.strftime(time.replace(
                        tzinfo=timezone.UTC).astimezone(
                            timezone.SERVER).date())

        described = []
        for counter in Counter.search(
                [('user', '=', self.id)], order=[('number', 'ASC')]):
            message = 'msg_totp_authenticator_line'
            if counter.last_used:
                message = 'msg_totp_authenticator_line_used'
            described.append((counter.number, gettext(
                        f'authentication_totp.{message}',
                        name=counter.name, since=day(counter.since),
                        last_used=day(counter.last_used))))
        return described

    @classmethod
    def remove_totp_authenticator_of(cls, user, number):
        """Remove the authenticator of another user, who keeps the others.

        It takes no code, but the right to write the user. To remove the last
        one is to reset.
        Raise TOTPAccessError if it is the user of the transaction,
        TOTPSetupError if there is no such authenticator, and
        TOTPUnreadableError if no key opens the secrets.
        """
        pool = Pool()
        Counter = pool.get('res.user.totp_counter')
        cls.check_totp_management([user])
        cls.check_not_own_totp([user])
        with without_check_access():
            numbers = {c.number for c in Counter.search(
                    [('user', '=', user.id)])}
        if numbers == {number}:
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
        help="It is removed, the others stay.")

    @fields.depends('user')
    def get_authenticators(self):
        pool = Pool()
        User = pool.get('res.user')
        if not self.user:
            return []
        User.check_totp_management([self.user])
        return [
            (str(number), line)
            for number, line in self.user.describe_totp_authenticators()]


class RemoveTOTPAuthenticator(Wizard):
    "Take one of the authenticators away from the user selected"
    __name__ = 'res.user.remove_totp_authenticator'

    start = StateView(
        'res.user.remove_totp_authenticator.start',
        'authentication_totp.remove_totp_authenticator_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Remove", 'remove', 'tryton-ok'),
            ])
    remove = StateTransition()

    @classmethod
    def check_access(cls):
        pool = Pool()
        User = pool.get('res.user')
        super().check_access()
        # Also where the context names another model, or no user
        User.check_totp_management([])

    @property
    def user(self):
        pool = Pool()
        User = pool.get('res.user')
        user = User(Transaction().context.get('active_id'))
        User.check_totp_management([user])
        return user

    def default_start(self, fields):
        return {'user': self.user.id}

    def transition_remove(self):
        pool = Pool()
        User = pool.get('res.user')
        User.remove_totp_authenticator_of(
            self.user, int(self.start.authenticator))
        return 'end'
