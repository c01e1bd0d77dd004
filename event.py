# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The log of events, and the e-mails that report them to the owners"

import datetime as dt
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import trytond.config as config
from trytond import backend
from trytond.model import Index, ModelSQL, ModelView, fields
from trytond.pool import Pool
from trytond.transaction import Transaction
from trytond.url import is_secure

from . import clock, mailer, notice, settings

logger = logging.getLogger(__name__)

_TELL_INTERVAL = dt.timedelta(hours=1)
# An e-mail that takes longer counts as lost, as the server may have stopped
_TELLING_TIMEOUT = dt.timedelta(minutes=5)
# A worker retries for about a day: each delay is twice the one before
_RETRIES = 8
_RETRY_DELAY = dt.timedelta(minutes=5)
# Workers give up earlier, so no worker runs if an e-mail waits longer
_WORKER_TIMEOUT = dt.timedelta(days=2)
# A thread sends the e-mails. Without a worker, trytond runs a task before it
# answers the request, so users would wait for the mail server. After a login
# it runs no task at all, so the e-mail would be lost. A single thread opens a
# single connection, even to a mail server that hangs.
_MAILER = ThreadPoolExecutor(1, 'totp-mailer')
# Writing an e-mail takes about 10 ms of CPU time. Without the pauses, logins
# would be slow while hundreds of invitations leave.
_PORTION = 10
_PAUSE = 0.3  # seconds


