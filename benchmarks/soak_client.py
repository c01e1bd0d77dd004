# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"A client of the servers of the soak, which may be killed at any time"

import http.client
import json
from base64 import b64encode

from trytond.protocols.jsonrpc import JSONDecoder, JSONEncoder

TIMEOUT = 120


class Interrupted(Exception):
    "The server did not answer, so the request may have been carried out"


class Refused(Exception):
    "The error or the HTTP status with which the server refused a request"

    @property
    def name(self):
        "Return the name of the error, or the HTTP status."
        return self.args[0]

    @property
    def message(self):
        "Return the text that the user sees."
        return ' '.join(map(str, self.args[1:]))


class Client:
    """A client of one of the servers

    port: the port of the server
    database: the name of the database
    address: the IP address that its requests claim
    """

    def __init__(self, port, database, address):
        self.port = port
        self.database = database
        self.address = address
        self.session = None

    def call(self, method, *params):
        "Call the method by JSON-RPC on a new connection."
        headers = {
            'Content-Type': 'application/json',
            'X-Forwarded-For': self.address,
            }
        if self.session:
            headers['Authorization'] = (
                'Session ' + b64encode(self.session.encode()).decode())
        data = json.dumps(
            {'id': 1, 'method': method, 'params': params}, cls=JSONEncoder)
        connection = http.client.HTTPConnection(
            '127.0.0.1', self.port, timeout=TIMEOUT)
        try:
            connection.request(
                'POST', f'/{self.database}/rpc/', data, headers)
            response = connection.getresponse()
            status, body = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Interrupted(type(error).__name__) from error
        finally:
            connection.close()
        if status in {404, 503}:
            # Trytond answers so if the database has ended the connection, and
            # 404 also after too many conflicts between simultaneous logins
            raise Interrupted(status)
        if status != 200:
            raise Refused(status, body.decode(errors='replace')[:200])
        answer = json.loads(body, object_hook=JSONDecoder())
        if 'error' in answer:
            name, *texts = answer['error']
            raise Refused(name, *texts)
        return answer['result']

    def login(self, login, parameters):
        "Log in, and keep the session."
        user_id, session, *_ = self.call(
            'common.db.login', login, parameters, 'en')
        self.session = f'{login}:{user_id}:{session}'

    def logout(self):
        "End the session."
        self.call('common.db.logout')

    def model(self, name, method, *params, **context):
        "Call a method of the model."
        return self.call(f'model.{name}.{method}', *params, context)

    def wizard(self, name, method, *params, **context):
        "Call a method of the wizard."
        return self.call(f'wizard.{name}.{method}', *params, context)
