# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The files in which manufacturers deliver hardware tokens: CSV and PSKC

This file does not use the configuration, the clock or the database. Its
exceptions contain no key.
"""

import base64
import codecs
import csv
import datetime as dt
import io
import re
from collections import Counter
from typing import Any, NamedTuple
from unicodedata import normalize
from xml.etree import ElementTree

from . import totp

try:
    from pskc import PSKC
    from pskc.exceptions import DecryptionError
except ImportError:
    PSKC = None

# In bytes
MAX_SIZE = 20 * 2**20
MAX_TOKENS = 10_000
# How many lines, cells, tags or attributes a file may have. A file with
# MAX_TOKENS tokens has fewer. A file of MAX_SIZE with nothing else would take
# minutes and gigabytes.
_MAX_PARTS = 100 * MAX_TOKENS
_PARTS = '\n\r\t;,<='
_MAX_SERIAL_LENGTH = 64
# The length of a block of SHA-512. HMAC would shorten a longer key, and each
# login of its user would have to decrypt it
_MAX_KEY_BITS = 1024
# Spreadsheets take a text that begins with one of these for a formula
_FORMULA = '=+-@'
# Larger values would keep the server busy for a long time
_MAX_ITERATIONS = 2 * 10**6
_MAX_DERIVED_LENGTH = 64
_MAX_XML_TEXT = 1024
# The elements that stand for a token, including those of the drafts of the RFC
_XML_TOKENS = ['KeyPackage', 'Device', 'Key', 'Secret']
# Only signatures and certificates need these elements, and nothing here reads
# them
_LONG_XML = {'X509Certificate', 'SignatureValue'}
_BOMS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
    }
_DELIMITERS = '\t;,'
# The columns of a CSV file without a header
_COLUMNS = ['serial', 'key', 'algorithm', 'digits', 'period']
_HEADERS = {
    'serial': ['serial', 'serialnumber', 'serialno', 'sn', 'token'],
    'key': ['key', 'secret', 'secretkey', 'seed'],
    'base32': ['base32', 'keybase32', 'secretbase32', 'seedbase32'],
    'hex': ['hex', 'keyhex', 'secrethex', 'seedhex'],
    'algorithm': ['algorithm', 'hash', 'hashalgorithm'],
    'digits': ['digits', 'length', 'codelength', 'otplength'],
    'period': ['period', 'interval', 'timestep', 'timeinterval', 'step'],
    'type': ['type', 'tokentype', 'otptype'],
    }
_HEADERS = {
    header: name for name, headers in _HEADERS.items() for header in headers}


class TokenFileError(ValueError):
    """A file that cannot be read

    message: the id of the message that gives the reason
    values: a dictionary of the values in the message
    """

    def __init__(self, message, **values):
        super().__init__(message)
        self.message = message
        self.values = values


class Refused(Exception):
    "A token that cannot be imported, with the attributes of TokenFileError"

    def __init__(self, message, **values):
        super().__init__(message)
        self.message = message
        self.values = values


class Token(NamedTuple):
    """A token of a file

    line: the number of the line where it ends; in PSKC the position among the
        keys; both begin at 1
    serial: the serial number, blank if there is none
    secret: its Secret, None if it is refused
    refusal: the id of the message that gives the reason for the refusal, or
        None
    values: a dictionary of the values in the message
    """
    line: int
    serial: str
    secret: totp.Secret | None = None
    refusal: str | None = None
    values: dict[str, Any] = {}  # noqa: RUF012


def read(data, time, passphrase='', key=''):
    """Return a list of each Token in the file, including the refused ones.

    data: the content of the file, in bytes
    time: the current time, in seconds since the epoch
    passphrase: the pass phrase that decrypts the keys of a PSKC file
    key: the pre-shared key that decrypts them, in hexadecimal
    Raise TokenFileError if the file cannot be read.
    """
    if len(data) > MAX_SIZE:
        raise TokenFileError(
            'msg_totp_token_file_size', size=MAX_SIZE // 2**20)
    text = _decode(data)
    if '\0' in text:
        raise TokenFileError('msg_totp_token_file_unreadable')
    if any(text.count(part) > _MAX_PARTS for part in _PARTS):
        _refuse_number()
    if text.lstrip().startswith('<'):
        tokens = _read_pskc(text, time, passphrase, key)
    else:
        tokens = _read_csv(text)
    if not tokens:
        raise TokenFileError('msg_totp_token_file_empty')
    return list(_refuse_repeated(tokens))


def _decode(data):
    encoding = next(
        (e for bom, e in _BOMS.items() if data.startswith(bom)), 'utf-8')
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        if encoding != 'utf-8':
            raise TokenFileError('msg_totp_token_file_unreadable') from None
        # Only ASCII matters: all names, numbers and keys consist of it
        return data.decode('latin-1')


def _refuse_number():
    raise TokenFileError('msg_totp_token_file_number', number=MAX_TOKENS)


def _refuse_repeated(tokens):
    lines = {}
    for token in tokens:
        first = lines.setdefault(token.serial, token.line)
        if token.secret and first != token.line:
            token = token._replace(
                secret=None, refusal='msg_totp_token_repeated',
                values={'line': first})
        yield token


def _check(line, serial, get_secret):
    """Return the Token of the line.

    get_secret: a function that returns its Secret or raises Refused
    """
    try:
        if not serial:
            raise Refused('msg_totp_token_no_serial')
        if len(serial) > _MAX_SERIAL_LENGTH or not serial.isprintable():
            serial = ''
            raise Refused(
                'msg_totp_token_serial', length=_MAX_SERIAL_LENGTH)
        # Some spreadsheets also accept the full-width forms of the characters
        if normalize('NFKC', serial)[0] in _FORMULA:
            raise Refused('msg_totp_token_serial_formula')
        secret = get_secret()
        if len(secret.key) * 8 < totp.MIN_KEY_BITS:
            raise Refused('msg_totp_token_key_short', bits=totp.MIN_KEY_BITS)
        if len(secret.key) * 8 > _MAX_KEY_BITS:
            raise Refused('msg_totp_token_key_long', bits=_MAX_KEY_BITS)
        return Token(line, serial, secret)
    except Refused as refused:
        return Token(
            line, serial, refusal=refused.message, values=refused.values)


def _algorithm(text):
    """Return the name of the algorithm as totp.ALGORITHMS spells it.

    text: its name in the file; blank means the default
    Raise Refused if it is another algorithm.
    """
    name = re.sub('[^a-z0-9]', '', text.lower())
    if 'hotp' in name:
        raise Refused('msg_totp_token_hotp')
    name = re.sub('oath|totp|hmac', '', name) or totp.USUAL['algorithm']
    if name not in totp.ALGORITHMS:
        raise Refused('msg_totp_token_algorithm')
    return name


def _digits(value):
    if value not in totp.DIGITS:
        first, second = totp.DIGITS
        raise Refused('msg_totp_token_digits', first=first, second=second)
    return value


def _period(value):
    if value not in totp.PERIODS:
        raise Refused(
            'msg_totp_token_period',
            first=totp.PERIODS.start, last=totp.PERIODS.stop - 1)
    return value


# CSV

def _read_csv(text):
    rows = _rows(text)
    if not rows:
        return []
    header = [
        _HEADERS.get(re.sub('[^a-z0-9]', '', cell.lower()))
        for cell in rows[0][1]]
    if 'serial' in header:
        del rows[0]
    else:
        header = _COLUMNS
    if not {'key', 'hex', 'base32'}.intersection(header) or (
            header is _COLUMNS and all(len(row) < 2 for _, row in rows)):
        raise TokenFileError('msg_totp_token_file_columns')
    if len(rows) > MAX_TOKENS:
        _refuse_number()
    lines = [
        (line, dict(zip(header, row, strict=False)),
            header is _COLUMNS and len(row) > len(header))
        for line, row in rows]
    encoding = _encoding(values.get('key', '') for _, values, _ in lines)
    return [
        _check(
            line, values.get('serial', ''),
            lambda values=values, long=long: _read_row(values, encoding, long))
        for line, values, long in lines]


def _rows(text):
    """Return a list of pairs, the number and the cells of each line.

    Skip blank lines and lines that begin with "#".
    Raise TokenFileError if the text is no CSV or has too many lines.
    """
    text = '\n'.join(
        '' if line.startswith('#') else line
        for line in re.split('\r\n|\r|\n', text))
    first = next(filter(str.strip, text.split('\n')), '')
    reader = csv.reader(
        io.StringIO(text), delimiter=max(_DELIMITERS, key=first.count),
        skipinitialspace=True, strict=True)
    rows = []
    try:
        for row in reader:
            row = [cell.strip() for cell in row]
            if any(row):
                rows.append((reader.line_num, row))
            # The header is no token
            if len(rows) > MAX_TOKENS + 1:
                _refuse_number()
    except csv.Error:
        raise TokenFileError(
            'msg_totp_token_file_csv', line=reader.line_num) from None
    return rows


def _read_row(values, encoding, long):
    if long:
        raise Refused('msg_totp_token_columns')
    if re.search('(?i)hotp|event|counter', values.get('type', '')):
        raise Refused('msg_totp_token_hotp')
    algorithm = _algorithm(values.get('algorithm', ''))
    for name in ['hex', 'base32', 'key']:
        if text := values.get(name):
            key = _key(text, encoding if name == 'key' else {name})
            break
    else:
        raise Refused('msg_totp_token_no_key')
    return totp.Secret(
        key, algorithm, _digits(_number(values, 'digits')),
        _period(_number(values, 'period')))


def _number(values, name):
    text = values.get(name) or str(totp.USUAL[name])
    # No valid number has more than four digits
    return int(text) if re.fullmatch('[0-9]{1,4}', text) else None


def _encoding(keys):
    """Return the set of encodings that the keys of the file may have.

    A single key may be valid in both encodings, but rarely are all keys of a
    file. Keys that are valid in only one encoding decide for the others.
    """
    possible = [set(_decodings(key)) for key in keys if key]
    certain = set.union(
        set(), *(encodings for encodings in possible if len(encodings) == 1))
    return certain or {'hex', 'base32'}


def _key(text, encodings):
    decoded = _decodings(text)
    keys = [key for name, key in decoded.items() if name in encodings]
    if not decoded or not keys:
        raise Refused('msg_totp_token_key')
    if len(keys) > 1:
        raise Refused('msg_totp_token_key_ambiguous')
    return keys[0]


def _decodings(text):
    """Return the keys that the text may stand for, by encoding.

    The encodings are 'hex' and 'base32'.
    """
    text = re.sub(r'[\s:-]', '', text)
    is_hex = text[:2].lower() == '0x'
    keys = {}
    if re.fullmatch('(0[xX])?([0-9A-Fa-f]{2})+', text):
        keys['hex'] = bytes.fromhex(text[2:] if is_hex else text)
    if not is_hex and re.fullmatch('[A-Za-z2-7]+=*', text):
        text = text.rstrip('=')
        try:
            keys['base32'] = base64.b32decode(
                text + '=' * (-len(text) % 8), casefold=True)
        except ValueError:
            pass
    return keys


# PSKC (RFC 6030)

def _read_pskc(text, time, passphrase, key):
    if not PSKC:
        raise TokenFileError('msg_totp_token_file_no_pskc')
    data = _sane_xml(text)
    try:
        pskc = PSKC(io.BytesIO(data))
        keys = pskc.keys
    except Exception:
        # The library raises many types of exceptions for malformed files
        raise TokenFileError('msg_totp_token_file_unreadable') from None
    _decrypt(pskc, passphrase, key)
    now = dt.datetime.fromtimestamp(time, dt.timezone.utc)
    tokens = [
        _check(
            line, (key.serial or key.id or '').strip(),
            lambda key=key: _read_key(key, now))
        for line, key in enumerate(keys, 1)]
    if tokens and all(
            t.refusal == 'msg_totp_token_decryption' for t in tokens):
        raise TokenFileError('msg_totp_token_file_decryption')
    return tokens


class _TreeBuilder(ElementTree.TreeBuilder):

    def start_ns(self, prefix, uri):
        # The parser copies the URI for each element
        if len(uri) > _MAX_XML_TEXT:
            raise TokenFileError('msg_totp_token_file_unreadable')


def _sane_xml(text):
    """Return the XML as bytes that any library can parse safely.

    Refuse document types. Only they declare entities, which can expand without
    limit or read other files.

    Raise TokenFileError if the XML is refused.
    """
    if re.search('<!(DOCTYPE|ENTITY)', text):
        raise TokenFileError('msg_totp_token_file_doctype')
    try:
        root = ElementTree.fromstring(
            text, ElementTree.XMLParser(target=_TreeBuilder()))
        names = Counter()
        for element in root.iter():
            name = element.tag.rpartition('}')[2]
            names[name] += 1
            if (len(element.text or '') > _MAX_XML_TEXT
                    and name not in _LONG_XML):
                raise TokenFileError('msg_totp_token_file_unreadable')
        if any(names[name] > MAX_TOKENS for name in _XML_TOKENS):
            _refuse_number()
        return ElementTree.tostring(root)
    except (ElementTree.ParseError, RecursionError):
        raise TokenFileError('msg_totp_token_file_unreadable') from None


def _decrypt(pskc, passphrase, key):
    """Set the key with which the library decrypts the keys of the tokens.

    passphrase, key: as for read
    Raise TokenFileError if the one that the file needs is missing or unusable.
    """
    encryption = pskc.encryption
    derivation = encryption.derivation
    try:
        if not encryption.is_encrypted:
            return
        if derivation.algorithm:
            if not passphrase:
                raise TokenFileError('msg_totp_token_file_passphrase')
            if ((derivation.pbkdf2_iterations or 0) > _MAX_ITERATIONS
                    or (derivation.pbkdf2_key_length or 0)
                    > _MAX_DERIVED_LENGTH):
                raise TokenFileError('msg_totp_token_file_unreadable')
            encryption.derive_key(passphrase)
        elif re.search('#rsa[-_]', encryption.algorithm or ''):
            raise TokenFileError('msg_totp_token_file_certificate')
        elif not key:
            raise TokenFileError('msg_totp_token_file_key')
        else:
            encryption.key = bytes.fromhex(re.sub(r'[\s:-]', '', key))
    except TokenFileError:
        raise
    except Exception:
        raise TokenFileError('msg_totp_token_file_decryption') from None


def _read_key(key, now):
    name = re.split('[:#]', (key.algorithm or '').lower())[-1]
    if name == 'hotp':
        raise Refused('msg_totp_token_hotp')
    if name != 'totp':
        raise Refused('msg_totp_token_not_totp')
    if not key.policy.may_use('OTP', now) or (
            key.policy.pin_usage not in {None, 'Local'}):
        raise Refused('msg_totp_token_policy')
    if key.response_check or (
            key.response_encoding or 'DECIMAL').upper() != 'DECIMAL':
        raise Refused('msg_totp_token_format')
    try:
        secret, period = key.secret, key.time_interval
    except DecryptionError:
        raise Refused('msg_totp_token_decryption') from None
    except Exception:
        raise Refused('msg_totp_token_key') from None
    if not secret:
        raise Refused('msg_totp_token_no_key')
    digits = key.response_length
    return totp.Secret(
        secret, _algorithm(key.algorithm_suite or ''),
        _digits(totp.USUAL['digits'] if digits is None else digits),
        _period(totp.USUAL['period'] if period is None else period))
