# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from trytond.pool import Pool

from .mail import MailTestCase
from .tools import ADDRESS, KEY


class EmailsTestCase(MailTestCase):
    "Test that what an e-mail says is true, and that it arrives (law 7)"

    def lock(self, login, **kwargs):
        "Be wrong until codes are locked, and return what the owner is told"
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
        "Test that the e-mail about a lock says which codes still work"
        self.set_totp('max_failures', '4')
        texts = []
        for known_device in [False, True]:
            login, user_id = self.user(KEY)
            with self.transaction(user_id):
                cookie = Pool().get('res.user.device').renew(None)
            kwargs = {'device_cookie': cookie} if known_device else {}
            text = self.lock(login, **kwargs)
            texts.append(text.split('Account')[0])
            # What is locked, and what is not
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

    def invite(self, *user_ids):
        admin, _ = self.user(administrator=True)
        rpc = self.client(admin)
        context = {
            'active_model': 'res.user', 'active_id': user_ids[0],
            'active_ids': user_ids}
        prefix = 'wizard.res.user.invite_totp'
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        rpc.call(f'{prefix}.execute', session_id, {}, start, context)
        rpc.call(f'{prefix}.execute', session_id, {}, 'send', context)

    def test_newline(self):
        "Test that an address that holds a newline loses no other e-mail"
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
