# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import itertools
import logging
from unittest.mock import patch

from sql.functions import CurrentTimestamp

from trytond import __series__
from trytond.model import ModelSingleton, ModelSQL, fields
from trytond.modules.authentication_totp import totp
from trytond.pool import Pool
from trytond.protocols.wrappers import HTTPStatus
from trytond.tests.test_tryton import DB_NAME
from trytond.transaction import Transaction
from trytond.wsgi import app

from . import indirect_doors  # noqa: F401
from .doors import METHODS, WAYS, Record, Visitor
from .tools import KEY, PASSWORD, TOTPTestCase

MANAGERS = {'manager', 'administrator'}
USERS = {'user', *MANAGERS}
EVERYBODY = {'nobody', *USERS}

EVENT = 'res.user.totp_event'
TOKEN = 'res.user.totp_token'
# Among the fields of users, only the secrets
USER = 'res.user'
SECRETS = ['totp_secret', 'totp_pending_secret']
# What the module stores
STORED = {
    'res.user.totp_administrators',
    'res.user.totp_counter',
    'res.user.totp_decoy_key',
    'res.user.totp_guess',
    'res.user.totp_recovery_code',
    'res.user.totp_token_file',
    EVENT, TOKEN,
    }
# What core stores and the module relies on
CORE = {
    'ir.session',
    'ir.session.wizard',
    'res.user.device',
    'res.user.login.attempt',
    }
# What the module extends
# The fields of a token that nobody can read, whatever else of it is open
HIDDEN = ['secret', 'number', 'counter', 'resync']
EXTENDED = {
    USER, 'ir.configuration', 'ir.cron', 'ir.model.access', 'ir.rule',
    'ir.ui.menu', 'res.group'}
# What wizards show and nothing stores
VIEWS = {
    'res.user.assign_totp_token.start',
    'res.user.forget_totp_devices.start',
    'res.user.import_totp_tokens.done',
    'res.user.import_totp_tokens.line',
    'res.user.import_totp_tokens.preview',
    'res.user.import_totp_tokens.start',
    'res.user.invite_totp.done',
    'res.user.invite_totp.start',
    'res.user.remove_totp_authenticator.start',
    'res.user.reset_totp.start',
    'res.user.setup_totp.authenticator',
    'res.user.setup_totp.device',
    'res.user.setup_totp.done',
    'res.user.setup_totp.overview',
    'res.user.setup_totp.start',
    'res.user.setup_totp.token',
    'res.user.totp_token.selection',
    }

MODEL_RPC = {'default_get', 'fields_get', 'pre_validate'}
VIEW_RPC = MODEL_RPC | {
    'autocomplete', 'fields_view_get', 'on_change', 'on_change_notify',
    'on_change_with', 'on_scan_code', 'view_toolbar_get'}
STORED_VIEW_RPC = VIEW_RPC | {
    'copy', 'create', 'delete', 'export_data', 'export_data_domain',
    'history_revisions', 'import_data', 'read', 'resources', 'search',
    'search_count', 'search_read', 'write'}
RPC_METHODS = {
    **dict.fromkeys(VIEWS, VIEW_RPC),
    'res.user.forget_totp_devices.start': VIEW_RPC | {'get_devices'},
    'res.user.remove_totp_authenticator.start': VIEW_RPC | {
        'get_authenticators'},
    'res.user.setup_totp.overview': VIEW_RPC | {
        'get_authenticators', 'get_devices'},
    **dict.fromkeys(STORED, MODEL_RPC),
    EVENT: STORED_VIEW_RPC,
    TOKEN: STORED_VIEW_RPC,
    'ir.session': set(),
    'ir.session.wizard': set(),
    'res.user.device': MODEL_RPC | {'renew'},
    'res.user.login.attempt': MODEL_RPC,
    }

