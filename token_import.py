# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The wizards with which administrators manage hardware tokens"

import logging

from trytond.i18n import gettext
from trytond.model import ModelSQL, ModelView, fields
from trytond.pool import Pool
from trytond.pyson import Eval
from trytond.transaction import Transaction
from trytond.wizard import Button, StateTransition, StateView

from . import clock, seal, settings, tokenfile, totp
from .checked import CheckedWizard, ForgetfulWizard
from .exceptions import TOTPTokenError

logger = logging.getLogger(__name__)

_TOKEN = 'res.user.totp_token'
# The purpose that the sealed texts are bound to
_FILE = 'token file'


class UserTOTPTokenFile(ModelSQL):
    """The tokens that a wizard has read from a file and not imported yet

    The wizard cannot keep them: its session is stored unencrypted.
    """
    __name__ = 'res.user.totp_token_file'
    __string__ = "TOTP Token File"

    user = fields.Integer("User", required=True)
    session = fields.Integer("Session", required=True)
    # In seconds since the epoch
    expire = fields.Float("Expire", required=True)
    content = fields.Text("Content", required=True)

    @classmethod
    def _place(cls, session_id):
        return {
            'owner': Transaction().user, 'purpose': _FILE,
            'generation': session_id}

    @classmethod
    def put(cls, session_id, secrets):
        """Store the tokens until they are imported.

        session_id: the id of the wizard's session
        secrets: a list of pairs, the serial number and the Secret of each
            token
        """
        user_id = Transaction().user
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(where=table.user == user_id))
        expire = float(clock.now() + settings.get('setup_timeout'))
        cursor.execute(*table.insert(
                [table.user, table.session, table.expire, table.content],
                [[
                        user_id, session_id, expire,
                        seal.seal(
                            [[serial, secret.values]
                                for serial, secret in secrets],
                            settings.get('encryption_keys'), clock.now(),
                            **cls._place(session_id))]]))

    @classmethod
    def take(cls, session_id):
        """Return the tokens that put has stored, and delete them.

        session_id: the id of the wizard's session
        Raise TOTPTokenError if they are no longer stored.
        """
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.content,
                where=(table.user == Transaction().user)
                & (table.session == session_id)
                & (table.expire > clock.now())))
        for content, in cursor.fetchall():
            try:
                values, _ = seal.unseal(
                    content, settings.get('encryption_keys'),
                    **cls._place(session_id))
                secrets = [
                    (serial, totp.Secret.from_values(v))
                    for serial, v in values]
            except (TypeError, ValueError):
                logger.error(
                    "unreadable file of TOTP tokens of user %s",
                    Transaction().user)
                continue
            cls.drop(session_id)
            return secrets
        raise TOTPTokenError(
            gettext('authentication_totp.msg_totp_token_file_expired'))

    @classmethod
    def drop(cls, session_id):
        "Delete the tokens that the wizard has stored."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(
                where=(table.user == Transaction().user)
                & (table.session == session_id)))

    @classmethod
    def clean(cls):
        "Delete the tokens that were not imported in time."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(where=table.expire <= clock.now()))

    @classmethod
    def clear(cls):
        "Delete the tokens of all files, which then have to be read again."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete())


class ManagersMixin:
    "A wizard for users who may write other users"

    @classmethod
    def check_access(cls):
        pool = Pool()
        User = pool.get('res.user')
        # The default check would refuse everybody: it asks for write access to
        # the tokens, which only these wizards write
        with Transaction().set_context(active_model=None):
            super().check_access()
        User.check_totp_management([])


class ImportTOTPTokensStart(ModelView):
    __name__ = 'res.user.import_totp_tokens.start'
    __string__ = "Import TOTP Tokens"

    # Trytond's debug log redacts values whose names contain "token",
    # "password" or "secret"
    token_file = fields.Binary(
        "File", filename='token_file_name', required=True,
        help="A CSV or PSKC file from the manufacturer of the tokens.")
    token_file_name = fields.Char(
        "File Name",
        states={
            'invisible': True,
            })
    password = fields.Char(
        "Passphrase", strip=False,
        help="The passphrase that the manufacturer sent for a PSKC file.")
    secret_key = fields.Char(
        "Pre-Shared Key",
        help="The key that the manufacturer sent for a PSKC file, in "
        "hexadecimal.")


