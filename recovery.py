# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The recovery codes of a user"

from sql.aggregate import Count

from trytond.i18n import gettext
from trytond.model import Index, ModelSQL, fields
from trytond.pool import Pool, PoolMeta
from trytond.transaction import Transaction, without_check_access

from . import clock, settings, totp
from .afterwards import after_transaction

# The user is told when no more codes than this are left
_FEW = 3


class UserTOTPRecoveryCode(ModelSQL):
    "A recovery code that has not been used yet"
    __name__ = 'res.user.totp_recovery_code'
    __string__ = "TOTP Recovery Code"

    user = fields.Integer("User", required=True)
    hash = fields.Char("Hash", required=True, strip=False)

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._sql_indexes.add(
            Index(
                table, (table.user, Index.Equality()),
                (table.hash, Index.Equality(cardinality='high'))))

    @classmethod
    @without_check_access
    def renew(cls, user_id):
        "Return new recovery codes of the user, which replace the old ones."
        cls.clear([user_id])
        cls._drop_notification(user_id)
        codes = [
            totp.new_recovery_code()
            for _ in range(settings.get('recovery_codes'))]
        cls.create([{
                    'user': user_id,
                    'hash': totp.hash_recovery_code(code),
                    } for code in codes])
        return codes

    @classmethod
    def clear(cls, user_ids):
        "Remove the recovery codes of the users."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(
                where=fields.SQL_OPERATORS['in'](table.user, user_ids)))

    @classmethod
    def count(cls, user_ids):
        "Return for each user how many recovery codes are left."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        counts = dict.fromkeys(user_ids, 0)
        cursor.execute(*table.select(
                table.user, Count(table.id),
                where=fields.SQL_OPERATORS['in'](table.user, user_ids),
                group_by=table.user))
        counts.update(cursor)
        return counts

    @classmethod
    def find(cls, user_id, hash_):
        "Return the id of the user's recovery code with the hash, or None."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(
                table.id,
                where=(table.user == user_id) & (table.hash == hash_)))
        row = cursor.fetchone()
        return row[0] if row else None

    @classmethod
    def use(cls, id_):
        "Delete the recovery code, and return the cursor with its row count."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.delete(where=table.id == id_))
        return cursor

    @classmethod
    def is_used(cls, id_):
        "Return whether the recovery code is no longer there."
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        cursor.execute(*table.select(table.id, where=table.id == id_))
        return not cursor.fetchone()

    @classmethod
    @without_check_access
    def tell(cls, user_id):
        "Tell the user that a recovery code was used, and if few are left."
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Notification = pool.get('res.notification')
        User = pool.get('res.user')
        user = User(user_id)
        Event.record([user], 'recovered')
        cls._drop_notification(user_id)
        left = cls.count([user_id])[user_id]
        if left <= _FEW:
            language = user.language.code if user.language else None
            with Transaction().set_context(language=language):
                Notification.create([{
                            'user': user_id,
                            'label': gettext(
                                'authentication_totp'
                                '.msg_totp_few_recovery_codes', left=left),
                            'icon': 'tryton-warning',
                            'action': cls._get_action(),
                            # Without it the clients do not open the wizard
                            'action_value': '{}',
                            }])

    @classmethod
    def _drop_notification(cls, user_id):
        "Delete the notification that few recovery codes are left."
        pool = Pool()
        Notification = pool.get('res.notification')
        notifications = Notification.search([
                ('user', '=', user_id),
                ('action', '=', cls._get_action()),
                ])
        # Tryton fails to delete an empty list
        if notifications:
            Notification.delete(notifications)

    @classmethod
    def _get_action(cls):
        "Return the id of the action that makes new recovery codes."
        pool = Pool()
        Action = pool.get('ir.action')
        ModelData = pool.get('ir.model.data')
        return Action.get_action_id(
            ModelData.get_id('authentication_totp', 'wizard_setup_totp'))


class UserTOTPGuess(metaclass=PoolMeta):
    "The count of wrong recovery codes"
    __name__ = 'res.user.totp_guess'

    @classmethod
    def fail_recovery(cls, failures, silent):
        """Count a wrong recovery code, as soon as the transaction has ended.

        Wrong recovery codes cause no delay. If the transaction of the login
        counted them, parallel ones would end in serialization failures.

        failures: the Failures, which are not changed
        silent: as for record
        """
        after_transaction(cls._count_recovery, failures.user, silent)

    @classmethod
    def _count_recovery(cls, user_id, silent):
        table = cls.__table__()
        cursor = Transaction().connection.cursor()
        where = (table.user == user_id) & cls._is_recovery(table)
        columns = [
            table.user, table.kind, table.failures, table.consecutive]
        update = table.update(
            [table.failures, table.consecutive, table.failed],
            [table.failures + 1, table.consecutive + 1, float(clock.now())],
            where=where)
        if Transaction().database.has_returning():
            update.returning = columns
            cursor.execute(*update)
        else:
            cursor.execute(*update)
            cursor.execute(*table.select(*columns, where=where))
        for row in cursor.fetchall():
            cls.record(cls.failures_of(row), 0, silent)

    @classmethod
    def unlock_by_recovery(cls, user_id, code):
        """Forget the failures of the user after a right recovery code.

        Wrong recovery codes are forgotten only after the transaction, and only
        if it has used up the code, because others may be counted meanwhile.

        code: the id of the recovery code
        """
        cls.unlock_codes(user_id)
        after_transaction(cls._forget_recovery, user_id, code)

    @classmethod
    def _forget_recovery(cls, user_id, code):
        pool = Pool()
        RecoveryCode = pool.get('res.user.totp_recovery_code')
        table = cls.__table__()
        if RecoveryCode.is_used(code):
            cls._forget(
                table, (table.user == user_id) & cls._is_recovery(table))

    @classmethod
    def _is_recovery(cls, table):
        return table.kind == cls.kind_of(recovery=True, known_device=False)