DB = '/<database_name>'
JSON = '/<string:database_name>/rpc/'
REST = DB + '/rest/model/<name>'
REST_ID = REST + '/<int:id>'
HTML = DB + '/ir/html/<model>/<int:record>/<field>'
NEW_HTML = DB + '/r/base/html/<model>/<int:record>/<field>'
DATA = DB + '/data/<model>'
NEW_DATA = DB + '/r/base/data/<model>'
OLD_DATA = DB + '/ir/data/<model>'
APPLICATION = DB + '/user/application/'
NEW_APPLICATION = DB + '/r/user/application/'
# The routes that exist in one series only
ONLY = {
    '8.0': {('GET', DATA), ('GET', HTML), ('POST', HTML)},
    '8.2': {
        ('GET', NEW_DATA), ('GET', OLD_DATA),
        ('GET', NEW_HTML), ('POST', NEW_HTML),
        ('POST', NEW_APPLICATION), ('DELETE', NEW_APPLICATION),
        ('*', '/<db>/r/<path:path>'),
        ('GET', '/custom.js'), ('GET', '/custom.css')},
    }

# For each way the routes it takes, and for each model the roles that read or
# change something of a record by it. A model that is not named is closed to
# everybody.
EVENTS = {EVENT: MANAGERS, TOKEN: MANAGERS}
TABLE = {
    **{f'{protocol} {name}': ([('POST', JSON)], {})
        for protocol in ['rpc', 'xml'] for name in METHODS},
    **{f'{protocol} {name}': ([('POST', JSON)], EVENTS)
        for protocol in ['rpc', 'xml'] for name in [
            'read', 'search_read', 'export_data', 'export_data_domain']},
    # Tokens have a name to search for
    **{f'{protocol} autocomplete': ([('POST', JSON)], {TOKEN: MANAGERS})
        for protocol in ['rpc', 'xml']},
    # A device gets a cookie of its own
    **{f'{protocol} renew': ([('POST', JSON)], {'res.user.device': USERS})
        for protocol in ['rpc', 'xml']},
    'rpc_search': ([('POST', JSON)], EVENTS),
    'xml_search': ([('POST', JSON)], EVENTS),
    'server_methods': ([('POST', JSON)], {}),
    'rest_search': ([('GET', REST)], EVENTS),
    'rest_guess': ([('GET', REST)], EVENTS),
    'rest_get': ([('GET', REST_ID)], EVENTS),
    'rest_create': ([('POST', REST)], {}),
    'rest_update': ([('PUT', REST_ID)], {}),
    'rest_delete': ([('DELETE', REST_ID)], {}),
    'rest_action': ([('POST', REST + '/<action>')], EVENTS),
    'rest_action_on_record': ([('POST', REST_ID + '/<action>')], EVENTS),
    'rest_report': (
        [('GET', DB + '/rest/report/<name>/<int:id>')], {}),
    'data': ([('GET', DATA), ('GET', NEW_DATA)], EVENTS),
    'data_guess': ([('GET', DATA), ('GET', NEW_DATA)], EVENTS),
    'data_old_path': ([('GET', OLD_DATA)], EVENTS),
    'html': ([('GET', HTML), ('GET', NEW_HTML)], EVENTS),
    'html_write': ([('POST', HTML), ('POST', NEW_HTML)], {}),
    # The bus is off unless configured
    'bus': ([('POST', '/<string:database_name>/bus')], {}),
    'avatar': ([('GET', '/avatar/<base64:database_name>/<uuid>')], {}),
    'application': ([('POST', APPLICATION), ('POST', NEW_APPLICATION)], {}),
    # A failed login leaves an attempt
    'application_delete': (
        [('DELETE', APPLICATION), ('DELETE', NEW_APPLICATION)],
        {'res.user.login.attempt': EVERYBODY}),
    'login': (
        [('POST', '/<string:database_name>/session/login'), ('POST', JSON)],
        {'res.user.login.attempt': EVERYBODY}),
    'logout': ([('POST', '/<string:database_name>/session/logout')], {}),
    'common': ([
            ('OPTIONS', '/'), ('OPTIONS', '/<path:path>'),
            ('*', '/<db>/r/<path:path>'), ('GET', '/custom.js'),
            ('GET', '/custom.css'), ('POST', '/rpc/'), ('POST', JSON),
            ], {}),
    # Users have sessions of wizards, but none of another user
    'wizard create': ([('POST', JSON)], {'ir.session.wizard': USERS}),
    'wizard execute': ([('POST', JSON)], {}),
    'wizard delete': ([('POST', JSON)], {}),
    'report': ([('POST', JSON)], {}),
    'report_of_others': (
        [('POST', JSON)], dict.fromkeys([EVENT, TOKEN], {'administrator'})),
    'reference': ([('POST', JSON)], EVENTS),
    'relation': ([('POST', JSON)], {}),
    'export': ([('POST', JSON)], {}),
    'email': ([('POST', JSON)], {}),
    'email_template': (
        [('POST', JSON)], dict.fromkeys([EVENT, TOKEN], {'administrator'})),
    'chat': ([('POST', JSON)], {TOKEN: MANAGERS}),
    'notification': ([('POST', JSON)], {}),
    'translation': ([('POST', JSON)], {}),
    'global_search': ([('POST', JSON)], {TOKEN: {'administrator'}}),
    'act_window': ([('POST', JSON)], {}),
    'queue': ([('POST', REST)], {}),
    'queue_html': ([('POST', HTML), ('POST', NEW_HTML)], {}),
    'cron': ([('POST', JSON)], {}),
    'trigger': ([('POST', JSON)], {}),
    }
