# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import smtplib
import socket
from unittest.mock import patch

from trytond.transaction import Transaction

from .mail import MailTestCase
from .tools import KEY

LOGGER = 'trytond.modules.authentication_totp'
SENT = "A used code was entered again for %s"


class DeliveryTestCase(MailTestCase):
    "Test that told means accepted by the mail server or the queue (law 7)"

    def replay(self, login):
        "Cause an event that is told to the owner"
        self.attempt(login, self.code())
        self.attempt(login, self.code(-1))
        self.now += 30

    def fail_to_send(self):
        "Send the e-mails, which must fail, and return the lines of the log"
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            self.assertEqual(self.received(), [])
        for record in logs.records:
            self.assertIsNone(record.exc_info)
        return [record.getMessage() for record in logs.records]

    def user_with_totp(self):
        login, user_id = self.user(KEY)
        self.received()
        return login, user_id

    def test_accepted(self):
        "Test that the owner is told once the mail server has the e-mail"
        login, user_id = self.user_with_totp()
        self.replay(login)
        self.assertEqual(self.told(user_id, kind='replayed'), [False])
        self.assertEqual(self.received(), [SENT % login])
        self.assertEqual(self.told(user_id, kind='replayed'), [True])

    def test_down(self):
        "Test that an unsent e-mail does not block the next one"
        login, user_id = self.user_with_totp()
        self.stop_server()
        self.replay(login)
        line, = self.fail_to_send()
        self.assertRegex(line, "not accepted: 1 .*refused")
        self.assertEqual(self.told(user_id, kind='replayed'), [False])
        self.start_server()
        self.replay(login)
        self.assertEqual(self.received(), [SENT % login])
        self.assertEqual(self.told(user_id, kind='replayed'), [True])

    def test_down_for_many(self):
        "Test that an unreachable server is one log line, without a password"
        self.set_config('email', 'uri', 'smtp://me:hunter2@127.0.0.1:1')
        users = [self.user()[1] for _ in range(20)]
        self.invite(*users)
        line, = self.fail_to_send()
        self.assertNotIn('hunter2', line)
        self.assertEqual(self.told(*users), [False] * 20)

    def test_many(self):
        "Test the pauses, without a transaction, while many e-mails leave"
        users = [self.user()[1] for _ in range(25)]
        self.invite(*users)
        sent = []

        def pause(seconds):
            self.assertGreater(seconds, 0)
            self.assertIsNone(Transaction().connection)
            sent.append(len(self.inbox.messages))
        with patch(
                'trytond.modules.authentication_totp.event.time.sleep', pause):
            self.assertEqual(len(self.received()), 25)
        self.assertEqual(sent, [10, 20])
        self.assertEqual(self.told(*users), [True] * 25)

    def test_wrong_uri(self):
        "Test that the log contains no part of the password of a wrong URI"
        for uri in [
                'smtp://me:hunter2#x@127.0.0.1:25', 'smtp://me:hunter2',
                'smtp://me:hunter2@127.0.0.1:1?timeout=hunter2',
                'smtp://me@127.0.0.1:hunter2/']:
            with self.subTest(uri=uri):
                self.set_config('email', 'uri', uri)
                _, user_id = self.user()
                self.invite(user_id)
                self.assertNotIn('hunter2', ' '.join(self.fail_to_send()))
                self.assertEqual(self.told(user_id), [False])

    def test_refused(self):
        "Test that a bad address stops only its own e-mail"
        for answer in ['550 no such user', '451 come back later']:
            with self.subTest(answer=answer):
                logins, users = zip(
                    *(self.user() for _ in range(5)), strict=True)
                for login in logins[::2]:
                    self.inbox.answers[f'{login}@example.com'] = answer
                self.invite(*users)
                with self.assertLogs(LOGGER, 'ERROR') as logs:
                    self.received()
                self.assertIn(answer, logs.output[0])
                self.assertEqual(
                    [m['To'] for m in self.messages],
                    [f'{login}@example.com' for login in logins[1::2]])
                self.assertEqual(
                    self.told(*users), [False, True, False, True, False])

    def test_connection_ends(self):
        "Test a mail server that accepts only two e-mails per connection"
        users = [self.user()[1] for _ in range(5)]
        self.invite(*users)
        handle = self.inbox.handle_DATA

        async def limited(server, session, envelope):
            session.count = getattr(session, 'count', 0) + 1
            if session.count > 2:
                return '421 enough'
            return await handle(server, session, envelope)
        with patch.object(self.inbox, 'handle_DATA', limited):
            self.assertEqual(len(self.received()), 5)
        self.assertEqual(self.told(*users), [True] * 5)

    def test_hanging(self):
        "Test that a hanging e-mail does not count as told"
        server = socket.create_server(('127.0.0.1', 0))
        self.addCleanup(server.close)
        _, port = server.getsockname()
        login, user_id = self.user_with_totp()
        uri = f'smtp://127.0.0.1:{self.server.port}'
        self.set_config('email', 'uri', f'smtp://127.0.0.1:{port}?timeout=1')
        self.replay(login)
        self.replay(login)
        # The second event sends nothing until the first e-mail has a result
        self.assertEqual(self.mailer.submit.call_count, 1)
        self.fail_to_send()
        self.assertEqual(self.told(user_id, kind='replayed'), [False])
        self.set_config('email', 'uri', uri)
        self.replay(login)
        self.assertEqual(self.received(), [SENT % login])

    def test_crash(self):
        "Test that a server crash blocks the next e-mail for minutes only"
        login, user_id = self.user_with_totp()
        self.replay(login)
        self.mailer.reset_mock()
        self.now += 120
        self.replay(login)
        self.assertEqual(self.received(), [])
        self.now += 300
        self.replay(login)
        self.assertEqual(self.received(), [SENT % login])

    def test_transaction(self):
        "Test that no transaction is open while the mail server is in use"
        login, _ = self.user_with_totp()
        send = smtplib.SMTP.send_message
        connections = []

        def send_message(*args, **kwargs):
            connections.append(Transaction().connection)
            return send(*args, **kwargs)
        with patch('smtplib.SMTP.send_message', send_message):
            for worker in ['False', 'True']:
                self.set_config('queue', 'worker', worker)
                self.replay(login)
                self.run_tasks()
                self.assertEqual(self.received(), [SENT % login])
                self.now += 3600
        self.assertEqual(connections, [None, None])

    def worker_user(self):
        login, user_id = self.user_with_totp()
        self.set_config('queue', 'worker', 'True')
        self.replay(login)
        return login, user_id

    def test_worker(self):
        "Test that a queued e-mail counts as told"
        login, user_id = self.worker_user()
        self.assertEqual(self.told(user_id, kind='replayed'), [True])
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % login])
        self.assertEqual(self.tasks(), [])
        self.assertEqual(self.told(user_id, kind='replayed'), [True])

    def test_worker_down(self):
        "Test that a worker tries again later, and sends one e-mail"
        login, user_id = self.worker_user()
        self.stop_server()
        for _ in range(3):
            self.run_tasks()
            self.fail_to_send()
            self.assertEqual(len(self.tasks()), 1)
            self.assertEqual(self.told(user_id, kind='replayed'), [True])
        # The next event within the hour sends no e-mail either
        self.replay(login)
        self.assertEqual(len(self.tasks()), 1)
        self.start_server()
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % login])
        self.assertEqual(self.tasks(), [])

    def test_worker_gives_up(self):
        "Test that a worker tries again for a day, with growing delays"
        login, user_id = self.worker_user()
        self.stop_server()
        delays = []
        while tasks := self.tasks():
            (_, delay), = tasks
            delays.append(delay or dt.timedelta())
            self.assertEqual(self.told(user_id, kind='replayed'), [True])
            self.run_tasks()
            lines = self.fail_to_send()
        self.assertEqual(
            lines[-1], "e-mails about TOTP given up after a day: 1")
        self.assertEqual(self.told(user_id, kind='replayed'), [False])
        self.assertEqual(delays, sorted(delays))
        day = sum(delays, dt.timedelta())
        self.assertLess(dt.timedelta(hours=18), day)
        self.assertLess(day, dt.timedelta(hours=30))
        self.start_server()
        self.replay(login)
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % login])

    def test_worker_refused(self):
        "Test that a worker does not send again after a permanent refusal"
        login, user_id = self.user_with_totp()
        other, other_id = self.user_with_totp()
        self.set_config('queue', 'worker', 'True')
        self.inbox.answers[f'{login}@example.com'] = '550 no such user'
        self.inbox.answers[f'{other}@example.com'] = '451 come back later'
        for name in [login, other]:
            self.replay(name)
        self.run_tasks()
        self.fail_to_send()
        self.assertEqual(
            self.told(user_id, other_id, kind='replayed'), [False, True])
        self.assertEqual(len(self.tasks()), 1)
        self.inbox.answers.clear()
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % other])
        self.assertEqual(self.tasks(), [])

    def test_worker_crash(self):
        "Test that a worker that crashes loses no e-mail"
        login, _ = self.worker_user()
        self.run_tasks()
        self.mailer.reset_mock()
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % login])
        self.run_tasks()
        self.assertEqual(self.received(), [])

    def test_worker_missing(self):
        "Test that the log says at start that no worker sends the e-mails"
        login, _ = self.worker_user()
        for is_told in [False, True]:
            self.now += 24 * 3600 + 1
            # Make at least one line, which assertLogs requires
            self.set_config('session', 'authentications', 'topt')
            with self.assertLogs(LOGGER, 'ERROR') as logs:
                self.load()
            self.assertEqual(
                "e-mails about TOTP that have waited for a worker for two "
                "days: 1" in ' '.join(logs.output), is_told)
        self.run_tasks()
        self.assertEqual(self.received(), [SENT % login])

    def test_uwsgi(self):
        "Test that the log says at start if e-mails cannot be sent under uWSGI"
        for has_threads in [0, 1]:
            uwsgi = type('uwsgi', (), {'has_threads': has_threads})
            # Make at least one line, which assertLogs requires
            self.set_config('session', 'authentications', 'topt')
            with patch.dict('sys.modules', {'uwsgi': uwsgi}), \
                    self.assertLogs(LOGGER, 'ERROR') as logs:
                self.load()
            self.assertEqual(
                'enable-threads' in ' '.join(logs.output), not has_threads)
