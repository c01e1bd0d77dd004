# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The ways that lead to records of any model over other models"

from datetime import datetime
from unittest.mock import patch

from trytond.pool import Pool
from trytond.protocols.wrappers import HTTPStatus
from trytond.report import Report
from trytond.tests.test_tryton import DB_NAME
from trytond.worker import run_task

from .doors import REPORT, guess, text, way

CORE_REPORT = 'res.user.email_reset_password'


def wizard(method):
    def call(visitor, record):
        return visitor.json(
            f'wizard.res.user.setup_totp.{method}',
            *{
                'create': [],
                'execute': [record.id, {}, 'start'],
                'delete': [record.id],
                }[method], {})
    call.__name__ = f'wizard {method}'
    way(call)


for _name in ['create', 'execute', 'delete']:
    wizard(_name)


@way
def report(visitor, record):
    return visitor.json(
        f'report.{REPORT}.execute', [record.id],
        {'model': record.model, 'id': record.id, 'ids': [record.id]}, {})


@way
def report_of_others(visitor, record):
    "Run reports of the visitor's own on the records of the model"
    template = '{% for record in records %}' + ''.join(
        '${record.%s} ' % name for name in record.fields) + '{% end %}'
    answers = []
    # Reports of other modules need not be about users, as core's report is
    with patch.object(
            Pool(DB_NAME).get(CORE_REPORT, type='report'), 'get_context',
            Report.get_context):
        for name in [REPORT, CORE_REPORT]:
            ids = visitor.result('model.ir.action.report.create', [{
                        'name': "Report", 'report_name': name,
                        'model': record.model, 'template_extension': 'txt',
                        'report_content_custom': template.encode(),
                        }], {})
            answers.append(ids and visitor.json(
                    f'report.{name}.execute', [record.id],
                    {'action_id': ids[0]}, {}))
    return text(answers)


def search(visitor, model, ids):
    return lambda domain: visitor.json(
        f'model.{model}.search', [('id', 'in', ids), *domain], {})


@way
def reference(visitor, record):
    "Read records of the visitor and of others that refer to the record"
    answers = []
    for model, id_ in record.references.items():
        new = visitor.result(f'model.{model}.create', [{
                    'resource': str(record), 'name': "New", 'message': "New",
                    }], {}) or []
        for ids in [[id_], new]:
            paths = [f'resource.{name}' for name in record.fields]
            answers.append([
                    visitor.json(f'model.{model}.read', ids, [path], {})
                    for path in [*paths, 'resource.rec_name']])
            answers.append(visitor.json(
                    f'model.{model}.export_data', ids,
                    [path.replace('.', '/') for path in paths], {}))
            answers.append(guess(
                    record, search(visitor, model, ids),
                    prefix='resource.', suffix=[record.model]))
    return text(answers)


@way
def relation(visitor, record):
    "Follow the users who created a record to the model"
    answers = []
    for model, id_ in record.references.items():
        paths = [f'create_uid.{name}' for name in record.fields]
        answers.extend(
            visitor.json(f'model.{model}.read', [id_], [path], {})
            for path in paths)
        answers.append(guess(
                record, search(visitor, model, [id_]), prefix='create_uid.'))
    return text(answers)


@way
def export(visitor, record):
    "Use a saved export"
    visitor.json('model.ir.export.set', {
            'name': "Export", 'resource': record.model,
            'export_fields': [{'name': name} for name in record.fields],
            }, {})
    return visitor.json(
        'model.ir.export.get', record.model, [
            'name', 'resource', 'export_fields.name',
            *(f'create_uid.{name}' for name in record.fields)], {})


@way
def email(visitor, record):
    sent = []
    action = Pool(DB_NAME).get('ir.action.report')
    with visitor.case.transaction():
        reports = [r.id for r in action.search(
                [('report_name', '=', REPORT),
                    ('module', '=', 'authentication_totp')])]
    with patch(
            'trytond.ir.email_.send_message_transactional',
            lambda message, **_: sent.append(message)):
        answers = [visitor.json(
                'model.ir.email.send', 'x@example.com', '', '', "Subject",
                "Body", None, [record.model, record.id], chosen, None, {})
            for chosen in [reports, None]]
    contents = [
        part.get_payload(decode=True).decode(errors='replace')
        for message in sent for part in message.walk()
        if not part.is_multipart()]
    return text([*answers, *contents])


