# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The connection to the mail server"

import logging
import smtplib
import sys
from email.message import EmailMessage

import trytond.config as config
from trytond.sendmail import get_smtp_server

logger = logging.getLogger(__name__)

_TIMEOUT = 30


def has_threads():
    "Return whether threads run. uWSGI can turn them off."
    uwsgi = sys.modules.get('uwsgi')
    return bool(getattr(uwsgi, 'has_threads', True))


def is_address(text):
    "Return whether the text is an address that e-mails can be sent to."
    message = EmailMessage()
    try:
        message['To'] = text
        addresses = message['To'].addresses
    # Python's parser raises exceptions of any class
    except Exception:
        return False
    return bool(addresses) and all(a.username and a.domain for a in addresses)


class _MailServer:
    "A connection to the mail server, opened when it is first needed"

    def __init__(self):
        self._smtp = None

    @property
    def is_connected(self):
        return bool(self._smtp and self._smtp.sock)

    def send(self, message):
        if self.is_connected:
            try:
                self._smtp.send_message(message)
                return
            except smtplib.SMTPException:
                if self.is_connected:
                    raise
                # The server may limit the number of e-mails per connection
        self._smtp = None
        # Without a timeout, a mail server that hangs would delay all e-mails
        uri = config.get('email', 'uri')
        if 'timeout=' not in uri:
            uri += f"{'&' if '?' in uri else '?'}timeout={_TIMEOUT}"
        self._smtp = get_smtp_server(uri, strict=True)
        self._smtp.send_message(message)

    def close(self):
        if self.is_connected:
            try:
                self._smtp.quit()
            except OSError:
                # The server has accepted the e-mails already
                pass


def send(messages, count):
    """Send the e-mails over one connection.

    messages: an iterable of pairs of a key and an EmailMessage
    count: how many there are
    Return the keys of those that the mail server accepted, and a dictionary
    from the keys of those that it will never accept to the reason. The others
    can be sent later, and a line in the log says why.
    """
    accepted, refused, reasons = set(), {}, {}
    server = _MailServer()
    lost = 0
    for key, message in messages:
        try:
            server.send(message)
        except Exception as error:
            if not server.is_connected:
                reasons[_reason(error)] = None
                lost += 1
                # The e-mail itself may be the reason for one lost connection
                if lost == 2:
                    break
                continue
            if _is_passing(error):
                reasons[_reason(error)] = None
            else:
                refused[key] = _reason(error)
        else:
            accepted.add(key)
        lost = 0
    server.close()
    left = count - len(accepted) - len(refused)
    for reason in reasons:
        logger.error(
            "e-mails that the mail server has not accepted: %d (%s)",
            left, reason)
    return accepted, refused


def _is_passing(error):
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    else:
        codes = [getattr(error, 'smtp_code', 0)]
    return any(400 <= code < 500 for code in codes)


def _reason(error):
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        answers = error.recipients.values()
    elif isinstance(error, smtplib.SMTPResponseException):
        answers = [(error.smtp_code, error.smtp_error)]
    elif isinstance(error, OSError):
        answers = [(str(error) or error.__class__.__name__,)]
    else:
        # The text may contain a part of the URI, and so of the password
        answers = [(error.__class__.__name__,)]
    text = ', '.join(
        ' '.join(
            part.decode(errors='replace') if isinstance(part, bytes)
            else str(part) for part in answer)
        for answer in answers)
    return ' '.join(text.split())[:200]