class ImportTOTPTokensLine(ModelView):
    __name__ = 'res.user.import_totp_tokens.line'
    __string__ = "TOTP Token of a File"

    line = fields.Integer("Line", readonly=True)
    serial = fields.Char("Serial Number", readonly=True)
    algorithm = fields.Char("Algorithm", readonly=True)
    digits = fields.Integer("Digits", readonly=True)
    period = fields.Integer("Period", readonly=True)
    reason = fields.Char("Reason", readonly=True)


class ImportTOTPTokensPreview(ModelView):
    __name__ = 'res.user.import_totp_tokens.preview'
    __string__ = "Import TOTP Tokens"

    refusals = fields.Integer(
        "Refused", readonly=True,
        help="The number of tokens in the file that cannot be imported.")
    imports = fields.Integer(
        "To Import", readonly=True,
        help="The number of tokens in the file that can be imported.")
    refused = fields.One2Many(
        'res.user.import_totp_tokens.line', None, "Refused", readonly=True,
        states={
            'invisible': ~Eval('refusals', 0),
            })
    accepted = fields.One2Many(
        'res.user.import_totp_tokens.line', None, "To Import", readonly=True,
        states={
            'invisible': ~Eval('imports', 0),
            })


class ImportTOTPTokensDone(ModelView):
    __name__ = 'res.user.import_totp_tokens.done'
    __string__ = "Import TOTP Tokens"

    imported = fields.Integer("Imported", readonly=True)


class ImportTOTPTokens(ManagersMixin, ForgetfulWizard):
    "Import hardware tokens from a file"
    __name__ = 'res.user.import_totp_tokens'

    start = StateView(
        'res.user.import_totp_tokens.start',
        'authentication_totp.import_totp_tokens_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Read", 'check', 'tryton-forward', default=True),
            ])
    check = StateTransition()
    preview = StateView(
        'res.user.import_totp_tokens.preview',
        'authentication_totp.import_totp_tokens_preview_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Back", 'start', 'tryton-back'),
            Button(
                "Import", 'store', 'tryton-ok', default=True,
                states={
                    'invisible': ~Eval('imports', 0),
                    }),
            ])
    store = StateTransition()
    done = StateView(
        'res.user.import_totp_tokens.done',
        'authentication_totp.import_totp_tokens_done_view_form', [
            Button("Close", 'end', 'tryton-close', default=True),
            ])

    tokens = ()
    imported = 0

    def transition_check(self):
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        data = self.start.token_file
        if not isinstance(data, (bytes, bytearray)):
            data = b''
        try:
            tokens = tokenfile.read(
                bytes(data), clock.now(),
                passphrase=str(self.start.password or ''),
                key=str(self.start.secret_key or ''))
        except tokenfile.TokenFileError as error:
            raise TOTPTokenError(gettext(
                    f'authentication_totp.{error.message}', **error.values)
                ) from None
        self.tokens = list(self._refuse_known(tokens))
        File.put(
            self._session_id,
            [(t.serial, t.secret) for t in self.tokens if t.secret])
        return 'preview'

    def _refuse_known(self, tokens):
        pool = Pool()
        Token = pool.get(_TOKEN)
        known = Token.known([t.serial for t in tokens if t.secret])
        for token in tokens:
            if token.secret and token.serial in known:
                token = token._replace(
                    secret=None, refusal='msg_totp_token_known')
            yield token

    def default_preview(self, fields):
        accepted = [
            {
                'line': token.line,
                'serial': token.serial,
                'algorithm': token.secret.algorithm.upper().replace(
                    'SHA', 'SHA-'),
                'digits': token.secret.digits,
                'period': token.secret.period,
                } for token in self.tokens if token.secret]
        refused = [
            {
                'line': token.line,
                'serial': token.serial,
                'reason': gettext(
                    f'authentication_totp.{token.refusal}', **token.values),
                } for token in self.tokens if not token.secret]
        return {
            'imports': len(accepted),
            'refusals': len(refused),
            'accepted': accepted,
            'refused': refused,
            }

    def transition_store(self):
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        Token = pool.get(_TOKEN)
        secrets = File.take(self._session_id)
        self.imported = Token.store(secrets)
        if self.imported != len(secrets):
            raise TOTPTokenError(
                gettext('authentication_totp.msg_totp_token_file_expired'))
        return 'done'

    def default_done(self, fields):
        return {'imported': self.imported}

    def end(self):
        pool = Pool()
        File = pool.get('res.user.totp_token_file')
        File.drop(self._session_id)
        return 'reload'


