# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Write each e-mail to a file that a browser shows, named after its subject"

import email
import email.policy
import sys
import threading
import time
from pathlib import Path

from aiosmtpd.controller import Controller

_, port, folder = sys.argv


class Writer:

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(
            envelope.content, policy=email.policy.default)
        subject = message['Subject'].replace('/', ' ')
        name = f"{time.strftime('%Y-%m-%d %H.%M.%S')} {subject}.html"
        Path(folder, name).write_text(
            message.get_body(('html', 'plain')).get_content(),
            encoding='utf-8')
        return '250 OK'


Controller(
    Writer(), hostname='localhost', port=int(port),
    # The default of 5 seconds is too short for a busy machine
    ready_timeout=600).start()
threading.Event().wait()
