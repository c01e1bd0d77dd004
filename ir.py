# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.i18n import gettext
from trytond.model import ModelSQL
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction, without_check_access

from .exceptions import TOTPAccessError

_PACKAGE = __name__.rpartition('.')[0]
# A user who may write other users can read the records of those users
_READABLE = {'res.user.totp_event', 'res.user.totp_token'}
_CLOSED = dict.fromkeys(['read', 'write', 'create', 'delete'], False)
# Core opens these models to every user, which would make TOTP useless
_CORE_MODELS = {
    # A task runs any method as the root user
    'ir.queue',
    'ir.session', 'ir.session.wizard', 'res.user.device',
    'res.user.login.attempt'}


class Configuration(metaclass=PoolMeta):
    __name__ = 'ir.configuration'

    def check(self):
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        User = pool.get('res.user')
        super().check()
        # Core calls check once after the database is loaded
        User.check_authentications()
        User.check_totp()
        Event.check_mailer()


class Cron(metaclass=PoolMeta):
    __name__ = 'ir.cron'

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls.method.selection.append(
            ('res.user|clean_totp', "Clean TOTP"))


class Menu(metaclass=PoolMeta):
    __name__ = 'ir.ui.menu'

    # The clients' search finds a menu entry only by its name

    @classmethod
    def search_global(cls, text):
        "Find the wizard by other words for TOTP too."
        pool = Pool()
        Wizard = pool.get('ir.action.wizard')
        found = set()
        for record, name, icon in super().search_global(text):
            found.add(record)
            yield record, name, icon
        words = gettext('authentication_totp.msg_totp_menu_words')
        if str(text).lower() in words.lower():
            wizards = Wizard.search([('wiz_name', '=', 'res.user.setup_totp')])
            for record in cls.search([
                        ('action_keywords.action', 'in',
                            [w.action.id for w in wizards]),
                        ]):
                if record not in found:
                    yield record, record.rec_name, record.icon


class ModelAccess(metaclass=PoolMeta):
    __name__ = 'ir.model.access'

    # Records of this model could not close a model to administrators in one
    # series, and deleting them would open it to everybody
    @classmethod
    def get_access(cls, models):
        access = super().get_access(models)
        closed = [m for m in models if _is_closed(m)]
        if closed:
            access = {**access, **dict.fromkeys(closed, _CLOSED)}
        if readable := _READABLE.intersection(closed):
            access.update(dict.fromkeys(readable, {
                        **_CLOSED,
                        'read': cls.get_access(
                            ['res.user'])['res.user']['write'],
                        }))
        return access


class Rule(metaclass=PoolMeta):
    __name__ = 'ir.rule'

    # In 8.2, reports of an administrator check only the rules
    @classmethod
    def domain_get(cls, model_name, mode='read'):
        if not (Transaction().check_access and _is_closed(model_name)):
            return super().domain_get(model_name, mode=mode)
        if model_name not in _READABLE:
            return [('id', 'in', [])]
        domain = super().domain_get(model_name, mode=mode)
        # A manager who may write only some users sees no records of the others
        if users := super().domain_get('res.user', mode='write'):
            domain = [
                domain,
                ['OR', ('user', '=', None), ('user', 'where', users)]]
        return domain


class RuledExportMixin:
    """A model whose records a user can export only if the rules allow reading

    Tryton itself checks an export in Python, which ignores the rules of the
    users that the records refer to.
    """
    __slots__ = ()

    @classmethod
    def export_data(cls, records, fields_names, header=False):
        cls.read([r.id for r in records], ['id'])
        return super().export_data(records, fields_names, header=header)


class UserTOTPEvent(RuledExportMixin, metaclass=PoolMeta):
    __name__ = 'res.user.totp_event'


class UserTOTPToken(RuledExportMixin, metaclass=PoolMeta):
    __name__ = 'res.user.totp_token'


def _is_closed(name):
    "Return whether this module closes the model, be it its own or core's."
    pool = Pool()
    if name in _CORE_MODELS:
        return True
    Model = pool.get(name)
    if not issubclass(Model, ModelSQL):
        return False
    definer = next(
        class_ for class_ in reversed(Model.__mro__)
        if vars(class_).get('__name__') == name)
    package, _, _ = definer.__module__.rpartition('.')
    return package == _PACKAGE


class SessionWizard(metaclass=PoolMeta):
    __name__ = 'ir.session.wizard'

    # The model is closed, but wizards reach their session with the rights of
    # the user who runs them

    @classmethod
    def create(cls, vlist):
        # A wizard passes no values, unlike other requests
        if vlist != [{}]:
            return super().create(vlist)
        with without_check_access():
            return super().create(vlist)

    @classmethod
    def read(cls, ids, fields_names):
        # Unlike wizards, HTTP routes also read the record name
        if 'rec_name' in fields_names:
            return super().read(ids, fields_names)
        cls._check_own(ids)
        with without_check_access():
            return super().read(ids, fields_names)

    @classmethod
    def write(cls, sessions, values, *args):
        cls._check_own(
            [s.id for records in (sessions, *args[::2]) for s in records])
        with without_check_access():
            super().write(sessions, values, *args)

    @classmethod
    def delete(cls, sessions):
        cls._check_own([s.id for s in sessions])
        with without_check_access():
            super().delete(sessions)

    @classmethod
    def _check_own(cls, ids):
        """Raise TOTPAccessError if another user started one of the wizards.

        ids: the ids of the sessions of the wizards
        """
        transaction = Transaction()
        # Wizards run without access checks, so the calls of the server itself
        # differ only by the root user
        if not transaction.user:
            return
        with without_check_access():
            own = cls.search([
                    ('id', 'in', ids),
                    ('create_uid', '=', transaction.user),
                    ], count=True)
        if own != len(set(ids)):
            raise TOTPAccessError(gettext(
                    'authentication_totp.msg_totp_wizard_access'))
