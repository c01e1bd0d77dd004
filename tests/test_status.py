# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import datetime as dt
import json
from base64 import b64encode

from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME

from .tools import (
    ADDRESS, KEY, PASSWORD, Refused, TOTPTestCase, right_code)

# The fields, each with values that a search may ask for
STATUS = {
    'totp_enabled': [True, False],
    'totp_mandatory': [True, False],
    'totp_required': [True, False],
    'totp_required_from': [None],
    'totp_mandatory_from': [None],
    'totp_authenticators': [None],
    'totp_since': [None],
    'totp_recovery_codes': [None, 0, 10],
    'totp_failures': [None, 0, 3],
    'totp_last_used': [None],
    'totp_waiting_until': [None],
    'totp_locked': [True, False],
    }


class StatusTestCase(TOTPTestCase):
    "Test what users learn about the TOTP of other users (law 3)"

    def setUp(self):
        super().setUp()
        self.lift_core_limit()
        self.set_totp('max_failures', '3')
        # The order of the ids reveals nothing
        self.colleagues = [
            self.colleague(totp) for totp in [True, False, False, True]]
        self.with_, self.without, *_ = self.colleagues
        self.reader, self.reader_id = self.user(KEY)
        with self.transaction() as transaction:
            pool = Pool()
            User = pool.get('res.user')
            Application = pool.get('res.user.application')
            # The relations lead back to the users themselves
            table = User.__table__()
            for user_id in [*self.colleagues, self.reader_id]:
                transaction.connection.cursor().execute(*table.update(
                        [table.create_uid, table.write_uid],
                        [user_id, user_id], where=table.id == user_id))
            self.applications = {
                application.user.id: application.id
                for application in Application.create([{
                            'user': user_id, 'application': 'rest'}
                        for user_id in [
                            *self.colleagues, self.reader_id]])}

    def colleague(self, totp):
        login, user_id = self.user()
        if totp:
            key, _ = self.client(login).set_up(self.now)
            # An authenticator that is ahead, a right code, and the lockout
            self.dialogue(
                login, password=[PASSWORD], totp_code=[
                    right_code(key, self.now, 1)])
            self.dialogue(
                login, password=[PASSWORD], totp_code=[
                    right_code(key, self.now, 95)] * 3)
            with self.transaction():
                User = Pool().get('res.user')
                User.write([User(user_id)], {
                        'totp_required': True,
                        'totp_required_from': dt.date(2026, 5, 5)})
        return user_id

    def truth(self, user_id):
        "Return what server code reads"
        with self.transaction():
            user = Pool().get('res.user')(user_id)
            return {name: getattr(user, name) for name in STATUS}

    def answer(self, rpc, model, method, *params):
        try:
            return rpc.model(model, method, *params)
        except Refused as refused:
            return f'refused: {refused}'

    def get(self, rpc, model, domain, *names, order=()):
        "Return the answer of the route that exports a CSV file"
        with self.transaction():
            is_82 = hasattr(Pool().get('res.user'), 'administrator')
        path = f'/{DB_NAME}/r/base/data' if is_82 else f'/{DB_NAME}/data'
        response = rpc.client.get(
            f'{path}/{model}', query_string=[
                ('d', json.dumps(domain)), ('h', '0'),
                *(('f', name) for name in names),
                *(('o', field) for field in order)],
            environ_base={'REMOTE_ADDR': ADDRESS},
            headers={'Authorization': 'Session ' + b64encode(
                    rpc.session.encode()).decode()})
        return response.status_code, response.data.decode()

    def clauses(self, prefix=''):
        for name, values in STATUS.items():
            for value in values:
                for operator in ['=', '!=']:
                    yield prefix + name, operator, value
            yield prefix + name, 'in', values
            yield prefix + name, 'not in', values
        for name in ['totp_recovery_codes', 'totp_failures']:
            yield prefix + name, '>', 0

    def questions(self, user_id):
        "Yield every question that a user may ask about another one"
        where = ('id', '=', user_id)
        names = list(STATUS)
        yield 'res.user', 'read', [user_id], names
        yield 'res.user', 'read', [user_id, self.reader_id], names
        yield 'res.user', 'search_read', [where], 0, None, None, names
        yield 'res.user', 'export_data', [user_id], names
        yield 'res.user', 'export_data_domain', [where], names
        for relation in ['create_uid', 'write_uid']:
            paths = [f'{relation}.{name}' for name in names]
            yield 'res.user', 'read', [user_id], paths
            yield 'res.user', 'export_data', [user_id], [
                path.replace('.', '/') for path in paths]
        for clause in [
                *self.clauses(), *self.clauses('create_uid.'),
                *self.clauses('write_uid.'),
                *(('write_uid', 'where', [c]) for c in self.clauses()),
                *(('create_uid', 'not where', [c])
                    for c in self.clauses())]:
            yield 'res.user', 'search', [where, clause]
            yield 'res.user', 'search_count', [where, clause]
        for clause in self.clauses('user.'):
            for method in ['search', 'search_count']:
                yield 'res.user.application', method, [
                    ('id', '=', self.applications[user_id]), clause]
        yield 'res.user.application', 'read', [
            self.applications[user_id]], [f'user.{name}' for name in names]

    def anonymous(self, answer, user_id):
        "Return the answer without the ids, which are all that may differ"
        ids = {user_id, self.applications[user_id]}
        if isinstance(answer, str):
            # A refusal names the record
            for id_ in ids:
                answer = answer.replace(f'"{id_}"', 'ID')
        if not isinstance(answer, list):
            return answer
        return [
            'ID' if isinstance(row, int) and row in ids
            else {**row, 'id': 'ID'} if isinstance(row, dict)
            and row['id'] in ids
            else row for row in answer]

    def about(self, rpc, user_id):
        "Yield the questions about the user, with the answers"
        for model, method, *params in self.questions(user_id):
            answer = self.answer(rpc, model, method, *params)
            self.assertNotIn(answer, ['refused: 500', 'refused: 404'])
            answer = self.anonymous(answer, user_id)
            if method == 'read':
                # Every answer with relations contains these ids
                for row in answer:
                    for name in {'create_uid.', 'write_uid.', 'user.'} & {
                            *row}:
                        row[name] = {**row[name], 'id': 'ID'}
            yield (model, method, *params), answer

    def assertMasked(self, rpc):
        "Check that all answers about the two colleagues are the same"
        for (question, answer), (_, other) in zip(
                self.about(rpc, self.with_), self.about(rpc, self.without),
                strict=True):
            with self.subTest(question=question):
                self.assertEqual(answer, other)

    def test_truth(self):
        "Test that server code that runs as the root user sees everything"
        truth = self.truth(self.with_)
        for value in truth.values():
            self.assertTrue(value)
        for value in self.truth(self.without).values():
            self.assertFalse(value)

    def test_read(self):
        "Test that users read nothing of a colleague's status"
        rpc = self.client(self.reader)
        for user_id in self.colleagues:
            values, = rpc.model('res.user', 'read', [user_id], list(STATUS))
            for name in STATUS:
                self.assertIn(values[name], [None, False, 0], name)
        # The same holds for a list of several users
        for values in rpc.model(
                'res.user', 'read', [*self.colleagues, self.reader_id],
                list(STATUS)):
            self.assertEqual(
                bool(values['totp_enabled']), values['id'] == self.reader_id)

    def test_questions(self):
        "Test that no search reveals a colleague's status"
        self.assertMasked(self.client(self.reader))

    def test_order(self):
        "Test that no order reveals a colleague's status"
        rpc = self.client(self.reader)
        ids = sorted(self.colleagues)
        for prefix in ['', 'write_uid.', 'create_uid.']:
            for name in STATUS:
                for direction in [
                        'ASC', 'DESC', 'ASC NULLS FIRST', 'DESC NULLS LAST']:
                    order = [(prefix + name, direction), ('id', 'ASC')]
                    with self.subTest(order=order):
                        try:
                            found = rpc.model(
                                'res.user', 'search', [('id', 'in', ids)], 0,
                                None, order)
                        except Refused:
                            continue
                        self.assertEqual(found, ids)

    def test_route(self):
        "Test that the route that exports data reveals nothing either"
        rpc = self.client(self.reader)
        names = list(STATUS)
        answers = []
        for user_id in [self.with_, self.without]:
            where = ['id', '=', user_id]
            answers.append([
                    self.get(rpc, 'res.user', [where], *names),
                    self.get(rpc, 'res.user', [user_id], *names),
                    self.get(rpc, 'res.user', [where], *(
                            f'write_uid/{name}' for name in names)),
                    *(self.get(rpc, 'res.user', [where, clause], 'login')[
                            1] == ''
                        for clause in [
                            *self.clauses(), *self.clauses('write_uid.')]),
                    ])
        self.assertEqual(*answers)
        for status, _ in answers[0][:3]:
            self.assertEqual(status, 200)
        status, data = self.get(
            rpc, 'res.user', [['id', '=', self.reader_id]], 'totp_enabled')
        self.assertEqual((status, data.strip()), (200, '1'))

    def test_own(self):
        "Test that users see their own status in each of these ways"
        rpc = self.client(self.reader)
        names = list(STATUS)
        truth = self.truth(self.reader_id)
        self.assertTrue(truth['totp_enabled'])
        self.dialogue(
            self.reader, password=[PASSWORD],
            totp_code=[self.code(95)])
        truth = self.truth(self.reader_id)
        self.assertEqual(truth['totp_failures'], 1)
        values, = rpc.model('res.user', 'read', [self.reader_id], names)
        self.assertEqual({name: values[name] for name in names}, truth)
        own = ('id', '=', self.reader_id)
        for clause, found in [
                (('totp_enabled', '=', True), True),
                (('totp_enabled', '=', False), False),
                (('totp_enabled', '!=', True), False),
                (('totp_mandatory', '=', True), False),
                (('totp_mandatory', '=', False), True),
                (('totp_locked', '=', False), True),
                (('write_uid.totp_enabled', '=', True), True),
                (('create_uid.totp_enabled', '=', False), False),
                ]:
            with self.subTest(clause=clause):
                expected = [self.reader_id] if found else []
                self.assertEqual(
                    rpc.model('res.user', 'search', [own, clause]), expected)
                self.assertEqual(
                    rpc.model('res.user', 'search_count', [own, clause]),
                    len(expected))
        for value, expected in [
                (True, [self.applications[self.reader_id]]), (False, [])]:
            self.assertEqual(
                rpc.model(
                    'res.user.application', 'search',
                    [('user.totp_enabled', '=', value)]), expected)
        (enabled, failures), = rpc.model(
            'res.user', 'export_data', [self.reader_id],
            ['totp_enabled', 'totp_failures'])
        self.assertEqual((enabled, failures), (True, 1))
        # The search finds no other user
        self.assertEqual(
            rpc.model('res.user', 'search', [('totp_enabled', '=', True)]),
            [self.reader_id])

    def assertSeen(self, rpc, user_id):
        truth = self.truth(user_id)
        values, = rpc.model('res.user', 'read', [user_id], list(STATUS))
        self.assertEqual({name: values[name] for name in STATUS}, truth)
        for name in ['totp_enabled', 'totp_mandatory', 'totp_locked']:
            for value in [True, False]:
                self.assertEqual(
                    rpc.model('res.user', 'search', [
                            ('id', '=', user_id), (name, '=', value)]),
                    [user_id] if truth[name] == value else [], name)

    def test_manager(self):
        "Test that managers see the status of the users that they may write"
        *others, last = self.colleagues
        manager, _ = self.manager(last)
        rpc = self.client(manager)
        self.assertSeen(rpc, last)
        self.assertMasked(rpc)
        self.assertEqual(
            rpc.model('res.user', 'search', [
                    ('id', 'in', self.colleagues),
                    ('totp_enabled', '=', True)]),
            [last])

    def test_administrator(self):
        "Test that administrators see the status of all"
        admin, _ = self.user(administrator=True)
        rpc = self.client(admin)
        for user_id in [*self.colleagues, self.reader_id]:
            self.assertSeen(rpc, user_id)
        found = rpc.model(
            'res.user', 'search', [
                ('id', 'in', self.colleagues), ('totp_enabled', '=', True)])
        self.assertEqual(
            set(found), {self.colleagues[0], self.colleagues[3]})

    def test_list(self):
        "Test that the list of users still opens for ordinary users"
        rpc = self.client(self.reader)
        with self.transaction():
            ModelData = Pool().get('ir.model.data')
            views = [
                ModelData.get_id('res', f'user_view_{type_}')
                for type_ in ['tree', 'form']]
        for view_id, type_ in zip(views, ['tree', 'form'], strict=True):
            with self.subTest(type=type_):
                view = rpc.model(
                    'res.user', 'fields_view_get', view_id, type_)
                names = list(view['fields'])
                self.assertIn('totp_enabled', names)
                ids = rpc.model('res.user', 'search', [], 0, 1000, None)
                self.assertLessEqual({*self.colleagues}, {*ids})
                values = rpc.model('res.user', 'read', ids, names)
                self.assertEqual(len(values), len(ids))