class UserTOTPEvent(ModelSQL, ModelView):
    "What happened to a user's TOTP"
    __name__ = 'res.user.totp_event'
    __string__ = "TOTP Event"

    user = fields.Many2One(
        'res.user', "User", readonly=True,
        help="The user whose TOTP the event concerns. Empty if the login has "
        "no TOTP.")
    time = fields.DateTime(
        "Time", required=True, readonly=True, help="The time of the event.")
    kind = fields.Selection([
            ('invited', "Please set up TOTP"),
            ('set_up', "TOTP was set up"),
            ('added', "An authenticator was added"),
            ('replaced', "All authenticators were replaced"),
            ('renamed', "An authenticator was renamed"),
            ('authenticator_removed', "An authenticator was removed"),
            ('token_assigned', "A TOTP token was assigned"),
            ('token_withdrawn', "A TOTP token was withdrawn"),
            ('removed', "TOTP was turned off"),
            ('reset', "TOTP was reset"),
            ('failed', "Wrong codes were entered"),
            ('replayed', "A used code was entered again"),
            ('recovery_failed', "Wrong recovery codes were entered"),
            ('recovered', "A recovery code was used"),
            ('renewed', "New recovery codes were generated"),
            ('locked', "TOTP was locked"),
            ('device_locked', "TOTP was locked on known devices"),
            ('unlocked', "TOTP was unlocked"),
            ('devices_forgotten', "Remembered devices were forgotten"),
            ('resealed', "The TOTP secret was encrypted again"),
            ], "Event", required=True, readonly=True, sort=False,
        help="What happened.")
    kind_string = kind.translated('kind')
    authenticator = fields.Char(
        "Authenticator", readonly=True,
        help="The name of the authenticator that the event concerns.")
    actor = fields.Many2One(
        'res.user', "Actor", readonly=True,
        help="The user who did it. Empty if it happened at a login or "
        "through the command on the server.")
    address = fields.Char(
        "Address", readonly=True,
        help="The IP address from which it was done.")
    told = fields.Boolean(
        "Told", readonly=True,
        help="Checked once a mail server, or a queue that retries, has "
        "accepted an e-mail about the event.")
    telling = fields.Timestamp(
        "Telling", readonly=True,
        help="The time since which an e-mail about the event has been on its "
        "way.")

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
    def record(cls, users, kind, tell=True, authenticator=None):
        """Record an event for each user, with the user of the transaction as
        actor.

        users: the users whose TOTP the event concerns
        kind: a key of the field kind
        tell: whether to send an e-mail to each user once the transaction is
            committed; a user gets no second e-mail of the same kind within an
            hour
        authenticator: the name of the authenticator that the event concerns,
            if any
        """
        transaction = Transaction()
        address, _ = transaction.remote_address()
        now = clock.now()
        # Use nothing else of the request: a client can forge host and prefix
        secure = is_secure()
        # Ignore the client's context: it could delay or alter the e-mail
        with transaction.reset_context():
            untold = cls.untold(users, kind) if tell else dict.fromkeys(users)
            for user, reason in untold.items():
                if reason == 'no_email':
                    logger.info("no address to tell user %s of TOTP", user.id)
                elif reason == 'bad_email':
                    logger.error(
                        "no e-mail can be written to user %s", user.id)
            events = cls.create([{
                        'user': user.id,
                        'time': clock.second(now),
                        'kind': kind,
                        'authenticator': authenticator,
                        'actor': transaction.user or None,
                        'address': str(address) if address else None,
                        'told': user not in untold and _has_worker(),
                        'telling': (
                            clock.timestamp(now) if user not in untold
                            else None),
                        } for user in users])
            if to_tell := [e for e in events if e.telling]:
                cls._queue_emails(to_tell, secure)

    @classmethod
    def untold(cls, users, kind):
        """Return the users who would get no e-mail about such an event now.

        users, kind: the arguments of record
        Return a dictionary from each of these users to the reason:
        'no_email' if the user has no address, 'bad_email' if the address is
        invalid, 'told' if an e-mail of the same kind was sent within the last
        hour or is on its way, and None if events of the kind cause no e-mails.
        """
        if kind == 'resealed':
            return dict.fromkeys(users)
        now = clock.timestamp(clock.now())
        told = {e.user for e in cls.search([
                    ('user', 'in', [u.id for u in users]),
                    ('kind', '=', kind),
                    ('time', '>', now.replace(microsecond=0) - _TELL_INTERVAL),
                    # The clock may have been set back
                    ('time', '<=', now),
                    ['OR',
                        ('told', '=', True),
                        ('telling', '>', now - _TELLING_TIMEOUT)],
                    ])}
        untold = {}
        for user in users:
            if not user.email:
                untold[user] = 'no_email'
            elif not mailer.is_address(user.email):
                untold[user] = 'bad_email'
            elif user in told:
                untold[user] = 'told'
        return untold

    @classmethod
    def _queue_emails(cls, events, secure):
        """Send the e-mails about the events once the transaction is committed.

        secure: whether the request used https
        """
        transaction = Transaction()
        if _has_worker():
            with transaction.set_user(0):
                cls.__queue__.send_emails(events, secure=secure)
        else:
            transaction.atexit(
                _MAILER.submit, _send_emails, transaction.database.name,
                [e.id for e in events], secure)

    @classmethod
    def send_emails(cls, events, secure=False, attempt=0):
        """Send the e-mails about the events, as the task of a worker.

        secure: whether the request used https
        attempt: the number of earlier attempts
        """
        transaction = Transaction()
        retry = None
        if attempt < _RETRIES:
            # Queue the retry before sending, so that no crash loses the
            # e-mails. It must not begin before many e-mails have left.
            delay = (_RETRY_DELAY * 2 ** attempt
                + len(events) * dt.timedelta(seconds=_PAUSE))
            with transaction.set_context(queue_scheduled_at=delay):
                retry, = cls.__queue__.send_emails(
                    events, secure=secure, attempt=attempt + 1)
        # End the task's transaction before the connection to the mail server
        transaction.atexit(
            _MAILER.submit, _send_emails, transaction.database.name,
            [e.id for e in events], secure, retry)

    @classmethod
    def _write_emails(cls, ids, secure):
        """Return a dictionary from the id of each event that still needs its
        e-mail to the message.
        """
        pool = Pool()
        Email = pool.get('res.user.totp_event.email', type='report')
        messages = {}
        # No event exists if the transaction was rolled back
        for event in cls.search([
                    ('id', 'in', ids),
                    ('telling', '!=', None),
                    ('user', '!=', None)],
                order=[('id', 'ASC')]):
            try:
                messages[event.id] = Email.write(event, secure)
            except backend.DatabaseOperationalError:
                raise
            except Exception as error:
                logger.error(
                    "the e-mail to user %s cannot be written: %s: %s",
                    event.user.id, error.__class__.__name__,
                    ' '.join(str(error).split()))
        return messages

    @classmethod
    def _end_emails(cls, ids, accepted, refused, retry):
        """Store on the events whether their e-mails were accepted.

        accepted, refused: the values that mailer.send returned
        retry: the id of the task that retries the other e-mails, if any
        """
        pool = Pool()
        Queue = pool.get('ir.queue')
        done, lost, left = [], [], []
        for event in cls.search([
                    ('id', 'in', ids), ('telling', '!=', None)]):
            if event.id in accepted:
                done.append(event)
            elif event.id in refused:
                logger.error(
                    "the mail server refused the e-mail to user %s: %s",
                    event.user.id, refused[event.id])
                lost.append(event)
            else:
                left.append(event)
        if left and not retry:
            if _has_worker():
                logger.error(
                    "e-mails about TOTP given up after a day: %d", len(left))
            lost += left
        cls.write(done, {'told': True, 'telling': None})
        cls.write(lost, {'told': False, 'telling': None})
        if retry and not left:
            Queue.delete(Queue.search([
                        ('id', '=', retry), ('dequeued_at', '=', None)]))

    @classmethod
    def waiting(cls):
        """Return how many e-mails wait for a worker, and since when.

        The time is None if no e-mail waits.
        """
        # Without a worker, told is set when an e-mail no longer waits
        domain = [('told', '=', True), ('telling', '!=', None)]
        first = cls.search(domain, order=[('telling', 'ASC')], limit=1)
        return (
            cls.search(domain, count=True),
            first[0].telling if first else None)

    @classmethod
    def check_mailer(cls):
        "Log an error if the server or the worker does not send e-mails."
        count, since = cls.waiting()
        if count and since < clock.timestamp(clock.now()) - _WORKER_TIMEOUT:
            notice.tell(
                logger, "e-mails about TOTP that have waited for a worker for "
                "two days: %d", count)
        if not (_has_worker() or mailer.has_threads()):
            notice.tell(
                logger,
                "uWSGI runs no threads, so e-mails about TOTP are not sent: "
                "set enable-threads = true in its configuration")

    @classmethod
    def clean(cls):
        "Remove the events older than the setting event_retention."
        time = clock.timestamp(clock.now()) - dt.timedelta(
            days=settings.get('event_retention'))
        cls.delete(cls.search([('time', '<', time)]))