class TOTPTokenSelection(ModelView):
    __name__ = 'res.user.totp_token.selection'
    __string__ = "TOTP Tokens"

    tokens = fields.Many2Many(_TOKEN, None, None, "Tokens", readonly=True)


class AssignTOTPTokenStart(ModelView):
    __name__ = 'res.user.assign_totp_token.start'
    __string__ = "Assign TOTP Token"

    tokens = fields.Many2Many(_TOKEN, None, None, "Tokens", readonly=True)
    user = fields.Many2One(
        'res.user', "User", required=True,
        help="The user who receives the token and confirms it with a code.")


class SelectedTokensMixin(ManagersMixin):
    "A wizard that acts on the selected tokens"

    @property
    def tokens(self):
        pool = Pool()
        Token = pool.get(_TOKEN)
        context = Transaction().context
        if context.get('active_model') != _TOKEN:
            return []
        return Token.search([('id', 'in', context.get('active_ids') or [])])

    def default_start(self, fields):
        return {'tokens': [t.id for t in self.tokens]}

    def end(self):
        return 'reload'


class AssignTOTPToken(SelectedTokensMixin, CheckedWizard):
    "Assign the selected tokens to a user"
    __name__ = 'res.user.assign_totp_token'

    start = StateView(
        'res.user.assign_totp_token.start',
        'authentication_totp.assign_totp_token_start_view_form', [
            Button("Cancel", 'end', 'tryton-cancel'),
            Button("Assign", 'assign', 'tryton-ok', default=True),
            ])
    assign = StateTransition()

    def transition_assign(self):
        pool = Pool()
        Token = pool.get(_TOKEN)
        if self.start.user:
            Token.assign(self.tokens, self.start.user)
        return 'end'


class TakeBackTOTPToken(SelectedTokensMixin, CheckedWizard):
    "Take the selected tokens back from their users"
    __name__ = 'res.user.take_back_totp_token'

    start = StateView(
        'res.user.totp_token.selection',
        'authentication_totp.take_back_totp_token_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Take Back", 'take_back', 'tryton-ok'),
            ])
    take_back = StateTransition()

    def transition_take_back(self):
        pool = Pool()
        Token = pool.get(_TOKEN)
        Token.take_back(self.tokens)
        return 'end'


class LoseTOTPToken(SelectedTokensMixin, CheckedWizard):
    "Mark the selected tokens as lost"
    __name__ = 'res.user.lose_totp_token'

    start = StateView(
        'res.user.totp_token.selection',
        'authentication_totp.lose_totp_token_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Mark as Lost", 'lose', 'tryton-ok'),
            ])
    lose = StateTransition()

    def transition_lose(self):
        pool = Pool()
        Token = pool.get(_TOKEN)
        Token.lose(self.tokens)
        return 'end'


class DiscardTOTPToken(SelectedTokensMixin, CheckedWizard):
    "Delete the selected tokens"
    __name__ = 'res.user.discard_totp_token'

    start = StateView(
        'res.user.totp_token.selection',
        'authentication_totp.discard_totp_token_view_form', [
            Button("Cancel", 'end', 'tryton-cancel', default=True),
            Button("Delete", 'discard', 'tryton-ok'),
            ])
    discard = StateTransition()

    def transition_discard(self):
        pool = Pool()
        Token = pool.get(_TOKEN)
        Token.discard(self.tokens)
        return 'end'