# What core answers for models that are not stored: mostly server errors, as it
# calls methods that these models do not have
ERRORS = {HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR}
VIEW_STATUS = {
    **dict.fromkeys(
        [f'{protocol} {name}' for protocol in ['rpc', 'xml']
            for name in STORED_VIEW_RPC - VIEW_RPC - {
                'search', 'search_count'}], {HTTPStatus.FORBIDDEN}),
    **dict.fromkeys([
            'rest_search', 'rest_get', 'rest_create', 'rest_update',
            'rest_delete', 'rest_report'], ERRORS),
    'rest_action': {HTTPStatus.FORBIDDEN},
    'rest_action_on_record': {HTTPStatus.FORBIDDEN},
    'data': {HTTPStatus.INTERNAL_SERVER_ERROR},
    'data_old_path': ERRORS | {
        HTTPStatus.FOUND, HTTPStatus.METHOD_NOT_ALLOWED},
    'html': {HTTPStatus.INTERNAL_SERVER_ERROR},
    'html_write': {HTTPStatus.INTERNAL_SERVER_ERROR},
    }


class DoorsTestCase(TOTPTestCase):
    "Users of every role, and records that they are after"
    authentications = 'password'

    def setUp(self):
        super().setUp()
        # The server logs each refusal, often as an exception
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)
        for name in ['trytond.res.routes.time', 'trytond.security.time']:
            patcher = patch(name)
            patcher.start()
            self.addCleanup(patcher.stop)
        self.lift_core_limit()
        self.numbers = itertools.count(1_234_500_000)
        self.owner, self.owner_id = self.user(KEY)

    def visitors(self):
        visitors = {'nobody': Visitor(self)}
        for role in ['user', 'manager', 'administrator']:
            login, user_id = self.user(
                administrator=role == 'administrator')
            visitors[role] = visitor = Visitor(self)
            visitor.login(login, password=PASSWORD)
            with self.transaction():
                pool = Pool()
                visitor.key = pool.get('res.user.application').create([{
                            'user': user_id,
                            'application': 'rest',
                            'state': 'validated',
                            }])[0].key
                if role == 'manager':
                    group, = pool.get('res.group').create([{
                                'name': login, 'users': [
                                    ('add', [user_id])]}])
                    pool.get('ir.model.access').create([{
                                'model': USER, 'group': group.id,
                                'perm_read': True, 'perm_write': True}])
        return visitors

    @staticmethod
    def token(record):
        "Return the token that the HTML editor needs to write the record"
        return str(record.last_modified_at.timestamp())

    def columns(self, Model):
        if Model.__name__ == USER:
            return SECRETS
        return [
            name for name, field in Model._fields.items()
            if name not in {
                'id', 'create_uid', 'create_date', 'write_uid', 'write_date'}
            and not (Model.__name__ == TOKEN and name in HIDDEN)
            and not isinstance(field, fields.Function)]

    def value(self, field):
        "Return a value that appears nowhere else, if its type allows it"
        number = next(self.numbers)
        return {
            'boolean': False,
            'char': f'canary {number}',
            'date': dt.date(2009, 2, 13),
            'datetime': dt.datetime(2009, 2, 13),
            'float': number + .5,
            'integer': number,
            'many2one': self.owner_id,
            'selection': (
                field.selection[0][0] if field._type == 'selection'
                else None),
            'timestamp': dt.datetime(2009, 2, 13, 23, 31, 30),
            # As the session of a wizard is stored
            'text': '{"start": {"code": "canary %d"}}' % number,
            }[field._type]

    def plant_singleton(self, Model, values):
        "Change the only row until the test ends, and return its id"
        table = Model.__table__()
        columns = [getattr(table, name) for name in values]
        for id_, *before in self.execute(
                table.select(table.id, *columns)).fetchall():
            self.addCleanup(
                self.commit, table.update(
                    columns, before, where=table.id == id_))
            self.execute(table.update(
                    [*columns, table.create_date],
                    [*values.values(), CurrentTimestamp()],
                    where=table.id == id_))
            return id_
        return self.insert(Model.__name__, values)

    def commit(self, query):
        with self.transaction():
            self.execute(query)

    def plant(self, model):
        "Store a record of the owner in the model, and references to it"
        with self.transaction():
            pool = Pool()
            Model = pool.get(model)
            values = {
                name: self.value(Model._fields[name])
                for name in self.columns(Model)}
            if model == USER:
                id_ = self.owner_id
                table = Model.__table__()
                self.execute(table.update(
                        [getattr(table, name) for name in values],
                        list(values.values()), where=table.id == id_))
            elif issubclass(Model, ModelSingleton):
                id_ = self.plant_singleton(Model, values)
            else:
                id_ = self.insert(model, values)
            references = {
                reference: self.insert(reference, {
                        'resource': f'{model},{id_}', **values_})
                for reference, values_ in {
                    'ir.attachment': {'name': "Name", 'type': 'data'},
                    'ir.model.log': {'user': self.owner_id, 'event': 'write'},
                    'ir.note': {'message': "Message"},
                    }.items()}
            record = Record(
                model, id_, values, self.token(Model(id_)), references)
        # A boolean gives nothing away, but can be changed
        self.assertTrue(record.canaries or 'required' in values)
        return record

    def execute(self, query):
        cursor = Transaction().connection.cursor()
        cursor.execute(*query)
        return cursor

    def insert(self, model, values):
        Model = Pool().get(model)
        table = Model.__table__()
        columns = ['create_uid', 'create_date', *values]
        self.execute(table.insert(
                [getattr(table, name) for name in columns],
                [[self.owner_id, CurrentTimestamp(), *values.values()]]))
        return max(id_ for id_, in self.execute(table.select(table.id)))

    def rows(self, record):
        "Return the record and those that were stored after it"
        with self.transaction():
            Model = Pool().get(record.model)
            table = Model.__table__()
            columns = [
                getattr(table, name) for name in self.columns(Model)]
        rows = self.sql(table.select(
                table.id, *columns, where=table.id >= record.id,
                order_by=[table.id]))
        return [row for row in rows if any(row[1:])]

    def uproot(self, record):
        with self.transaction():
            Model = Pool().get(record.model)
            # Another one takes the place of a singleton
            if not (record.model == USER
                    or issubclass(Model, ModelSingleton)):
                table = Model.__table__()
                self.execute(table.delete(where=table.id >= record.id))


