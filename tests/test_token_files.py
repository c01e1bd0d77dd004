# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import base64
import csv
import io
import traceback
import unittest
from pathlib import Path
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from trytond.modules.authentication_totp import (
    tokenfile, tokenfile_pskc, totp)
from trytond.modules.authentication_totp.tokenfile import TokenFileError, read

from . import tools  # noqa: F401

HERE = Path(__file__).parent
TIME = 2_000_000_000
# The key of the examples in RFC 6030
KEY = b'12345678901234567890'
BASE32 = base64.b32encode(KEY).decode()
HEX = KEY.hex()
SECRET = totp.Secret(KEY, 'sha1', 6, 30)
PASSPHRASE = 'qwerty'
PRE_SHARED = '12345678901234567890123456789012'
PSKC = '''<?xml version="1.0" encoding="UTF-8"?>
<KeyContainer Version="1.0" xmlns="urn:ietf:params:xml:ns:keyprov:pskc">
%s
</KeyContainer>
'''
PACKAGE = '''
<KeyPackage>
    <DeviceInfo><SerialNo>%(serial)s</SerialNo></DeviceInfo>
    <Key Id="1" Algorithm="urn:ietf:params:xml:ns:keyprov:pskc:%(name)s">
        <AlgorithmParameters>
            %(suite)s
            <ResponseFormat Length="%(digits)s" Encoding="%(encoding)s"/>
        </AlgorithmParameters>
        <Data>
            <Secret><PlainValue>%(key)s</PlainValue></Secret>
            <TimeInterval><PlainValue>%(period)s</PlainValue></TimeInterval>
        </Data>
        %(policy)s
    </Key>
</KeyPackage>
'''


def package(**values):
    return PACKAGE % {
        'serial': '1', 'name': 'totp', 'suite': '', 'digits': 6,
        'encoding': 'DECIMAL', 'key': base64.b64encode(KEY).decode(),
        'period': 30, 'policy': '', **values}


def figure(number, **changes):
    "Return the figure of RFC 6030, with each key of changes replaced"
    text = (HERE / f'rfc6030_figure{number}.xml').read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    return text.encode()


def as_totp(number):
    "Return the figure of RFC 6030 as a file of time-based tokens"
    return figure(number, hotp='totp')


class FileTestCase(unittest.TestCase):

    def assertRefused(self, data, message, **values):
        "Check that the file is refused, with an exception without its keys"
        arguments = {
            name: values.pop(name) for name in ['passphrase', 'key']
            if name in values}
        with self.assertRaises(TokenFileError) as context:
            read(data, TIME, **arguments)
        error = context.exception
        self.assertEqual(
            (error.message, error.values),
            (f'msg_totp_token_file_{message}', values))
        text = ''.join(traceback.format_exception(error))
        for form in [BASE32, HEX, KEY.decode(), base64.b64encode(KEY).decode(),
                PASSPHRASE, PRE_SHARED]:
            self.assertNotIn(form, text)

    def assertReasons(self, data, *reasons, **arguments):
        """Check for what reason each token is refused, and return the tokens

        reasons: the end of the message's id, or None for an accepted token
        """
        tokens = read(data, TIME, **arguments)
        self.assertEqual([
                reason and f'msg_totp_token_{reason}' for reason in reasons
                ], [token.refusal for token in tokens])
        for token in tokens:
            self.assertEqual(token.secret is None, token.refusal is not None)
        return tokens


