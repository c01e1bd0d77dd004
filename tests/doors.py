# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The ways by which bytes reach the server as data about models

Each takes a visitor and a record that the visitor is after, and returns what
came back. A way that only answers whether a guess is right returns the value
itself once it tells a right guess from a wrong one.
"""

import io
import json
import re
import xmlrpc.client
from base64 import b64encode, urlsafe_b64encode
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from trytond.pool import Pool
from trytond.protocols.jsonrpc import JSONEncoder
from trytond.tests.test_tryton import DB_NAME

from .tools import ADDRESS, RPC

# A long number, which may be part of a text
CANARY = re.compile(r'\b12345\d{5}\b')
REPORT = 'res.user.totp_event.email'
WAYS = {}


def way(function):
    WAYS[function.__name__] = function
    return function


class Record(NamedTuple):
    "A record whose values appear nowhere else"
    model: str
    id: int
    values: dict[str, Any]
    token: str
    references: dict[str, int]

    @property
    def fields(self):
        return list(self.values)

    @property
    def canaries(self):
        "The texts that give the record away in an answer"
        return {
            name: CANARY.search(str(value))[0]
            for name, value in self.values.items()
            if CANARY.search(str(value))}

    @property
    def others(self):
        "Values to replace those of the record"
        return {
            name: other(value)
            if name in self.canaries or value is False else value
            for name, value in self.values.items()}

    def __str__(self):
        return f'{self.model},{self.id}'


def other(value):
    if value is False:
        return True
    return f'other-{value}' if isinstance(value, str) else value + 1000


def text(value):
    return json.dumps(value, cls=JSONEncoder)


class Visitor(RPC):
    "A client with or without a session and an application key"
    key = 'x'

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.statuses = []

    def http(self, verb, path, authorization=None, **kwargs):
        if not authorization and self.session:
            authorization = (
                'Session ' + b64encode(self.session.encode()).decode())
        headers = {'Host': self.host}
        if authorization:
            headers['Authorization'] = authorization
        response = self.client.open(
            path, method=verb, headers=headers,
            environ_base={'REMOTE_ADDR': ADDRESS},
            # trytond writes each traceback to this stream too
            errors_stream=io.StringIO(), **kwargs)
        self.statuses.append(response.status_code)
        return response

    def json(self, method, *params):
        return self.http(
            'POST', f'/{DB_NAME}/rpc/', content_type='application/json',
            data=text({'id': 1, 'method': method, 'params': params})
            ).get_data(as_text=True)

    def xml(self, method, *params):
        return self.http(
            'POST', f'/{DB_NAME}/rpc/', content_type='text/xml',
            data=xmlrpc.client.dumps(params, method, allow_none=True)
            ).get_data(as_text=True)

    def result(self, method, *params):
        "Return the result of the call, or None if it was refused"
        try:
            return json.loads(self.json(method, *params)).get('result')
        except ValueError:
            return None

    def rest(self, verb, path, query=None, data=None):
        return self.http(
            verb, f'/{DB_NAME}/rest/{path}', f'bearer {self.key}',
            query_string=query, content_type='application/json',
            data=None if data is None else text(data)).get_data(as_text=True)

    def route(self, name, path):
        "Return the path of a route that moved between the series"
        pool = Pool(DB_NAME)
        if 'router' in pool.classes:
            return f'/{DB_NAME}/r/{name}/{path}'
        return f'/{DB_NAME}/' + {
            'base': path.replace('html/', 'ir/html/', 1),
            'user': f'user/{path}',
            }[name]


# RPC

def arguments(record):
    "Return the parameters of each method that a model may offer"
    ids, fields, others = [record.id], record.fields, record.others
    domain = [('id', '=', record.id)]
    return {
        'autocomplete': ['', domain, 10, None],
        'copy': [ids],
        'create': [[others]],
        'default_get': [fields],
        'delete': [ids],
        'export_data': [ids, fields],
        'export_data_domain': [domain, fields],
        'fields_get': [],
        'fields_view_get': [None, 'form'],
        'get_authenticators': [{'user': record.id}],
        'get_devices': [{'user': record.id}],
        'history_revisions': [ids],
        'import_data': [
            ['id', *fields],
            [[str(record.id), *map(str, others.values())]]],
        'on_change': [{'id': record.id, **others}, fields],
        'on_change_notify': [{'id': record.id}],
        'on_change_with': [{'id': record.id}, fields],
        'on_scan_code': [{'id': record.id}, 'x'],
        'open_forget_totp_devices': [ids],
        'open_invite_totp': [ids],
        'open_remove_totp_authenticator': [ids],
        'open_reset_totp': [ids],
        'pre_validate': [others],
        'read': [ids, fields],
        'renew': [None],
        'resources': [ids],
        'search': [domain],
        'search_count': [domain],
        'search_read': [domain, 0, None, None, fields],
        'unlock_totp': [ids],
        'view_toolbar_get': [],
        'write': [ids, others],
        }


# Methods that take guesses have ways of their own
METHODS = sorted(
    arguments(Record('', 0, {}, '', {})).keys() - {'search', 'search_count'})


def rpc_method(name):
    def json_rpc(visitor, record):
        return visitor.json(
            f'model.{record.model}.{name}', *arguments(record)[name], {})
    json_rpc.__name__ = f'rpc {name}'
    way(json_rpc)

    def xml_rpc(visitor, record):
        return visitor.xml(
            f'model.{record.model}.{name}', *arguments(record)[name], {})
    xml_rpc.__name__ = f'xml {name}'
    way(xml_rpc)


for _name in METHODS:
    rpc_method(_name)


def guess(record, ask, prefix='', suffix=()):
    """Return the values of the record that right guesses reveal

    ask: a function of a domain
    prefix: the path from the model that is asked to the record
    suffix: the items that follow the value in the domain
    """
    told = []
    for name in record.canaries:
        value = record.values[name]
        right, wrong = [
            ask([(prefix + name, '=', guessed, *suffix)])
            for guessed in [value, other(value)]]
        if right != wrong:
            told.append(str(value))
    return text(told)


@way
def rpc_search(visitor, record):
    return guess(record, lambda domain: [
            visitor.json(f'model.{record.model}.{method}', domain, {})
            for method in ['search', 'search_count', 'export_data_domain']])


@way
def xml_search(visitor, record):
    return guess(record, lambda domain: visitor.xml(
            f'model.{record.model}.search', domain, {}))


@way
def server_methods(visitor, record):
    "Call methods that are meant for server code only"
    Model = Pool(DB_NAME).get(record.model)
    answers = []
    for cls in Model.__mro__:
        if record.model == cls.__dict__.get('__name__'):
            for name, value in vars(cls).items():
                if (isinstance(value, classmethod) or callable(value)
                        ) and name not in arguments(record):
                    answers.append(visitor.json(
                            f'model.{record.model}.{name}', [record.id], {}))
    return text(answers)


# REST

@way
def rest_search(visitor, record):
    return visitor.rest(
        'GET', f'model/{record.model}', {'f': record.fields})


@way
def rest_guess(visitor, record):
    return guess(record, lambda domain: visitor.rest(
            'GET', f'model/{record.model}', {
                'f': 'id',
                'd': urlsafe_b64encode(text(domain).encode()).decode(),
                }))


@way
def rest_get(visitor, record):
    return visitor.rest(
        'GET', f'model/{record.model}/{record.id}', {'f': record.fields})


@way
def rest_create(visitor, record):
    return visitor.rest('POST', f'model/{record.model}', data=record.others)


@way
def rest_update(visitor, record):
    return visitor.rest(
        'PUT', f'model/{record.model}/{record.id}', data=record.others)


@way
def rest_delete(visitor, record):
    return visitor.rest('DELETE', f'model/{record.model}/{record.id}')


@way
def rest_action(visitor, record):
    path = f'model/{record.model}'
    domain = [('id', '=', record.id)]
    return text([
            visitor.rest('POST', f'{path}/{name}', data=data)
            for name, data in {
                'read': {'ids': [record.id], 'fields_names': record.fields},
                'search_read': {
                    'domain': domain, 'fields_names': record.fields},
                'export_data_domain': {
                    'domain': domain, 'fields_names': record.fields},
                'create': {'vlist': [record.others]},
                'import_data': {
                    'fields_names': list(record.others),
                    'data': [[str(v) for v in record.others.values()]]},
                'renew': {'current_cookie': None},
                }.items()])


@way
def rest_action_on_record(visitor, record):
    path = f'model/{record.model}/{record.id}'
    return text([
            visitor.rest('POST', f'{path}/{name}', data=data)
            for name, data in {
                'read': {'fields_names': record.fields},
                'export_data': {'fields_names': record.fields},
                'write': {'values': record.others},
                'copy': {},
                'delete': {},
                }.items()])


@way
def rest_report(visitor, record):
    return visitor.rest('GET', f'report/{REPORT}/{record.id}', data={})


# Other routes

@way
def data(visitor, record):
    path = visitor.route('base', f'data/{record.model}')
    return text([
            visitor.http('GET', path, query_string={
                    'd': text(domain), 'f': record.fields}
                ).get_data(as_text=True)
            for domain in [[], [record.id]]])


@way
def data_guess(visitor, record):
    path = visitor.route('base', f'data/{record.model}')
    return guess(record, lambda domain: visitor.http(
            'GET', path, query_string={'d': text(domain), 'f': 'id'}
            ).get_data(as_text=True))


@way
def data_old_path(visitor, record):
    answer = visitor.http(
        'GET', f'/{DB_NAME}/ir/data/{record.model}',
        query_string={'f': record.fields})
    if answer.location:
        url = urlsplit(answer.location)
        answer = visitor.http('GET', url.path, query_string=url.query)
    return answer.get_data(as_text=True)


def html_path(visitor, record, field):
    return visitor.route('base', f'html/{record.model}/{record.id}/{field}')


@way
def html(visitor, record):
    return text([
            visitor.http('GET', html_path(visitor, record, name)
                ).get_data(as_text=True)
            for name in record.fields])


@way
def html_write(visitor, record):
    return text([
            visitor.http('POST', html_path(visitor, record, name), data={
                    'text': str(value), '_csrf_token': record.token,
                    }).get_data(as_text=True)
            for name, value in record.others.items()])


@way
def bus(visitor, record):
    return visitor.http(
        'POST', f'/{DB_NAME}/bus', content_type='application/json',
        data=text({'channels': [str(record)]})).get_data(as_text=True)


@way
def avatar(visitor, record):
    database = urlsafe_b64encode(DB_NAME.encode()).decode().rstrip('=')
    return text([
            visitor.http('GET', f'/avatar/{database}/{uuid}').status
            for uuid in [record, *record.canaries.values()]])


@way
def application(visitor, record):
    return visitor.http(
        'POST', visitor.route('user', 'application/'),
        content_type='application/json',
        data=text({'user': 'x', 'application': 'rest', **record.values,
                'resource': str(record)})).get_data(as_text=True)


@way
def application_delete(visitor, record):
    return visitor.http(
        'DELETE', visitor.route('user', 'application/'),
        content_type='application/json', data=text({
                'user': 'x', 'application': record.model, 'key': 'x'})
        ).get_data(as_text=True)


@way
def login(visitor, record):
    return text([
            visitor.http(
                'POST', f'/{DB_NAME}/session/login',
                content_type='application/json',
                data=text({'id': 1, 'params': ['x', {'password': str(record)}]}
                    )).get_data(as_text=True),
            visitor.json('common.db.login', 'x', {'password': 'x'})])


@way
def logout(visitor, record):
    # As if the key of the session were the id of the record
    visitor.client.set_cookie(
        'tryton_session', f'x:1:{record.id}', path=f'/{DB_NAME}')
    answer = visitor.http(
        'POST', f'/{DB_NAME}/session/logout',
        content_type='application/json', data=text({'id': 1, 'params': []}))
    visitor.client.delete_cookie('tryton_session', path=f'/{DB_NAME}')
    return answer.get_data(as_text=True)


@way
def common(visitor, record):
    return text([
            visitor.http('OPTIONS', '/').get_data(as_text=True),
            visitor.http('OPTIONS', f'/{record}').get_data(as_text=True),
            visitor.http('GET', f'/{DB_NAME}/r/{record}'
                ).get_data(as_text=True),
            visitor.http('GET', '/custom.js').get_data(as_text=True),
            visitor.http('GET', '/custom.css').get_data(as_text=True),
            visitor.http(
                'POST', '/rpc/', content_type='application/json',
                data=text({'id': 1, 'method': 'common.server.version',
                        'params': [str(record)]})).get_data(as_text=True),
            visitor.json('system.methodHelp', f'model.{record.model}.read')])
