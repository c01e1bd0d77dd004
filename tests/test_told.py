# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import threading
import unittest
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

from cryptography.fernet import Fernet

from trytond import backend
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.worker import run_task

from .mail import MailTestCase
from .tools import (
    ADDRESS, KEY, OTHER_KEY, PASSWORD, RPC, Refused, right_code)


class ToldTestCase(MailTestCase):
    "Test which events are recorded, and which are told to the owner (law 7)"

    def test_set_up(self):
        "Test that the owner is told of a setup and of a replacement"
        login, user_id = self.user()
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        session_id, shown = rpc.start_setup()
        rpc.confirm_setup(
            session_id, shown, code=right_code(shown['secret'], self.now))
        self.assertEqual(self.received(), [f"TOTP was set up for {login}"])
        message, = self.messages
        self.assertEqual(message['To'], f'{login}@example.com')
        self.assertEqual(message['From'], 'tryton@example.com')
        text = self.text()
        for part in [
                "From now on you need a code", login, ADDRESS,
                "05/18/2033 03:33:20 UTC", "Authenticator",
                "If you did not expect this"]:
            self.assertIn(part, text)
        self.assertNotIn(shown['secret'], text)
        self.assertNotIn(shown['secret'].replace(' ', ''), text)

        # The setup has ended the session
        self.now += 30
        rpc.session = None
        rpc.login(login, password=PASSWORD)
        session_id, new = rpc.start_setup(
            right_code(shown['secret'], self.now))
        rpc.confirm_setup(
            session_id, new, code=right_code(new['secret'], self.now))
        self.assertEqual(
            self.received(), [f"All authenticators were replaced for {login}"])
        self.assertIn("you were logged out everywhere", self.text())
        self.assertEqual(self.events(user_id), ['set_up', 'replaced'])

    def test_failed(self):
        "Test that the owner is told of three wrong codes"
        login, user_id = self.user(KEY)
        self.received()
        self.guess(login, 2)
        self.assertEqual(self.received(), [])
        self.guess(login, 1)
        self.assertEqual(
            self.received(), [f"Wrong codes were entered for {login}"])
        self.assertIn(ADDRESS, self.text())
        self.assertIn(
            "If this was not you, somebody may know your password: Change "
            "your password.", self.text())
        # Neither codes during a delay nor later wrong codes are told
        for _ in range(10):
            self.guess(login, 2)
            self.now += 3600
        self.assertEqual(self.received(), [])
        self.assertEqual(self.events(user_id), ['set_up', 'failed'])

    def test_failed_in_wizard(self):
        "Test that wrong codes in the wizard are told too"
        login, user_id = self.user(KEY)
        self.received()
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        for _ in range(3):
            with self.assertRaises(Refused):
                rpc.start_setup(self.code(95))
        self.assertEqual(
            self.received(), [f"Wrong codes were entered for {login}"])
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            event, = Event.search([
                    ('user', '=', user_id), ('kind', '=', 'failed')])
            self.assertEqual(event.actor.id, user_id)
            self.assertEqual(event.address, ADDRESS)

    def test_failed_first(self):
        "Test that an attacker without the password causes no e-mail"
        login, user_id = self.user(KEY)
        self.received()
        self.set_config('session', 'authentications', 'totp+password')
        self.guess(login, 3)
        self.assertEqual(self.events(user_id), ['set_up', 'failed'])
        self.assertEqual(self.received(), [])

    def test_replayed(self):
        "Test that the owner is told of a used code"
        login, user_id = self.user(KEY)
        self.received()
        code = self.code()
        self.assertEqual(self.attempt(login, code), user_id)
        self.assertEqual(self.received(), [])
        # The authenticator already shows another code
        self.now += 60
        self.assertIsNone(self.attempt(login, code))
        self.assertEqual(
            self.received(), [f"A used code was entered again for {login}"])
        self.assertIn("It was refused", self.text())
        self.assertEqual(self.events(user_id), ['set_up', 'replayed'])

    def test_locked(self):
        "Test that the owner is told once of the lockout, and can still log in"
        login, user_id = self.user(KEY)
        with self.transaction(user_id):
            cookie = Pool().get('res.user.device').renew(None)
        admin, admin_id = self.user(administrator=True)
        self.received()
        self.lock(login)
        self.guess(login, 10)
        self.assertEqual(self.received(), [
                f"Wrong codes were entered for {login}",
                f"TOTP was locked for {login}"])
        self.assertEqual(
            self.attempt(login, self.code(), device_cookie=cookie), user_id)

        rpc = RPC()
        self.set_config('session', 'authentications', 'password')
        rpc.login(admin, password=PASSWORD)
        rpc.model('res.user', 'unlock_totp', [user_id])
        self.assertEqual(
            self.received(), [f"TOTP was unlocked for {login}"])
        self.assertIn(f"By {admin}", self.text())
        with self.assertRaises(Refused):
            rpc.model('res.user', 'unlock_totp', [user_id])
        self.set_config('session', 'authentications', 'password+totp')
        self.now += 30
        self.assertEqual(self.attempt(login, self.code()), user_id)
        self.assertEqual(
            self.events(user_id), ['set_up', 'failed', 'locked', 'unlocked'])

    def run_wizard(self, rpc, name, state, **context):
        prefix = f'wizard.res.user.{name}'
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        rpc.call(f'{prefix}.execute', session_id, {}, state, context)

    def test_recovered(self):
        "Test that the owner is told of a used recovery code, and of new ones"
        login, user_id = self.user(KEY)
        with self.transaction():
            RecoveryCode = Pool().get('res.user.totp_recovery_code')
            codes = RecoveryCode.renew(user_id)
        self.received()
        self.assertEqual(self.attempt(login, codes[0]), user_id)
        self.assertEqual(
            self.received(), [f"A recovery code was used for {login}"])
        text = self.text()
        for part in [
                "Recovery codes left: 9", ADDRESS,
                "If you did not expect this"]:
            self.assertIn(part, text)

        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(login, password=PASSWORD)
        rpc.overview('renew', code=self.code())
        self.assertEqual(
            self.received(),
            [f"New recovery codes were generated for {login}"])
        self.assertIn("If you did not expect this", self.text())

    def test_taken_away(self):
        "Test that the owner is told that TOTP was turned off or reset"
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        self.received()
        self.set_config('session', 'authentications', 'password')
        rpc, admin_rpc = RPC(), RPC()
        rpc.login(login, password=PASSWORD)
        admin_rpc.login(admin, password=PASSWORD)
        rpc.turn_off(self.code())
        self.assertEqual(
            self.received(), [f"TOTP was turned off for {login}"])
        self.assertIn("If you did not expect this", self.text())

        with self.transaction():
            Pool().get('res.user')(user_id).set_totp_key(KEY)
        self.now += 3600
        self.received()
        self.run_wizard(
            admin_rpc, 'reset_totp', 'reset', active_model='res.user',
            active_id=user_id, active_ids=[user_id])
        self.assertEqual(self.received(), [f"TOTP was reset for {login}"])
        self.assertIn(f"By {admin}", self.text())
        self.assertIn("If you did not ask for this", self.text())

    def test_hour(self):
        "Test that each kind causes at most one e-mail an hour"
        login, user_id = self.user(KEY)
        self.received()
        times = []
        for _ in range(200):
            self.assertEqual(self.attempt(login, self.code()), user_id)
            self.assertIsNone(self.attempt(login, self.code(-1)))
            if self.received():
                times.append(self.now)
            self.now += 60
        self.assertEqual(len(times), 4)
        for before, after in zip(times, times[1:], strict=False):
            self.assertEqual(after - before, 3600)
        self.assertEqual(self.events(user_id).count('replayed'), 200)

    def test_clock_back(self):
        "Test that e-mails continue after the clock is set back"
        login, user_id = self.user(KEY)
        self.attempt(login, self.code())
        self.attempt(login, self.code(-1))
        self.received()
        self.now -= 10 ** 6
        self.guess(login, 2)
        self.assertEqual(
            self.received(), [f"Wrong codes were entered for {login}"])
        self.now -= 10 ** 6
        with self.transaction():
            Pool().get('res.user')(user_id).unlock_totp()
        self.received()
        self.guess(login, 3)
        self.assertEqual(
            self.received(), [f"Wrong codes were entered for {login}"])

    def test_language(self):
        "Test that the e-mail is in the language of the user"
        login, user_id = self.user(KEY)
        self.received()
        with self.transaction():
            pool = Pool()
            User = pool.get('res.user')
            Lang = pool.get('ir.lang')
            Translation = pool.get('ir.translation')
            language, = Lang.search([('code', '=', 'de')])
            Lang.write([language], {'translatable': True})
            User.write([User(user_id)], {'language': language.id})
            message = pool.get('ir.model.data').get_id(
                'authentication_totp', 'msg_totp_email_account')
            Translation.create([{
                        'lang': 'de', 'type': type_, 'name': name,
                        'src': source, 'value': value, 'fuzzy': False,
                        'module': 'authentication_totp', **record,
                        } for type_, name, record, source, value in [
                        ('selection', 'res.user.totp_event,kind', {},
                            "A used code was entered again", "KODE"),
                        ('model', 'ir.message,text', {'res_id': message},
                            "Account", "KONTO")]])
        self.attempt(login, self.code())
        self.attempt(login, self.code(-1))
        self.assertEqual(self.received(), [f"KODE for {login}"])
        self.assertIn("KONTO", self.text())
        self.assertIn("18.05.2033 03:33:20 UTC", self.text())

    def test_no_address(self):
        "Test that a user without an address causes only a log line"
        login, user_id = self.user(KEY, email=False)
        self.attempt(login, self.code())
        with self.assertLogs(
                'trytond.modules.authentication_totp', 'INFO') as logs:
            self.attempt(login, self.code(-1))
        self.assertEqual(self.received(), [])
        self.assertEqual(len(logs.output), 1)
        self.assertIn(f'user {user_id}', logs.output[0])
        self.assertEqual(self.events(user_id), ['set_up', 'replayed'])

    def test_no_mail_server(self):
        "Test that nothing else fails if the mail server is down"
        login, user_id = self.user(KEY)
        self.received()
        self.stop_server()
        self.guess(login, 3)
        with self.assertLogs('trytond.modules.authentication_totp', 'ERROR'):
            self.assertEqual(self.received(), [])
        self.now += 30
        self.assertEqual(self.attempt(login, self.code()), user_id)

    def test_hostile_context(self):
        "Test that a client's context neither delays nor changes the e-mail"
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        self.guess(login, 2)
        self.received()
        self.set_config('session', 'authentications', 'password')
        self.set_config('web', 'hostname', 'tryton.example.com')
        rpc = RPC()
        rpc.login(admin, password=PASSWORD)
        rpc.host = 'evil.example.com'
        rpc.call('model.res.user.unlock_totp', [user_id], {
                'queue_scheduled_at': dt.timedelta(days=36500),
                'queue_name': 'nobody'})
        self.assertEqual(
            self.received(), [f"TOTP was unlocked for {login}"])
        message, = self.messages
        self.assertNotIn('evil', message.as_string())

    def test_hostile_login(self):
        "Test that the owner of a login with any characters is told"
        for name in [
                'a\x85b', 'a\u2028b', 'a\x1cb', 'a\x1eb', '<b>x</b> %(x)s',
                'x' * 500, '\xe9\u738b', '\u202eevil']:
            with self.subTest(name=name):
                login, user_id = self.user(KEY)
                with self.transaction():
                    User = Pool().get('res.user')
                    User.write([User(user_id)], {'login': name})
                self.received()
                with self.transaction():
                    Pool().get('res.user')(user_id).unlock_totp()
                subject, = self.received()
                self.assertIn('TOTP was unlocked for', subject)
                html = self.messages[0].get_body(['html']).get_content()
                self.assertNotIn('<b>', html)
                with self.transaction():
                    User.write([User(user_id)], {'login': login})

    def test_hanging_mail_server(self):
        "Test that an unresponsive mail server is given up after a timeout"
        for uri in [
                'smtp://localhost:25', 'smtp://localhost:25?x=y',
                'smtp://localhost:25?timeout=5']:
            with self.subTest(uri=uri):
                self.set_config('email', 'uri', uri)
                login, user_id = self.user(KEY)
                with patch('smtplib.SMTP', side_effect=OSError) as server:
                    self.received()
                self.assertEqual(
                    server.call_args.kwargs['timeout'],
                    5 if 'timeout' in uri else 30)

    def test_worker(self):
        "Test that a worker, if there is one, sends the e-mails"
        self.set_config('queue', 'worker', 'True')
        login, user_id = self.user(KEY)
        self.assertEqual(self.received(), [])
        with self.transaction():
            Queue = Pool().get('ir.queue')
            task, = Queue.search([], order=[('id', 'DESC')], limit=1)
        run_task(DB_NAME, task.id)
        self.assertEqual(self.received(), [f"TOTP was set up for {login}"])

    @unittest.skipUnless(
        backend.name == 'postgresql', "an SQLite in memory has one thread")
    def test_thread(self):
        "Test that a thread sends the e-mail, and the login does not wait"
        login, user_id = self.user(KEY)
        self.received()
        mailer = ThreadPoolExecutor(1)
        self.addCleanup(mailer.shutdown)
        self.mailer.submit.side_effect = mailer.submit
        reached, answer = threading.Event(), threading.Event()
        self.addCleanup(answer.set)
        # Make the timeout longer than the slowest machine needs
        self.set_config(
            'email', 'uri',
            f'smtp://127.0.0.1:{self.server.port}?timeout=3600')
        handle = self.inbox.handle_DATA

        async def slow(*args):
            reached.set()
            answer.wait()
            return await handle(*args)
        with patch.object(self.inbox, 'handle_DATA', slow):
            self.attempt(login, self.code())
            self.assertIsNone(self.attempt(login, self.code(-1)))
            reached.wait()
            self.now += 30
            self.assertEqual(self.attempt(login, self.code()), user_id)
            self.assertEqual(self.inbox.messages, [])
            answer.set()
            mailer.shutdown()
        self.assertEqual(
            self.received(), [f"A used code was entered again for {login}"])

    def test_event(self):
        "Test the fields of an event"
        login, user_id = self.user(KEY)
        self.guess(login, 3)
        self.received()
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            first, second = Event.search(
                [('user', '=', user_id)], order=[('id', 'ASC')])
            self.assertEqual(second.user.id, user_id)
            self.assertEqual(
                second.time, dt.datetime.fromtimestamp(self.now))
            self.assertIsNone(second.actor)
            self.assertEqual(second.address, ADDRESS)
            self.assertTrue(second.told)
            self.assertEqual(second.rec_name, "Wrong codes were entered")
            self.assertIsNone(first.address)

    def test_access(self):
        "Test that administrators can read events, and no user can change them"
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        self.set_config('session', 'authentications', 'password')
        model = 'res.user.totp_event'
        for user in [login, admin]:
            rpc = RPC()
            rpc.login(user, password=PASSWORD)
            is_admin = user == admin
            with self.transaction():
                Event = Pool().get(model)
                (event,) = Event.search([('user', '=', user_id)])
            for method, *params in [
                    ('read', [event.id], ['kind', 'user', 'address']),
                    ('search', [('user', '=', user_id)]),
                    ('search_count', [('user', '=', user_id)]),
                    ('search_read', [('kind', '=', 'set_up')], 0, None, None,
                        ['kind']),
                    ('export_data', [event.id], ['kind']),
                    ]:
                with self.subTest(user=user, method=method):
                    if is_admin:
                        self.assertTrue(rpc.model(model, method, *params))
                    else:
                        with self.assertRaises(Refused):
                            rpc.model(model, method, *params)
            for method, *params in [
                    ('create', [{
                                'user': user_id, 'kind': 'set_up',
                                'time': dt.datetime(2026, 1, 1)}]),
                    ('write', [event.id], {'kind': 'locked'}),
                    ('delete', [event.id]),
                    ('copy', [event.id]),
                    ('import_data', ['kind'], [['locked']]),
                    ]:
                with self.subTest(user=user, method=method):
                    with self.assertRaises(Refused):
                        rpc.model(model, method, *params)
            access = rpc.model('ir.model.access', 'get_access', [model])
            self.assertEqual(access[model], {
                    'read': is_admin, 'write': False, 'create': False,
                    'delete': False})
        self.assertEqual(self.events(user_id), ['set_up'])

    def test_clean(self):
        "Test that the scheduled task removes old data"
        self.set_totp('event_retention', '10')
        login, user_id = self.user(KEY)
        other, other_id = self.user()
        for id_ in [user_id, other_id]:
            with self.transaction():
                user = Pool().get('res.user')(id_)
                user.start_totp_setup(
                    self.code() if id_ == user_id else None)
            self.now += 300
        self.now += 299
        self.clean()
        self.assertEqual(
            [self.has_pending(id_) for id_ in [user_id, other_id]],
            [False, True])
        self.now += 2
        self.clean()
        self.assertFalse(self.has_pending(other_id))
        self.assertTrue(self.stored_secret(user_id))
        self.now += 10 * 24 * 3600 - 901
        self.clean()
        self.assertEqual(self.events(user_id), ['set_up'])
        self.now += 1
        self.clean()
        self.assertEqual(self.events(user_id), [])

    def test_clean_decoys(self):
        "Test that the scheduled task removes only failures of decoys"
        login, user_id = self.user(KEY)
        self.set_config('session', 'authentications', 'totp+password')
        for name in [login, 'nobody']:
            self.guess(name, 1)
        with self.transaction():
            table = Pool().get('res.user.totp_guess').__table__()
        decoys = table.select(
            table.user, where=(table.user < 0) & (table.failures > 0))
        self.assertTrue(self.sql(decoys))
        self.clean()
        self.assertEqual(self.sql(decoys), [])
        self.assertEqual(self.failures(user_id), 1)

    def clean(self):
        with self.transaction():
            Cron = Pool().get('ir.cron')
            cron, = Cron.search([('method', '=', 'res.user|clean_totp')])
            cron.run_once()

    def has_pending(self, user_id):
        with self.transaction():
            table = Pool().get('res.user').__table__()
        (secret, expire), = self.sql(table.select(
                table.totp_pending_secret, table.totp_pending_expire,
                where=table.id == user_id))
        self.assertEqual(bool(secret), bool(expire))
        return bool(secret)

    def test_resealed(self):
        "Test that encrypting a secret anew is an event that is not told"
        self.set_keys()
        login, user_id = self.user(KEY)
        self.received()
        self.set_keys(Fernet.generate_key().decode())
        self.attempt(login, self.code())
        self.assertEqual(self.events(user_id), ['set_up', 'resealed'])
        self.assertEqual(self.received(), [])

    def test_sessions(self):
        "Test that a new key ends the sessions and forgets the devices"
        login, user_id = self.user()
        other, other_id = self.user()
        for key in [KEY, OTHER_KEY]:
            with self.subTest(key=key):
                sessions, cookies = {}, {}
                for name, id_ in [(login, user_id), (other, other_id)]:
                    with self.transaction(id_):
                        pool = Pool()
                        sessions[id_] = pool.get('ir.session').new()
                        cookies[name] = pool.get('res.user.device').renew(None)
                with self.transaction():
                    Pool().get('res.user')(user_id).set_totp_key(key)
                with self.transaction():
                    pool = Pool()
                    Session = pool.get('ir.session')
                    Device = pool.get('res.user.device')
                    self.assertEqual([
                            bool(Session.check(id_, session))
                            for id_, session in sessions.items()],
                        [False, True])
                    self.assertEqual([
                            Device.get_valid_cookie(name, cookie)
                            for name, cookie in cookies.items()],
                        [None, cookies[other]])