class CSVTestCase(FileTestCase):
    "Test the CSV files"

    def test_dialects(self):
        "Test that all separators, quotes, line ends and encodings are read"
        rows = [
            ['00123', BASE32, 'SHA1', '6', '30'],
            ['T-4 "x"', HEX + '00', 'HMAC-SHA256', '8', '60'],
            ['5,6;7 8', '', 'sha-512', '', ''],
            ]
        rows[2][1] = base64.b32encode(KEY * 2).decode().lower()
        expected = [
            ('00123', SECRET),
            ('T-4 "x"', totp.Secret(KEY + b'\0', 'sha256', 8, 60)),
            ('5,6;7 8', totp.Secret(KEY * 2, 'sha512', 6, 30)),
            ]
        headers = [
            [], [['serial', 'key', 'algorithm', 'digits', 'period']],
            [['Serial Number', 'Secret Key', 'Hash', 'Length', 'Time Step']]]
        for delimiter in ',;\t':
            for quoting in [csv.QUOTE_MINIMAL, csv.QUOTE_ALL]:
                for end in ['\n', '\r\n', '\r']:
                    for header in headers:
                        text = io.StringIO()
                        csv.writer(
                            text, delimiter=delimiter, quoting=quoting,
                            lineterminator=end).writerows(header + rows)
                        for encoding in [
                                'utf-8', 'utf-8-sig', 'utf-16', 'latin-1']:
                            with self.subTest(
                                    delimiter=delimiter, quoting=quoting,
                                    end=end, header=header,
                                    encoding=encoding):
                                tokens = read(
                                    text.getvalue().encode(encoding), TIME)
                                self.assertEqual([
                                        (t.serial, t.secret) for t in tokens
                                        ], expected)
                                first = len(header) + 1
                                self.assertEqual(
                                    [t.line for t in tokens],
                                    [first, first + 1, first + 2])

    def test_columns(self):
        "Test that columns may be in another order, be more or be fewer"
        tokens = self.assertReasons(
            f'vendor,period,key,serial\nAcmé,60,{BASE32},1\n'.encode(
                'latin-1'), None)
        self.assertEqual(tokens[0].secret.period, 60)
        self.assertReasons(f'1,{BASE32}'.encode(), None)
        self.assertReasons(
            f'1,{BASE32},,,,more\n2,{BASE32}'.encode(), 'columns', None)
        for text in ['serial,digits\n1,6', '1\n2', 'nothing of the kind']:
            self.assertRefused(text.encode(), 'columns')

    def test_blank(self):
        "Test that blank lines and comments are skipped"
        tokens = self.assertReasons(
            f'# tokens, of 2033\n\n , ,\n1, {BASE32} \n\n'.encode(), None)
        self.assertEqual(tokens[0].line, 4)
        for data in [b'', b'\n\n', b'\xef\xbb\xbf', b'# x', b'serial,key\n']:
            self.assertRefused(data, 'empty')

    def test_keys(self):
        "Test that each way to write a key is read"
        spaced = ' '.join(BASE32[i:i + 4] for i in range(0, 32, 4))
        for text in [
                BASE32, BASE32.lower(), spaced, spaced.replace(' ', '-'),
                HEX, HEX.upper(), '0x' + HEX,
                ':'.join(HEX[i:i + 2] for i in range(0, 40, 2))]:
            with self.subTest(text=text):
                token, = self.assertReasons(f'1,{text}'.encode(), None)
                self.assertEqual(token.secret, SECRET)
        longest = bytes(range(128))
        token, = self.assertReasons(f'1,{longest.hex()}'.encode(), None)
        self.assertEqual(token.secret.key, longest)
        padded = base64.b32encode(KEY[:16]).decode()
        self.assertTrue(padded.endswith('='))
        for text in [padded, padded.rstrip('=')]:
            token, = self.assertReasons(f'1,{text}'.encode(), None)
            self.assertEqual(token.secret.key, KEY[:16])

    def test_ambiguous(self):
        "Test that other keys decide for a key that is valid in both encodings"
        both = 'ABCDEF234567' * 4
        self.assertReasons(f'1,{both}'.encode(), 'key_ambiguous')
        for other, key in [
                (HEX, bytes.fromhex(both)), (BASE32, base64.b32decode(both))]:
            tokens = self.assertReasons(
                f'1,{both}\n2,{other}'.encode(), None, None)
            self.assertEqual(tokens[0].secret.key, key)
        self.assertReasons(
            f'1,{both}\n2,{HEX}\n3,{BASE32}'.encode(),
            'key_ambiguous', None, None)
        for name, key in [
                ('hex', bytes.fromhex(both)),
                ('base32', base64.b32decode(both))]:
            token, = self.assertReasons(
                f'serial,{name}\n1,{both}'.encode(), None)
            self.assertEqual(token.secret.key, key)
        token, = self.assertReasons(f'1,0x{both}'.encode(), None)
        self.assertEqual(token.secret.key, bytes.fromhex(both))

    def test_refused(self):
        "Test that a token is refused for each possible reason"
        for row, reason, values in [
                (f',{BASE32}', 'no_serial', {}),
                (f'{"1" * 65},{BASE32}', 'serial', {'length': 64}),
                (f'1\x07,{BASE32}', 'serial', {'length': 64}),
                # A mark that reverses the direction of the text
                (f'1\u202e2,{BASE32}', 'serial', {'length': 64}),
                (f'1\u200f,{BASE32}', 'serial', {'length': 64}),
                *((f'"{serial}",{BASE32}', 'serial_formula', {})
                    for serial in [
                        "=cmd|' /C calc'!A0", '=1', '+1', '-1', '@SUM(1)',
                        '\uff1d1', '\uff0b1', '\ufe631', '\uff201']),
                ('1,', 'no_key', {}),
                ('1,x', 'key', {}),
                (f'1,{BASE32}!', 'key', {}),
                (f'1,{HEX}0', 'key', {}),
                (f'1,{BASE32}1', 'key', {}),
                (f'1,{HEX[:30]}', 'key_short', {'bits': 128}),
                (f'1,{base64.b32encode(KEY[:15]).decode()}', 'key_short',
                    {'bits': 128}),
                (f'1,{"ab" * 129}', 'key_long', {'bits': 1024}),
                (f'1,{BASE32},HOTP', 'hotp', {}),
                (f'1,{BASE32},oath-hotp-sha1', 'hotp', {}),
                (f'1,{BASE32},md5', 'algorithm', {}),
                (f'1,{BASE32},sha1x', 'algorithm', {}),
                (f'1,{BASE32},,7', 'digits', {'first': 6, 'second': 8}),
                (f'1,{BASE32},,six', 'digits', {'first': 6, 'second': 8}),
                (f'1,{BASE32},,-6', 'digits', {'first': 6, 'second': 8}),
                (f'1,{BASE32},,{"6" * 5000}', 'digits',
                    {'first': 6, 'second': 8}),
                (f'1,{BASE32},,,0', 'period', {'first': 15, 'last': 120}),
                (f'1,{BASE32},,,121', 'period', {'first': 15, 'last': 120}),
                (f'1,{BASE32},,,30.0', 'period', {'first': 15, 'last': 120}),
                ]:
            with self.subTest(row=row[:60]):
                refused, accepted = self.assertReasons(
                    f'{row}\n2,{BASE32}'.encode(), reason, None)
                self.assertEqual(refused.values, values)
                self.assertEqual(accepted.secret, SECRET)
        for type_, reason in [
                ('HOTP', 'hotp'), ('event', 'hotp'), ('TOTP', None),
                ('time', None), ('', None)]:
            self.assertReasons(
                f'serial,key,type\n1,{BASE32},{type_}'.encode(), reason)

    def test_repeated(self):
        "Test that only the first token with a serial number is accepted"
        tokens = self.assertReasons(
            f'1,{BASE32}\n2,{BASE32}\n1,{HEX}00\n1,{BASE32}'.encode(),
            None, None, 'repeated', 'repeated')
        self.assertEqual(tokens[2].values, {'line': 1})
        self.assertIsNone(tokens[2].secret)

    def test_malformed(self):
        "Test that a malformed CSV file is refused"
        self.assertRefused(
            f'1,{BASE32}\n2,"{BASE32}"x\n'.encode(), 'csv', line=2)
        self.assertRefused(
            f'1,{BASE32}\n2,"{"x" * 200_000}"\n'.encode(), 'csv', line=2)
        self.assertRefused(b'1,\0', 'unreadable')
        self.assertRefused(b'\xff\xfe1', 'unreadable')

    def test_size(self):
        "Test that a file may have MAX_TOKENS tokens, but not one more"
        rows = [f'{i},{BASE32}' for i in range(tokenfile.MAX_TOKENS)]
        self.assertEqual(
            len(read('\n'.join(rows).encode(), TIME)), 10_000)
        self.assertRefused(
            '\n'.join([*rows, f'x,{BASE32}']).encode(), 'number',
            number=10_000)
        rows = ['serial,key', *rows]
        self.assertEqual(
            len(read('\n'.join(rows).encode(), TIME)), 10_000)
        self.assertRefused(
            '\n'.join([*rows, f'x,{BASE32}']).encode(), 'number',
            number=10_000)
        self.assertRefused(b'x' * (20 * 2**20 + 1), 'size', size=20)

    def test_expensive(self):
        "Test that a small file cannot keep the server busy or fill its memory"
        for part in ['\n', '\r', 'x\n', '1,', '\t', ';']:
            with self.subTest(part=part):
                self.assertRefused(
                    (part * (tokenfile._MAX_PARTS + 1)).encode(), 'number',
                    number=10_000)
        # The error after the last allowed line is not reached
        rows = [f'{i},{BASE32}' for i in range(tokenfile.MAX_TOKENS + 2)]
        self.assertRefused(
            '\n'.join([*rows, '1,"x"x']).encode(), 'number', number=10_000)

    @given(st.binary() | st.text().map(str.encode))
    def test_anything(self, data):
        "Test that any file is read or refused, without another error"
        try:
            tokens = read(data, TIME)
        except TokenFileError:
            return
        for token in tokens:
            self.assertEqual(token.secret is None, bool(token.refusal))

    @given(st.lists(st.lists(
                st.sampled_from(
                    ['', '1', '2', BASE32, HEX, 'sha1', 'hotp', '6', '30',
                        'serial', 'key', 'x'])
                | st.text(max_size=5), max_size=7), max_size=5))
    def test_any_cells(self, rows):
        "Test that any cells are read or refused, without another error"
        # Python 3.10 writes no NUL, so another character stands in for it
        file = io.StringIO()
        csv.writer(file).writerows(
            [cell.replace('\0', '\ue000') for cell in row] for row in rows)
        text = file.getvalue().replace('\ue000', '\0')
        try:
            read(text.encode('utf-8', 'replace'), TIME)
        except TokenFileError:
            pass

    def test_hidden(self):
        "Test that the repr of a token does not contain its key"
        for text in map(repr, read(f'1,{BASE32}\n2,{HEX}x'.encode(), TIME)):
            for form in [BASE32, HEX, KEY.decode()]:
                self.assertNotIn(form, text)