def _has_worker():
    return config.getboolean('queue', 'worker', default=False)


def _send_emails(database_name, ids, secure, retry=None):
    """Send the e-mails about the events, with no transaction open meanwhile.

    retry: the id of the task that retries them, if any
    """
    try:
        accepted, refused = mailer.send(
            _write_portions(database_name, ids, secure), len(ids))
        _transact(
            database_name, lambda Event: Event._end_emails(
                ids, accepted, refused, retry))
    except Exception:
        # The exception would be lost: no code waits for the thread's result
        logger.exception("e-mails about TOTP were not sent")


def _write_portions(database_name, ids, secure):
    """Yield what Event._write_emails returns, as pairs.

    Pause between the portions, with no transaction open meanwhile.
    """
    for start in range(0, len(ids), _PORTION):
        if start:
            time.sleep(_PAUSE)
        portion = ids[start:start + _PORTION]
        yield from _transact(
            database_name,
            lambda Event, ids=portion: Event._write_emails(ids, secure)
            ).items()


def _transact(database_name, function):
    "Call the function with the model of events, in a separate transaction."
    retry = config.getint('database', 'retry')
    for count in range(retry, -1, -1):
        try:
            with Transaction().start(database_name, 0):
                return function(Pool().get('res.user.totp_event'))
        except backend.DatabaseOperationalError:
            if not count:
                raise
            time.sleep(0.02 * (retry - count + 1))
