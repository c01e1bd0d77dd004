# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import PoolMeta


class Cron(metaclass=PoolMeta):
    __name__ = 'ir.cron'

    @classmethod
    def __setup__(cls):
        super().__setup__()
        cls.method.selection.append(
            ('res.user|clean_totp', "Clean TOTP"))


class ModelAccess(metaclass=PoolMeta):
    __name__ = 'ir.model.access'

    # Which users are administrators is told in XML by a group in one series
    # and by nothing in the other
    @classmethod
    def get_access(cls, models):
        event = 'res.user.totp_event'
        access = super().get_access(models)
        if event in access:
            access = access.copy()
            access[event] = {
                'read': cls.get_access(['res.user'])['res.user']['write'],
                'write': False,
                'create': False,
                'delete': False,
                }
        return access