class PSKCTestCase(FileTestCase):
    "Test the files of RFC 6030"

    def test_figures(self):
        "Test that the examples of the RFC are refused as event-based tokens"
        for number, arguments, *reasons in [
                (2, {}, 'hotp'),
                (3, {}, 'hotp'),
                (4, {}, 'hotp'),
                (5, {}, 'hotp', 'not_totp'),
                (6, {'key': PRE_SHARED}, 'hotp'),
                (7, {'passphrase': PASSPHRASE}, 'hotp'),
                ]:
            with self.subTest(figure=number):
                tokens = self.assertReasons(
                    figure(number), *reasons, **arguments)
                self.assertEqual(
                    tokens[0].serial, '12345678' if number == 2
                    else '987654321')
        self.assertRefused(figure(6), 'key')
        self.assertRefused(figure(7), 'passphrase')
        self.assertRefused(figure(8), 'certificate')

    def test_figures_as_totp(self):
        "Test that the same examples are read if changed to time-based tokens"
        expected = totp.Secret(KEY, 'sha1', 8, 30)
        self.assertReasons(as_totp(2), 'key_short')
        self.assertReasons(as_totp(4), 'no_key')
        for number, arguments in [
                (3, {}), (5, {}), (6, {'key': PRE_SHARED}),
                (7, {'passphrase': PASSPHRASE})]:
            with self.subTest(figure=number):
                token = read(as_totp(number), TIME, **arguments)[0]
                self.assertEqual(token, (1, '987654321', expected, None, {}))

    def test_namespace(self):
        "Test that a long namespace, which each element would copy, is refused"
        for length, refused in [(1024, False), (1025, True)]:
            with self.subTest(length=length):
                data = as_totp(3).replace(
                    b' xmlns=', b' xmlns:x="%s" xmlns=' % (b'x' * length))
                self.assertNotEqual(data, as_totp(3))
                if refused:
                    self.assertRefused(data, 'unreadable')
                else:
                    self.assertEqual(read(data, TIME), read(as_totp(3), TIME))

    def test_wrong_keys(self):
        "Test that a wrong pass phrase or pre-shared key is refused"
        for number, arguments in [
                (6, {'key': '0' * 32}), (6, {'key': 'x'}),
                (6, {'key': '12'}), (6, {'key': PRE_SHARED + '00'}),
                (7, {'passphrase': 'Qwerty'}), (7, {'passphrase': 'ä'})]:
            with self.subTest(figure=number, **arguments):
                self.assertRefused(
                    as_totp(number), 'decryption', **arguments)
        self.assertRefused(as_totp(6), 'key', passphrase=PASSPHRASE)
        self.assertRefused(as_totp(7), 'passphrase', key=PRE_SHARED)

    def test_changed(self):
        "Test that a modified encrypted key is refused"
        text = as_totp(6).decode()
        self.assertIn('UqGv', text)
        self.assertRefused(
            text.replace('AAECAwQF', 'BAECAwQF').encode(), 'decryption',
            key=PRE_SHARED)
        self.assertRefused(
            text.replace('Su+N', 'Su+M').encode(), 'decryption',
            key=PRE_SHARED)

    def test_parameters(self):
        "Test that algorithm, digits and period are read"
        tokens = self.assertReasons((PSKC % ''.join([
                        package(),
                        package(serial='2', digits=8, period=60, suite=(
                                '<Suite>HMAC-SHA256</Suite>')),
                        package(serial='3', suite='<Suite>SHA-512</Suite>'),
                        ])).encode(), None, None, None)
        self.assertEqual([t.secret for t in tokens], [
                SECRET, totp.Secret(KEY, 'sha256', 8, 60),
                totp.Secret(KEY, 'sha512', 6, 30)])

    def test_refused(self):
        "Test that a token is refused for each possible reason"
        for values, reason in [
                ({'name': 'hotp'}, 'hotp'),
                ({'name': 'ocra'}, 'not_totp'),
                ({'serial': 'x' * 65}, 'serial'),
                ({'suite': '<Suite>MD5</Suite>'}, 'algorithm'),
                ({'digits': 7}, 'digits'),
                ({'period': 0}, 'period'),
                ({'period': 300}, 'period'),
                ({'encoding': 'ALPHANUMERIC'}, 'format'),
                ({'key': 'MTIzNA=='}, 'key_short'),
                ({'key': ''}, 'no_key'),
                ({'policy': '<Policy><KeyUsage>CR</KeyUsage></Policy>'},
                    'policy'),
                ({'policy': '<Policy><Unheard/></Policy>'}, 'policy'),
                ({'policy': '<Policy><ExpiryDate>2020-01-01T00:00:00Z'
                        '</ExpiryDate></Policy>'}, 'policy'),
                ({'policy': '<Policy><PINPolicy PINUsageMode="Append"/>'
                        '</Policy>'}, 'policy'),
                ({'policy': '<Policy><KeyUsage>OTP</KeyUsage><ExpiryDate>'
                        '2050-01-01T00:00:00Z</ExpiryDate></Policy>'}, None),
                ]:
            with self.subTest(**values):
                self.assertReasons(
                    (PSKC % (package(**values) + package(serial='2'))
                        ).encode(), reason, None)
        self.assertReasons(
            (PSKC % (package() + package())).encode(), None, 'repeated')

    def test_document_type(self):
        "Test that no entity is expanded, and no other file is read"
        bomb = ''.join(
            f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
        for declaration in [
                f'<!ENTITY e0 "x">{bomb}',
                '<!ENTITY x SYSTEM "file:///etc/passwd">',
                '<!ENTITY % x SYSTEM "http://127.0.0.1:9/x"> %x;']:
            text = (PSKC % package(serial='&e12;')).replace(
                '<KeyContainer',
                f'<!DOCTYPE KeyContainer [{declaration}]><KeyContainer')
            for encoding in ['utf-8', 'utf-8-sig', 'utf-16']:
                self.assertRefused(
                    text.replace('"UTF-8"', f'"{encoding}"').encode(encoding),
                    'doctype')
        # A wrong encoding in the declaration is ignored
        text = (PSKC % package()).replace('UTF-8', 'UTF-7')
        self.assertReasons(text.encode(), None)

    def test_malformed(self):
        "Test that a malformed PSKC file is refused"
        long = base64.b64encode(bytes(1000)).decode()
        for text in [
                '<', '<x/>', '<KeyContainer', PSKC.replace('1.0" x', '9" x'),
                PSKC % package(digits='x'),
                PSKC % package(key='=x='), PSKC % package(key=long),
                PSKC % package(period=long),
                '<x>' * 100_000,
                PSKC % ('<x>' * 10_000 + '</x>' * 10_000)]:
            with self.subTest(text=text[:100]):
                self.assertRefused(text.encode(), 'unreadable')
        self.assertRefused((PSKC % '').encode(), 'empty')

    def test_expensive(self):
        "Test that the file cannot make the server work for hours"
        for old, new in [
                ('<IterationCount>1000<', '<IterationCount>100000000000<'),
                ('<IterationCount>1000<', '<IterationCount>2000001<'),
                ('<KeyLength>16<', '<KeyLength>1000000000<')]:
            text = as_totp(7).decode()
            self.assertIn(old, text)
            self.assertRefused(
                text.replace(old, new).encode(), 'unreadable',
                passphrase=PASSPHRASE)
        for text in [
                '<a/>' * 1_000_001,
                '<a ' + ''.join(f' a{i}=""' for i in range(1_000_001)) + '/>',
                '<KeyPackage/>' * 10_001, '<Device/>' * 10_001,
                f'<KeyPackage>{"<Key/>" * 10_001}</KeyPackage>']:
            with self.subTest(text=text[:30]), \
                    patch.object(tokenfile_pskc, 'PSKC') as library:
                self.assertRefused(
                    (PSKC % text).encode(), 'number', number=10_000)
                library.assert_not_called()

    def test_without_library(self):
        "Test that a server without the library says so"
        with patch.object(tokenfile_pskc, 'PSKC', None):
            self.assertRefused((PSKC % package()).encode(), 'no_pskc')

    def test_size(self):
        "Test that a file may have MAX_TOKENS tokens, but not one more"
        packages = [
            package(serial=i) for i in range(tokenfile.MAX_TOKENS)]
        tokens = read((PSKC % ''.join(packages)).encode(), TIME)
        self.assertEqual({t.secret for t in tokens}, {SECRET})
        self.assertRefused(
            (PSKC % ''.join([*packages, package(serial='x')])).encode(),
            'number', number=10_000)
