# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The e-mail that tells the owner about an event"

import textwrap
from collections import namedtuple
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import trytond.config as config
from trytond.i18n import gettext
from trytond.pool import Pool
from trytond.report import Report
from trytond.tools import timezone
from trytond.tools.email_ import set_from_header
from trytond.transaction import Transaction
from trytond.url import host, http_base, is_secure

from . import totp
from .exceptions import TOTPAccessError

# What the owner should do: an introduction, steps and a last sentence. Each is
# a part of the id of a message.
Advice = namedtuple('Advice', ['introduction', 'steps', 'end'])

_CHANGE = Advice('unexpected', ['reset', 'change_password'], 'expected')
_CHANGE_BY_OTHER = Advice('not_asked', ['tell'], 'expected')
_ATTACK = Advice('not_you', ['change_password', 'tell'], 'you')
_LOCK = Advice('attack', ['change_password', 'tell'], 'you_locked')
_ADVICE = {
    'invited': Advice(
        'invited', ['install', 'open', 'scan', 'save'], 'doubt'),
    'set_up': _CHANGE,
    'added': _CHANGE,
    'replaced': _CHANGE,
    'renamed': _CHANGE,
    'authenticator_removed': _CHANGE,
    'token_assigned': Advice('token', ['token'], 'token'),
    'token_withdrawn': _CHANGE_BY_OTHER,
    'removed': _CHANGE,
    'reset': Advice('not_asked', ['tell'], 'set_up_again'),
    'failed': _ATTACK,
    'replayed': Advice('seen', ['change_password', 'tell'], 'you'),
    'recovery_failed': _ATTACK,
    'recovered': _CHANGE,
    'renewed': _CHANGE,
    'locked': _LOCK,
    'device_locked': _LOCK,
    'unlocked': _CHANGE_BY_OTHER,
    'devices_forgotten': _CHANGE,
    'resealed': _CHANGE_BY_OTHER,
    }
_LINES = {'width': 72, 'break_on_hyphens': False}
_MAX_FACT_LENGTH = 1000
# The key of the texts in the data of the report. Clients send only strings.
_PARTS = object()


class TOTPEventEmail(Report):
    __name__ = 'res.user.totp_event.email'

    # Only the server itself writes e-mails. Clients can read the events.

    @classmethod
    def __setup__(cls):
        super().__setup__()
        del cls.__rpc__['execute']

    @classmethod
    def execute(cls, ids, data):
        # An HTTP route and ir.email also execute reports
        if Transaction().user:
            raise TOTPAccessError(gettext(
                    'ir.msg_access_report_error', report=cls.__name__))
        return super().execute(ids, data)

    @classmethod
    def write(cls, event, secure):
        """Return the EmailMessage about the event.

        secure: whether the server was reached by https
        """
        pool = Pool()
        Event = pool.get('res.user.totp_event')
        Lang = pool.get('ir.lang')
        user = event.user
        language = user.language or Lang.get()
        with Transaction().set_context(
                _request={'is_secure': secure}, language=language.code,
                with_rec_name=False):
            event = Event(event.id)
            parts = cls._get_parts(event)
            _, html, _, _ = cls.execute(
                [event.id], {'language': language, _PARTS: parts})
            subject = gettext(
                'authentication_totp.msg_totp_email_subject',
                event=event.kind_string, login=user.login, server=host())
        message = EmailMessage()
        message['Content-Language'] = language.code
        message.set_content(cls._write_text(parts))
        message.add_alternative(html, subtype='html')
        from_ = config.get('email', 'from')
        set_from_header(message, from_, from_)
        # A trailing newline would end the header
        message['To'] = user.email.strip()
        # A login may contain line breaks, which headers must not
        message['Subject'] = ' '.join(subject.split())
        message['Date'] = formatdate()
        domain, _, _ = host().partition(':')
        message['Message-ID'] = make_msgid(domain=domain)
        # Without this header, absence agents answer
        message['Auto-Submitted'] = 'auto-generated'
        return message

    @classmethod
    def _write_text(cls, parts):
        "Return the e-mail as plain text."
        web_link, desktop_link = parts['links']
        facts = [
            f'{label}: {value}' for label, value in [
                *parts['facts'], (parts['server'], web_link)]]
        steps = [
            textwrap.fill(
                step, **_LINES, initial_indent=f'{number}. ',
                subsequent_indent='   ')
            for number, step in enumerate(parts['steps'], 1)]
        return '\n\n'.join([
                textwrap.fill(parts['text'], **_LINES),
                '\n'.join([*facts, desktop_link]),
                '\n'.join([
                        textwrap.fill(parts['introduction'], **_LINES),
                        *steps]),
                textwrap.fill(parts['end'], **_LINES)]) + '\n'

    @classmethod
    def get_context(cls, records, header, data):
        pool = Pool()
        Lang = pool.get('ir.lang')
        context = super().get_context(records, header, data)
        context['direction'] = Lang.get().direction
        context.update(
            data.get(_PARTS) or cls._get_parts(context['record']))
        return context

    @classmethod
    def _get_parts(cls, event):
        "Return the texts of the e-mail by their names in the template."
        user = event.user
        advice = _ADVICE[event.kind]
        if advice is _CHANGE and event.actor not in {user, None}:
            advice = _CHANGE_BY_OTHER
        return {
            'text': _text(
                event.kind, codes=user.totp_recovery_codes,
                authenticators=len(user.list_totp_authenticators())),
            'facts': cls._get_facts(event),
            'server': _text('server'),
            'links': cls._get_links(),
            'introduction': _text(f'introduction_{advice.introduction}'),
            'steps': [_text(f'step_{step}') for step in advice.steps],
            'end': _text(f'end_{advice.end}'),
            }

    @classmethod
    def _get_facts(cls, event):
        "Return the facts about the event, as pairs of a label and a text."
        time = cls.format_datetime(
            event.time, format='%x %X %Z', timezone=timezone.SERVER)
        facts = [
            (_text('time'), time),
            (_text('account'), event.user.login),
            ]
        if event.authenticator:
            facts.append((_text('authenticator'), event.authenticator))
        if event.address:
            facts.append((_text('address'), event.address))
        if event.actor and event.actor != event.user:
            facts.append((_text('actor'), event.actor.rec_name))
        # Users choose their own names. A mail server would refuse an e-mail
        # with a very long one.
        return [
            (label, totp.one_line(fact, _MAX_FACT_LENGTH))
            for label, fact in facts]

    @classmethod
    def _get_links(cls):
        "Return the links to the web client and to the desktop client."
        database = Transaction().database.name
        netloc = host()
        if is_secure() and ':' not in netloc:
            # The port is 8000 by default in the desktop client
            netloc += ':443'
        return [
            f"{http_base().rstrip('/')}/#{database}",
            f'tryton://{netloc}/{database}']


def _text(name, **variables):
    return gettext(f'authentication_totp.msg_totp_email_{name}', **variables)
