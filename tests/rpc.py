# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

"A client of the server, which uses JSON-RPC and the wizard as Tryton's do"

import gzip
import json
from base64 import b64encode

import pyotp

from trytond.protocols.jsonrpc import JSONDecoder, JSONEncoder
from trytond.protocols.wrappers import Response
from trytond.tests.test_tryton import DB_NAME, Client
from trytond.wsgi import app

ADDRESS = '192.0.2.7'
# In bytes: the desktop client compresses longer requests
COMPRESSED = 1400


def right_code(key, time, steps=0):
    "Return the code of an authenticator that does not use passlib"
    return pyotp.TOTP(key.replace(' ', '')).at(time + steps * 30)


class Refused(Exception):
    "The error or the HTTP status with which a JSON-RPC call was refused"


class RPC:
    "A JSON-RPC client, which talks to the server as Tryton's clients do"

    host = 'localhost'

    def __init__(self, **headers):
        self.client = Client(app, Response)
        self.session = None
        self.headers = headers

    def post(self, method, *params, compress=False):
        headers = {'Host': self.host, **self.headers}
        if self.session:
            headers['Authorization'] = (
                'Session ' + b64encode(self.session.encode()).decode())
        data = json.dumps(
            {'id': 1, 'method': method, 'params': params}, cls=JSONEncoder,
            separators=(',', ':')).encode()
        if compress and len(data) > COMPRESSED:
            headers['Content-Encoding'] = 'gzip'
            data = gzip.compress(data)
        return self.client.post(
            f'/{DB_NAME}/rpc/', content_type='application/json',
            headers=headers, environ_base={'REMOTE_ADDR': ADDRESS}, data=data)

    def call(self, method, *params, compress=False):
        response = self.post(method, *params, compress=compress)
        if response.status_code != 200:
            raise Refused(response.status_code)
        answer = json.loads(response.data, object_hook=JSONDecoder())
        if 'error' in answer:
            raise Refused(*answer['error'])
        return answer['result']

    def login(self, login, **parameters):
        user_id, session, _ = self.call(
            'common.db.login', login, parameters, 'en')
        self.session = f'{login}:{user_id}:{session}'
        return user_id

    def model(self, model, method, *params):
        return self.call(f'model.{model}.{method}', *params, {})

    def wizard(self, method, *params):
        return self.call(f'wizard.res.user.setup_totp.{method}', *params, {})

    def overview(self, button=None, code=None, **values):
        """Open the overview, enter the code and press the button

        Return the id of the wizard's session, and the defaults of the view
        that is shown next, or None without such a view.
        """
        session_id, start, _ = self.wizard('create')
        result = self.wizard('execute', session_id, {}, start)
        if button:
            result = self.wizard(
                'execute', session_id,
                {start: {'code': code, **values}}, button)
        view = result.get('view')
        return session_id, view['defaults'] if view else None

    def turn_off(self, code):
        "Turn TOTP off, and confirm the warning"
        try:
            return self.overview('turn_off', code=code)
        except Refused as refused:
            self.accept(refused)
        return self.overview('turn_off', code=code)

    def accept(self, refused):
        "Accept the warning, or raise any other refusal again"
        if refused.args[0] != 'UserWarning':
            raise refused
        self.model('res.user.warning', 'skip', refused.args[1][0])

    def start_setup(self, code=None, button='replace'):
        """Start the setup of an authenticator

        code: a code or a recovery code, if the user has an authenticator
        Return the same as overview.
        """
        session_id, shown = self.overview()
        if code is not None:
            session_id, shown = self.overview(button, code=code)
        return session_id, shown

    def confirm_setup(self, session_id, shown, code=None, **values):
        return self.wizard(
            'execute', session_id,
            {'start': {**shown, 'code': code, **values}},
            'confirm')['view']['state']

    def set_up(self, now, code=None):
        "Set up TOTP. Return the key and the recovery codes that are shown"
        session_id, shown = self.start_setup(code)
        code = right_code(shown['secret'], now)
        result = self.wizard(
            'execute', session_id, {'start': {**shown, 'code': code}},
            'confirm')
        return (
            shown['secret'],
            result['view']['defaults'][
                    'recovery_codes'].splitlines())
