# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"E-mails: their text, and the mail server"

import logging
import smtplib
import sys
from email.message import EmailMessage

from genshi.core import END, START, TEXT
from genshi.input import HTML

import trytond.config as config
from trytond.sendmail import get_smtp_server

logger = logging.getLogger(__name__)

_TIMEOUT = 30
_HIDDEN = {'head', 'script', 'style'}
_PARAGRAPHS = {
    'blockquote', 'div', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'hr', 'ol', 'p',
    'table', 'ul'}
_LINES = _PARAGRAPHS | {'br', 'li', 'tr'}
_CELLS = {'td', 'th'}


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


class _Text:
    "The lines of a text"

    def __init__(self):
        self._lines = []
        self._parts = []
        self._gap = False

    def add(self, text):
        self._parts.append(text)

    def end_line(self, gap=False):
        if line := ' '.join(''.join(self._parts).split()):
            if self._gap and self._lines:
                self._lines.append('')
            self._lines.append(line)
            self._gap = False
        self._parts.clear()
        self._gap |= gap

    def begin_cell(self):
        if before := ''.join(self._parts).strip():
            self._parts = [f'{before}: ']

    def __str__(self):
        return '\n'.join(self._lines) + '\n'


def to_text(html):
    """Return the HTML as plain text.

    Each paragraph, item of a list and row of a table is a line. A link is
    followed by its URL, unless its text is the URL.
    """
    text = _Text()
    hidden, numbers, links = 0, [], []
    for kind, data, _ in HTML(html):
        if kind is TEXT and not hidden:
            text.add(data)
            links = [(url, shown + data) for url, shown in links]
        elif kind is START:
            (tag, attributes) = data
            tag = tag.localname
            hidden += tag in _HIDDEN
            if tag in _LINES:
                text.end_line(gap=tag in _PARAGRAPHS)
            if tag in {'ol', 'ul'}:
                numbers.append(0 if tag == 'ol' else None)
            elif tag == 'li' and numbers:
                if numbers[-1] is None:
                    text.add('- ')
                else:
                    numbers[-1] += 1
                    text.add(f'{numbers[-1]}. ')
            elif tag in _CELLS:
                text.begin_cell()
            elif tag == 'a':
                links.append((attributes.get('href'), ''))
        elif kind is END:
            tag = data.localname
            hidden -= tag in _HIDDEN
            if tag in _LINES:
                text.end_line(gap=tag in _PARAGRAPHS)
            if tag in {'ol', 'ul'} and numbers:
                numbers.pop()
            elif tag == 'a' and links:
                url, shown = links.pop()
                if url and url != shown.strip():
                    text.add(f' <{url}>')
    text.end_line()
    return str(text)


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


def send(messages):
    """Send the e-mails over one connection.

    messages: a dictionary of EmailMessage
    Return the keys of those that the mail server accepted, and a dictionary
    from the keys of those that it will never accept to the reason. The others
    can be sent later, and a line in the log says why.
    """
    accepted, refused, reasons = set(), {}, {}
    server = _MailServer()
    lost = 0
    for key, message in messages.items():
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
    left = len(messages) - len(accepted) - len(refused)
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