class TableTestCase(DoorsTestCase):
    "Test that no way leads to more than the table says (law 3)"

    def test_models(self):
        "Test that the table names each model of the module"
        module = totp.__name__.rpartition('.')[0]
        with self.transaction():
            models = {
                name: Model for name, Model in Pool().iterobject()
                if any(cls.__module__.startswith(f'{module}.')
                    for cls in Model.__mro__)}
        self.assertEqual(models.keys() - CORE, STORED | VIEWS | EXTENDED)
        self.assertEqual(
            {name for name, Model in models.items()
                if issubclass(Model, ModelSQL)} - CORE,
            STORED | EXTENDED)

    def test_routes(self):
        "Test that the table names each route of trytond and the module"
        routes = self.routes()
        listed = {route for taken, _ in TABLE.values() for route in taken}
        self.assertEqual(routes - listed, set())
        self.assertEqual(listed - routes, {
                route for series, taken in ONLY.items()
                for route in taken if series != __series__})

    @staticmethod
    def routes():
        routes = set()
        for rule in app.url_map.iter_rules():
            if getattr(rule.endpoint, '__module__', '').startswith(
                    'trytond.modules.') and not (
                        rule.endpoint.__module__.startswith(
                            totp.__name__.rpartition('.')[0])):
                # Of a module that is installed, but not activated
                continue
            path = rule.rule.replace(f'/{DB_NAME}/r/', f'{DB}/r/')
            for method in (rule.methods or {'*'}) - {'HEAD'}:
                routes.add((method, path))
        return routes

    def test_rpc_methods(self):
        "Test that the table names each method that clients may call"
        with self.transaction():
            pool = Pool()
            for model, methods in RPC_METHODS.items():
                with self.subTest(model=model):
                    self.assertEqual(
                        pool.get(model).__rpc__.keys(), methods)
            self.assertEqual(
                {n for n in pool.get(USER).__rpc__ if 'totp' in n},
                {'unlock_totp', 'open_invite_totp',
                    'open_forget_totp_devices',
                    'open_remove_totp_authenticator', 'open_reset_totp'})

    def test_ways(self):
        "Test each way to each model as each role"
        self.assertEqual(TABLE.keys(), WAYS.keys())
        visitors = self.visitors()
        opened = set()
        for model in sorted(STORED | CORE | {USER}):
            record = self.plant(model)
            before = self.rows(record)
            for name, way in WAYS.items():
                for role, visitor in visitors.items():
                    told = way(visitor, record)
                    changed = self.rows(record) != before
                    if changed:
                        self.uproot(record)
                    if changed or any(
                            canary in told
                            for canary in record.canaries.values()):
                        opened.add((name, model, role))
                        record = self.plant(model)
                        before = self.rows(record)
            self.uproot(record)
        routes = self.routes()
        self.assertEqual(opened, {
                (name, model, role)
                for name, (taken, models) in TABLE.items()
                for model, roles in models.items()
                for role in roles
                if routes.intersection(taken)})

    def test_ways_hidden(self):
        "Test that no way leads to the hidden fields of a token"
        visitors = self.visitors()
        record = self.plant(TOKEN)
        with self.transaction():
            Token = Pool().get(TOKEN)
            table = Token.__table__()
            values = {
                name: self.value(Token._fields[name]) for name in HIDDEN}
            columns = [getattr(table, name) for name in HIDDEN]
            self.execute(table.update(
                    columns, list(values.values()),
                    where=table.id == record.id))
        query = table.select(*columns, where=table.id == record.id)
        record = record._replace(values=values)
        before = self.sql(query)
        self.assertEqual(before, [tuple(values.values())])
        for name, way in WAYS.items():
            for role, visitor in visitors.items():
                with self.subTest(way=name, role=role):
                    told = way(visitor, record)
                    for canary in record.canaries.values():
                        self.assertNotIn(canary, told)
                    self.assertEqual(self.sql(query), before)
        self.uproot(record)

    def test_views(self):
        "Test that no way leads to data of models that are not stored"
        visitors = self.visitors()
        for model in sorted(VIEWS):
            record = Record(model, 1, {'code': ''}, '', {})
            for name, allowed in VIEW_STATUS.items():
                for role, visitor in visitors.items():
                    with self.subTest(model=model, way=name, role=role):
                        visitor.statuses.clear()
                        WAYS[name](visitor, record)
                        self.assertTrue(visitor.statuses)
                        self.assertLessEqual(
                            set(visitor.statuses),
                            allowed | {HTTPStatus.UNAUTHORIZED})
