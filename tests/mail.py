# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import re
from email import message_from_bytes, policy

from trytond import security
from trytond.exceptions import LoginException
from trytond.tests.test_tryton import DB_NAME

from .tools import ADDRESS, PASSWORD, TOTPTestCase, start_mail_server


class Inbox:
    "What the mail server does with an e-mail"

    def __init__(self):
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(
            message_from_bytes(envelope.content, policy=policy.default))
        return '250 OK'


class MailTestCase(TOTPTestCase):
    "Users whose e-mails come to an inbox once the test asks for them"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.inbox = Inbox()
        self.server = start_mail_server(self, self.inbox)
        self.addCleanup(self.stop_server)
        self.set_config(
            'email', 'uri', f'smtp://127.0.0.1:{self.server.port}')
        self.set_config('email', 'from', 'tryton@example.com')

    def stop_server(self):
        if self.server:
            self.server.stop()
        self.server = None

    def attempt(self, login, code, device_cookie=None):
        parameters = {'password': PASSWORD, 'totp_code': code}
        if device_cookie:
            parameters['device_cookie'] = device_cookie
        try:
            return security.login(
                DB_NAME, login, parameters, cache=False,
                context={'_request': {'remote_addr': ADDRESS}})
        except LoginException:
            pass

    def guess(self, login, count):
        for _ in range(count):
            self.assertIsNone(self.attempt(login, self.code(95)))

    def lock(self, login):
        "Be wrong until the lock, as somebody patient"
        for _ in range(100):
            self.guess(login, 1)
            self.now += 3600

    def received(self):
        "The subjects of the e-mails that came since the last time"
        self.send_emails()
        subjects = [message['Subject'] for message in self.inbox.messages]
        self.messages = self.inbox.messages.copy()
        self.inbox.messages.clear()
        return subjects

    def text(self):
        message, = self.messages
        html = message.get_body(['html']).get_content()
        return ' '.join(re.sub('<[^>]*>', ' ', html).split())
