# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The log of what happened, and the e-mails that tell the owner"

import datetime as dt
import logging
from concurrent.futures import ThreadPoolExecutor

import trytond.config as config
from trytond.i18n import gettext
from trytond.model import Index, ModelSQL, ModelView, fields
from trytond.pool import Pool
from trytond.report import get_email
from trytond.sendmail import SMTPDataManager, send_message_transactional
from trytond.tools.email_ import set_from_header
from trytond.transaction import Transaction

from . import clock, settings

logger = logging.getLogger(__name__)

_TELL_INTERVAL = dt.timedelta(hours=1)
_MAIL_TIMEOUT = 30
# Without a worker, trytond runs a task before it answers the request, and
# after a login it runs none. So that nobody waits for a mail server and each
# e-mail leaves, a thread sends them. It is a single one, so that a mail server
# that hangs takes a single connection to the database.
_MAILER = ThreadPoolExecutor(1, 'totp-mailer')


class UserTOTPEvent(ModelSQL, ModelView):
    "What happened to a user's TOTP"
    __name__ = 'res.user.totp_event'
    __string__ = "TOTP Event"

    user = fields.Many2One(
        'res.user', "User", readonly=True,
        help="Whose TOTP it happened to. Empty if the login has no TOTP.")
    time = fields.DateTime(
        "Time", required=True, readonly=True, help="When it happened.")
    kind = fields.Selection([
            ('invited', "Please set up TOTP"),
            ('set_up', "TOTP was set up"),
            ('added', "An authenticator was added"),
            ('replaced', "The TOTP key was replaced"),
            ('renamed', "An authenticator was renamed"),
            ('authenticator_removed', "An authenticator was removed"),
            ('removed', "TOTP was turned off"),
            ('reset', "TOTP was reset"),
            ('failed', "Wrong codes were entered"),
            ('replayed', "A used code was entered again"),
            ('recovery_failed', "Wrong recovery codes were entered"),
            ('recovered', "A recovery code was used"),
            ('renewed', "New recovery codes were made"),
            ('locked', "TOTP was locked"),
            ('device_locked', "TOTP was locked on known devices"),
            ('unlocked', "TOTP was unlocked"),
            ('devices_forgotten', "Remembered devices were forgotten"),
            ('resealed', "The TOTP key was sealed anew"),
            ], "Event", required=True, readonly=True, sort=False,
        help="What happened.")
    kind_string = kind.translated('kind')
    actor = fields.Many2One(
        'res.user', "Actor", readonly=True,
        help="Who was logged in and did it. Empty if it happened at a login "
        "or by the command on the server.")
    address = fields.Char(
        "Address", readonly=True,
        help="The IP address that it came from.")
    told = fields.Boolean(
        "Told", readonly=True,
        help="Checked if an e-mail about it was written to the user.")

    @classmethod
    def __setup__(cls):
        super().__setup__()
        table = cls.__table__()
        cls._order = [('time', 'DESC'), ('id', 'DESC')]
        cls._sql_indexes.update({
                Index(
                    table, (table.user, Index.Equality()),
                    (table.time, Index.Range())),
                Index(table, (table.time, Index.Range())),
                })

    def get_rec_name(self, name):
        return self.kind_string

    @classmethod
    def record(cls, users, kind, tell=True):
        """Record that it happened just now, by the user of the transaction.

        users: the users whose TOTP it happened to
        kind: a key of the field kind
        tell: whether they are told by e-mail, as soon as the transaction is
            committed, unless they were told of the same within the last hour
        """
        transaction = Transaction()
        address, _ = transaction.remote_address()
        time = clock.second(clock.now())
        # The client may have put into it what delays or misleads the e-mail
        with transaction.reset_context():
            to_tell = cls._to_tell(users, kind, time) if tell else set()
            events = cls.create([{
                        'user': user.id,
                        'time': time,
                        'kind': kind,
                        'actor': transaction.user or None,
                        'address': str(address) if address else None,
                        'told': user in to_tell,
                        } for user in users])
            if to_tell:
                cls._queue_emails([e for e in events if e.told])

    @classmethod
    def _to_tell(cls, users, kind, time):
        if kind == 'resealed':
            return set()
        told = {e.user for e in cls.search([
                    ('user', 'in', [u.id for u in users]),
                    ('kind', '=', kind),
                    ('time', '>', time - _TELL_INTERVAL),
                    # The clock may have been set back
                    ('time', '<=', time),
                    ('told', '=', True),
                    ])}
        to_tell = set()
        for user in users:
            if not user.email:
                logger.info("no address to tell user %s of TOTP", user.id)
            elif user not in told:
                to_tell.add(user)
        return to_tell

    @classmethod
    def _queue_emails(cls, events):
        transaction = Transaction()
        if config.getboolean('queue', 'worker', default=False):
            with transaction.set_user(0):
                cls.__queue__.send_emails(events)
        else:
            transaction.atexit(
                _MAILER.submit, _send_emails, transaction.database.name,
                [e.id for e in events])

    @classmethod
    def send_emails(cls, events):
        "Send the e-mails that tell the users of the events."
        from_ = config.get('email', 'from')
        # A mail server that hangs would hold up the e-mails to everybody
        uri = config.get('email', 'uri')
        if 'timeout=' not in uri:
            uri += f"{'&' if '?' in uri else '?'}timeout={_MAIL_TIMEOUT}"
        mailer = SMTPDataManager(uri)
        for event in events:
            try:
                message = event._get_email()
                set_from_header(message, from_, from_)
                # Refuses an address that is none
                message['To'] = event.user.email
            except ValueError:
                logger.error(
                    "no e-mail can be written to user %s", event.user.id)
                continue
            send_message_transactional(message, datamanager=mailer)

    def _get_email(self):
        pool = Pool()
        Lang = pool.get('ir.lang')
        cls = self.__class__
        user = self.user
        language = user.language or Lang.get()
        message, _ = get_email('res.user.totp_event.email', self, [language])
        with Transaction().set_context(language=language.code):
            subject = gettext(
                'authentication_totp.msg_totp_event_subject',
                event=cls(self.id).kind_string, login=user.login)
        # A login may hold what ends a line for an e-mail
        message['Subject'] = ' '.join(subject.split())
        return message

    @classmethod
    def clean(cls):
        "Remove the events older than the setting event_retention."
        time = clock.timestamp(clock.now()) - dt.timedelta(
            days=settings.get('event_retention'))
        cls.delete(cls.search([('time', '<', time)]))


def _send_emails(database_name, event_ids):
    with Transaction().start(database_name, 0):
        Event = Pool().get('res.user.totp_event')
        # None is left if the transaction was rolled back
        Event.send_emails(Event.search([('id', 'in', event_ids)]))
