# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import re
from email import message_from_bytes, policy

import trytond.url
from trytond import security
from trytond.exceptions import LoginException
from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME
from trytond.worker import run_task

from .tools import ADDRESS, PASSWORD, TOTPTestCase, start_mail_server


class Inbox:
    "A mail server's handler that keeps the e-mails it accepts"

    def __init__(self):
        self.messages = []
        # The error replies by the addresses that the server refuses
        self.answers = {}

    async def handle_RCPT(self, server, session, envelope, address, options):
        if answer := self.answers.get(address):
            return answer
        envelope.rcpt_tos.append(address)
        return '250 OK'

    async def handle_DATA(self, server, session, envelope):
        self.messages.append(
            message_from_bytes(envelope.content, policy=policy.default))
        return '250 OK'


class MailTestCase(TOTPTestCase):
    "A mail server whose inbox gets the e-mails when a test asks for them"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.inbox = Inbox()
        self.server = None
        self.addCleanup(self.stop_server)
        self.start_server()
        self.set_config('email', 'from', 'tryton@example.com')

    def start_server(self):
        self.server = start_mail_server(self, self.inbox)
        self.set_config(
            'email', 'uri', f'smtp://127.0.0.1:{self.server.port}')

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
        "Enter wrong codes until the lockout, with all delays in between"
        for _ in range(100):
            self.guess(login, 1)
            self.now += 3600

    def received(self):
        """Return the subjects of the e-mails that came since the last call,
        without the name of the server
        """
        self.send_emails()
        subjects = [
            # A long header begins with a line break
            message['Subject'].strip().removesuffix(
                f' on {trytond.url.host()}')
            for message in self.inbox.messages]
        self.messages = self.inbox.messages.copy()
        self.inbox.messages.clear()
        return subjects

    def tasks(self):
        "Return the unfinished tasks, as pairs of the id and the delay or None"
        with self.transaction():
            Queue = Pool().get('ir.queue')
            return [
                (task.id, task.scheduled_at
                    and task.scheduled_at - task.enqueued_at)
                for task in Queue.search(
                    [('finished_at', '=', None)], order=[('id', 'ASC')])]

    def run_tasks(self):
        for id_, _ in self.tasks():
            run_task(DB_NAME, id_)

    def told(self, *user_ids, kind='invited'):
        "Return for each user whether the last event of the kind was told"
        with self.transaction():
            Event = Pool().get('res.user.totp_event')
            events = [
                Event.search([
                        ('user', '=', user_id), ('kind', '=', kind)],
                    order=[('id', 'DESC')], limit=1)[0]
                for user_id in user_ids]
            return [bool(e.told) for e in events]

    def wizard(self, rpc, name, *states, user_ids):
        "Run the wizard on the users and return what each state shows"
        context = {
            'active_model': 'res.user', 'active_id': user_ids[0],
            'active_ids': user_ids}
        prefix = f'wizard.res.user.{name}'
        session_id, start, _ = rpc.call(f'{prefix}.create', context)
        views = [
            rpc.call(f'{prefix}.execute', session_id, {}, state, context)
            for state in [start, *states]]
        return [
            view['view']['defaults'] for view in views if 'view' in view]

    def invite(self, *user_ids):
        "Let an administrator invite the users, and return what is shown"
        admin, _ = self.user(administrator=True)
        return self.wizard(
            self.client(admin), 'invite_totp', 'send', user_ids=user_ids)

    def text(self):
        message, = self.messages
        html = message.get_body(['html']).get_content()
        return ' '.join(re.sub('<[^>]*>', ' ', html).split())