@way
def email_template(visitor, record):
    with visitor.case.transaction():
        model, = Pool().get('ir.model').search([('name', '=', record.model)])
        model_id = model.id
    ids = visitor.result('model.ir.email.template.create', [{
                'name': "Template", 'model': model_id,
                'subject': "${record.id}", 'body': ' '.join(
                    '${record.%s}' % name for name in record.fields),
                }], {})
    return text(ids and visitor.json(
            'model.ir.email.template.get', ids[0], record.id, {}))


@way
def chat(visitor, record):
    return text([
            visitor.json(f'model.ir.chat.channel.{method}', str(record),
                *params, {})
            for method, *params in [
                ['subscribe'], ['post', "Hello"], ['get'],
                ['get_followers']]])


@way
def notification(visitor, record):
    return text([
            visitor.json('model.res.notification.create', [{
                        'label': "New", 'model': record.model,
                        'records': text([record.id])}], {}),
            visitor.json('model.res.notification.get', {}),
            visitor.json('model.ir.model.get_notification', {})])


@way
def translation(visitor, record):
    return visitor.json(
        'model.ir.translation.search_read', [
            ('name', 'like', f'{record.model},%'),
            ('res_id', '=', record.id)],
        0, None, None, ['name', 'src', 'value'], {})


@way
def global_search(visitor, record):
    with visitor.case.transaction():
        model, = Pool().get('ir.model').search([('name', '=', record.model)])
        model_id = model.id
    return text([
            visitor.json(
                'model.ir.model.write', [model_id],
                {'global_search_p': True}, {}),
            *(visitor.json('model.ir.model.global_search', '', 1000, menu, {})
                for menu in [None, 'ir.ui.menu'])])


@way
def act_window(visitor, record):
    "Use actions of the visitor's own, whose tabs count records"
    ids = visitor.result('model.ir.action.act_window.create', [{
                'name': "Action", 'res_model': record.model,
                }], {})
    return text(ids and [
            visitor.json('model.ir.action.act_window.get', ids[0], {}),
            visitor.json(
                'model.ir.action.act_window.read', ids,
                ['rec_name', 'domains', 'pyson_domain'], {})])


def task(record):
    "Return a task for a worker: overwrite the record as the root user"
    return {
        'model': record.model, 'method': 'write', 'user': 0, 'context': {},
        'instances': [record.id], 'args': [{
                name: value for name, value in record.others.items()
                if not isinstance(value, datetime)}],
        'kwargs': {}}


@way
def queue(visitor, record):
    answer = visitor.http(
        'POST', f'/{DB_NAME}/rest/model/ir.queue', f'bearer {visitor.key}',
        content_type='application/json',
        data=text({'name': 'default', 'data': task(record)}))
    if answer.status_code == HTTPStatus.OK:
        run_task(Pool(DB_NAME), answer.json['id'])
    return answer.get_data(as_text=True)


@way
def queue_html(visitor, record):
    "Overwrite a task that waits"
    with visitor.case.transaction():
        Queue = Pool().get('ir.queue')
        waiting, = Queue.create([{'name': 'default', 'data': {}}])
        id_, token = waiting.id, visitor.case.token(waiting)
    answer = visitor.http(
        'POST', visitor.route('base', f'html/ir.queue/{id_}/data'), data={
            'text': text(task(record)), '_csrf_token': token})
    if answer.status_code == HTTPStatus.FOUND:
        run_task(Pool(DB_NAME), id_)
    return answer.get_data(as_text=True)


@way
def cron(visitor, record):
    ids = visitor.result('model.ir.cron.create', [{
                'method': f'{record.model}|delete',
                'interval_number': 1, 'interval_type': 'days',
                }], {})
    return text(ids and visitor.json('model.ir.cron.run_once', ids, {}))


@way
def trigger(visitor, record):
    with visitor.case.transaction():
        model, = Pool().get('ir.model').search([('name', '=', record.model)])
        model_id = model.id
    return visitor.json('model.ir.trigger.create', [{
                'name': "Trigger", 'model': model_id, 'on_time_': True,
                'condition': 'true', 'limit_number': 0,
                'action': f'{record.model}|delete',
                }], {})
