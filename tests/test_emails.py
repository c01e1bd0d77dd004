# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import re
from html import unescape
from unittest.mock import patch

from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.wsgi import NumProxyFix, app

from .mail import MailTestCase
from .tools import (
    ADDRESS, KEY, OTHER_KEY, PASSWORD, RPC, right_code, secret_from)


class EmailsTestCase(MailTestCase):
    "Test that e-mails state the facts, and arrive (law 7)"

    def lock(self, login, **kwargs):
        "Enter wrong codes until the lockout; return the text of the e-mail"
        self.received()
        for _ in range(4):
            self.assertIsNone(
                self.attempt(login, self.code(95), **kwargs))
            self.now += 3600
        self.received()
        message, = [
            message for message in self.messages
            if 'locked' in message['Subject']]
        self.messages = [message]
        text = self.text()
        self.assertIn(ADDRESS, text)
        return text

    def test_lock(self):
        "Test that the e-mail about a lockout says which codes still work"
        self.set_totp('max_failures', '4')
        texts = []
        for known_device in [False, True]:
            login, user_id = self.user(KEY)
            with self.transaction(user_id):
                cookie = Pool().get('res.user.device').renew(None)
            kwargs = {'device_cookie': cookie} if known_device else {}
            text = self.lock(login, **kwargs)
            texts.append(text.split('Account')[0])
            # Only codes of this kind of device are locked
            for other in [False, True]:
                self.now += 30
                self.assertEqual(
                    self.attempt(
                        login, self.code(),
                        device_cookie=cookie if other else None),
                    None if other == known_device else user_id)
        elsewhere, device = texts
        self.assertNotEqual(elsewhere, device)
        for text in texts:
            self.assertRegex(text, '[Dd]evice')
            self.assertRegex(text, '[Rr]ecovery code')
        self.assertNotIn("except on devices", device)

    def text_about(self, subject):
        "Return the text of the only received e-mail with the subject"
        self.received()
        self.messages = [
            message for message in self.messages
            if subject in message['Subject']]
        return self.text()

    def test_authenticator_removed(self):
        "Test that it says how many authenticators are left, and who did it"
        _, admin_id = self.user(administrator=True)
        _, user_id = self.user(KEY)
        for _ in range(2):
            self.now += 30
            self.add_authenticator(user_id)
        self.now += 30
        self.received()
        for by, left in [(user_id, 2), (admin_id, 1)]:
            with self.transaction(by):
                User = Pool().get('res.user')
                if by == user_id:
                    User(user_id).remove_totp_authenticator(2, self.code())
                else:
                    User.remove_totp_authenticator_of(User(user_id), 3)
            text = self.text_about("An authenticator was removed")
            self.assertIn(f"Authenticators left: {left}", text)
            self.assertIn("logged out everywhere", text)
            self.assertEqual(
                "somebody else may be using your account" in text,
                by == user_id)
            self.assertEqual(
                "If you did not ask for this" in text, by == admin_id)
            self.now += 3600

    def test_last_authenticator_removed(self):
        "Test that the e-mail mentions no other authenticators if none is left"
        _, admin_id = self.user(administrator=True)
        _, user_id = self.user()
        with self.transaction():
            pool = Pool()
            Token = pool.get('res.user.totp_token')
            user = pool.get('res.user')(user_id)
            Token.store([
                    (f'T{user_id}-{number}', secret_from(key))
                    for number, key in enumerate([KEY, OTHER_KEY])])
            tokens = Token.search([('serial', 'like', f'T{user_id}-%')])
            Token.assign(tokens, user)
            ids = [token.id for token in tokens]
        with self.transaction(user_id):
            user = Pool().get('res.user')(user_id)
            user.add_totp_token(f'T{user_id}-0', self.code())
            self.now += 30
            user.add_totp_token(
                f'T{user_id}-1', right_code(OTHER_KEY, self.now),
                current_code=self.code())
        self.received()
        with self.transaction(admin_id):
            Token = Pool().get('res.user.totp_token')
            Token.lose(Token.browse(ids))
        text = self.text_about("An authenticator was removed")
        self.assertIn("Authenticators left: 0", text)
        self.assertNotIn("other authenticators", text)
        self.assertEqual(
            self.events(user_id)[-2:], ['authenticator_removed', 'reset'])

    def test_devices_forgotten(self):
        "Test that an administrator's action is not reported as an attack"
        admin, admin_id = self.user(administrator=True)
        _, user_id = self.user(KEY)
        for by in [user_id, admin_id]:
            self.received()
            with self.transaction(user_id):
                Pool().get('res.user.device').renew(None)
            with self.transaction(by):
                Pool().get('res.user')(user_id).forget_totp_devices()
            text = self.text_about("Remembered devices were forgotten")
            # Only another user is named
            self.assertEqual(f" By {admin} " in text, by == admin_id)
            self.assertEqual(" By " in text, by == admin_id)
            self.assertEqual(
                "somebody else may be using your account" in text,
                by == user_id)
            self.now += 3600

    def test_long_name(self):
        "Test that no name makes an e-mail that a mail server refuses"
        login, user_id = self.user(KEY)
        rpc = self.client(login)
        self.received()
        rpc.overview(
            'rename', self.code(), authenticator='1', name='x' * 500_000)
        self.assertEqual(
            self.received(), [f"An authenticator was renamed for {login}"])
        message, = self.messages
        self.assertLess(len(bytes(message)), 10_000)
        self.assertIn('x' * 50, message.get_body(['plain']).get_content())
        # The user who resets TOTP does not choose who is told either
        manager, manager_id = self.manager(user_id)
        rpc = self.client(manager)
        rpc.model('res.user', 'set_preferences', {'name': 'y' * 100_000})
        self.wizard(rpc, 'reset_totp', 'reset', user_ids=[user_id])
        self.assertEqual(self.received(), [f"TOTP was reset for {login}"])
        message, = self.messages
        self.assertLess(len(bytes(message)), 10_000)
        self.assertIn('y' * 50, message.get_body(['plain']).get_content())

    def test_lines(self):
        "Test that names cannot add lines to the text of an e-mail"
        login, user_id = self.user(KEY)
        manager, manager_id = self.manager(user_id)
        rpc = self.client(manager)
        self.received()
        for blank in ['\x85', '\u2028', '\u2029', '\x1c']:
            with self.subTest(blank=blank):
                self.client(login).overview(
                    'rename', self.code(), authenticator='1',
                    name=f'Phone{blank}Forged: line')
                rpc.model('res.user', 'set_preferences', {
                        'name': f'Eve{blank}Forged: line'})
                with self.transaction(manager_id):
                    Pool().get('res.user')(user_id).unlock_totp()
                self.received()
                self.assertEqual(len(self.messages), 2)
                for message in self.messages:
                    text = message.get_body(['plain']).get_content()
                    self.assertIn('Forged: line', text)
                    for line in text.splitlines():
                        self.assertFalse(line.startswith('Forged'), text)
                    self.assertNotIn(blank, text)
                self.now += 3600

    def test_newline(self):
        "Test that an address with a newline affects no other e-mail"
        for end in [
                '\n', '\nBcc: evil@example.com', '\r\n\r\nevil',
                '\r@example.com']:
            for place in range(3):
                with self.subTest(end=end, place=place):
                    users = [self.user() for _ in range(3)]
                    _, hostile_id = users[place]
                    with self.transaction() as transaction:
                        table = Pool().get('res.user').__table__()
                        transaction.connection.cursor().execute(
                            *table.update(
                                [table.email], ['hostile@example.com' + end],
                                where=table.id == hostile_id))
                    self.invite(*(user_id for _, user_id in users))
                    try:
                        self.received()
                    except ValueError as error:
                        self.fail(error)
                    addresses = [
                        message['To'] for message in self.messages
                        if 'hostile' not in message['To']]
                    self.assertEqual(
                        sorted(addresses), sorted(
                            f'{login}@example.com' for login, id_ in users
                            if id_ != hostile_id))
                    for message in self.messages:
                        self.assertIsNone(message['Bcc'])

    def test_bad_address(self):
        "Test that an invalid address is reported in the log"
        for email in ['none', 'a@', '@example.com', 'a b', ',', '<', 'a@b,c']:
            with self.subTest(email=email):
                login, user_id = self.user()
                with self.transaction():
                    User = Pool().get('res.user')
                    User.write([User(user_id)], {'email': email})
                    with self.assertLogs(
                            'trytond.modules.authentication_totp',
                            'ERROR') as logs:
                        User(user_id).set_totp_key(KEY)
                self.assertIn(f'user {user_id}', logs.output[0])
                self.assertEqual(self.received(), [])
                self.assertEqual(self.told(user_id, kind='set_up'), [False])

    def test_invite(self):
        "Test that the wizard shows which users get an e-mail"
        users = [self.user(email=kind != 'without') for kind in [
                'good', 'without', 'bad', 'invited', 'good', 'enrolled']]
        good, without, bad, invited, other, enrolled = ids = [
            user_id for _, user_id in users]
        with self.transaction():
            User = Pool().get('res.user')
            User.write([User(bad)], {'email': 'nowhere'})
            User(enrolled).set_totp_key(KEY)
        self.invite(invited)
        self.received()
        views = self.invite(*ids)
        self.assertEqual(len(views), 2)
        for view in views:
            self.assertEqual([
                    view[name] for name in [
                        'users', 'without_email', 'bad_email',
                        'already_invited']],
                [[good, other], [without], [bad], [invited]])
        self.assertEqual(
            self.received(), [
                f"Please set up TOTP for {users[i][0]}" for i in [0, 4]])
        self.assertEqual(
            [self.events(id_) for id_ in [without, bad, invited]],
            [[], [], ['invited']])
        # No user is left to invite
        *_, view = self.invite(*ids)
        self.assertEqual(view['users'], [])
        self.assertEqual(view['already_invited'], [good, invited, other])
        self.assertEqual(self.received(), [])

    def test_auto_submitted(self):
        "Test that e-mails ask absence agents not to answer"
        self.user(KEY)
        self.received()
        message, = self.messages
        self.assertEqual(message['Auto-Submitted'], 'auto-generated')
        self.assertTrue(message['Date'])
        self.assertNotIn(':', message['Message-ID'])

    def test_text(self):
        "Test the text part, with and without html2text"
        login, user_id = self.user()
        admin, _ = self.user(administrator=True)
        for converted in [None, "TEXT OF HTML2TEXT"]:
            self.now += 3600
            with patch(
                    'trytond.report.report.html_to_text',
                    return_value=converted), \
                    patch('trytond.url.HOSTNAME', 'tryton.example.com'):
                self.wizard(
                    self.client(admin), 'invite_totp', 'send',
                    user_ids=[user_id])
                self.received()
            message, = self.messages
            self.assertEqual(
                message['Subject'],
                f"Please set up TOTP for {login} on tryton.example.com")
            self.assertEqual(
                message.get_content_type(), 'multipart/alternative')
            self.assertEqual(
                [part.get_content_type() for part in message.iter_parts()],
                ['text/plain', 'text/html'])
            text = message.get_body(['plain']).get_content()
            time = f'{dt.datetime.fromtimestamp(self.now, dt.timezone.utc):%X}'
            self.assertEqual(text.replace('\xa0', ' ').splitlines(), f"""\
Your administrator asks you to set up TOTP for your Tryton account. TOTP
adds a second step to the login: besides your password, you enter a code
that only your authenticator can generate. Nobody can then log in with
your password alone.

Time: 05/18/2033 {time} UTC
Account: {login}
IP address: {ADDRESS}
By: {admin}
Server: http://tryton.example.com/#{DB_NAME}
tryton://tryton.example.com/{DB_NAME}

What to do:
1. Install an authenticator app on your phone, unless you already have
   one.
2. Log in to Tryton and open "Set up TOTP" in the menu.
3. Scan the QR code with the authenticator and enter the code that it
   shows.
4. Save or print the recovery codes. With one of them you can log in if
   you lose your phone.

If you are not sure that this e-mail comes from your administrator, ask
before you do anything. Nobody needs to know your password or your
codes.
""".splitlines())

    def test_same(self):
        "Test that both parts have the same content for each event"
        login, user_id = self.user()
        with self.transaction() as transaction:
            pool = Pool()
            Event = pool.get('res.user.totp_event')
            Email = pool.get('res.user.totp_event.email', type='report')
            for kind, _ in Event.kind.selection:
                event, = Event.create([{
                            'user': user_id, 'kind': kind,
                            'time': dt.datetime(2033, 5, 18), 'actor': 1,
                            'address': ADDRESS, 'authenticator': "<Tablet>",
                            }])
                with self.subTest(kind=kind):
                    message = Email.write(event, True)
                    text, html = [
                        message.get_body([name]).get_content()
                        for name in ['plain', 'html']]
                    html = unescape(re.sub(
                            '<[^>]*>', ' ', html.partition('</h1>')[2]))
                    self.assertEqual(
                        re.findall(r'\w+', re.sub(r'(?m)^\d\. ', '', text)),
                        re.findall(r'\w+', html))
                    self.assertIn("Authenticator: <Tablet>", text)
            transaction.rollback()

    def test_written_once(self):
        "Test that an e-mail reads what it tells only once, for both parts"
        _, user_id = self.user()
        with self.transaction() as transaction:
            pool = Pool()
            Event = pool.get('res.user.totp_event')
            Email = pool.get('res.user.totp_event.email', type='report')
            event, = Event.create([{
                        'user': user_id, 'kind': 'invited',
                        'time': dt.datetime(2033, 5, 18)}])
            with patch.object(
                    Email, '_get_parts', wraps=Email._get_parts) as get_parts:
                Email.write(event, True)
            self.assertEqual(get_parts.call_count, 1)
            transaction.rollback()

    def link(self, host, root_path='/', ssl='', rpc=None):
        """Return the links for the web client and for the desktop client.

        host, root_path, ssl: the values of the configuration
        rpc: the client whose request causes the e-mail
        """
        login, user_id = self.user(KEY)
        admin, _ = self.user(administrator=True)
        self.guess(login, 2)
        self.run_tasks()
        self.received()
        self.set_config('session', 'authentications', 'password')
        rpc = rpc or RPC()
        with patch('trytond.url.HOSTNAME', host), \
                patch('trytond.url.ROOT_PATH', root_path), \
                patch.object(app, 'wsgi_app', NumProxyFix(app.wsgi_app, 1)):
            self.set_config('ssl', 'certificate', ssl)
            rpc.login(admin, password=PASSWORD)
            rpc.model('res.user', 'unlock_totp', [user_id])
            self.run_tasks()
            self.received()
        self.set_config('ssl', 'certificate', '')
        self.set_config('session', 'authentications', 'password+totp')
        message, = self.messages
        self.assertNotIn('evil', message.as_string())
        lines = message.get_body(['plain']).get_content().splitlines()
        number, = (
            number for number, line in enumerate(lines)
            if line.startswith("Server: "))
        html = message.get_body(['html']).get_content()
        links = lines[number].partition(' ')[2], lines[number + 1]
        for link in links:
            self.assertIn(f'<a href="{link}">{link}</a>', html)
        return [link.replace(DB_NAME, 'DB') for link in links]

    def test_link(self):
        "Test that the links follow the configuration"
        host = 'tryton.example.com'
        for worker in ['False', 'True']:
            self.set_config('queue', 'worker', worker)
            for args, *links in [
                    ((host,), f'http://{host}/#DB', f'tryton://{host}/DB'),
                    ((host, '/', 'true'),
                        f'https://{host}/#DB', f'tryton://{host}:443/DB'),
                    ((f'{host}:8443', '/', 'true'),
                        f'https://{host}:8443/#DB', f'tryton://{host}:8443/DB'),
                    ((host, '/erp', 'true'),
                        f'https://{host}/erp/#DB', f'tryton://{host}:443/DB'),
                    ((host, '/erp/'),
                        f'http://{host}/erp/#DB', f'tryton://{host}/DB'),
                    ]:
                with self.subTest(worker=worker, args=args):
                    self.assertEqual(self.link(*args), links)

    def test_link_behind_proxy(self):
        "Test that a request can change http to https in links, and no more"
        host = 'tryton.example.com'
        rpc = RPC(**{
                'X-Forwarded-Proto': 'https',
                'X-Forwarded-Host': 'evil.example.com',
                'X-Forwarded-Port': '666',
                'X-Forwarded-Prefix': '//evil.example.com',
                })
        rpc.host = 'evil.example.com'
        for worker in ['False', 'True']:
            with self.subTest(worker=worker):
                self.set_config('queue', 'worker', worker)
                self.assertEqual(
                    self.link(host, rpc=rpc),
                    [f'https://{host}/#DB', f'tryton://{host}:443/DB'])
        self.assertEqual(
            self.link(host, ssl='true', rpc=RPC(**{
                        'X-Forwarded-Proto': 'http'})),
            [f'https://{host}/#DB', f'tryton://{host}:443/DB'])
