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
import io
import re

from . import tokenfile_pskc, totp
from .tokenfile_checks import (
    MAX_TOKENS, Refused, TokenFileError, check, check_digits, check_period,
    get_algorithm, refuse_number)

# In bytes
MAX_SIZE = 20 * 2**20
# How many lines, cells, tags or attributes a file may have. A file with
# MAX_TOKENS tokens has fewer. A file of MAX_SIZE with nothing else would take
# minutes and gigabytes.
_MAX_PARTS = 100 * MAX_TOKENS
_PARTS = '\n\r\t;,<='
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
        refuse_number()
    if text.lstrip().startswith('<'):
        tokens = tokenfile_pskc.read(text, time, passphrase, key)
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


def _refuse_repeated(tokens):
    lines = {}
    for token in tokens:
        first = lines.setdefault(token.serial, token.line)
        if token.secret and first != token.line:
            token = token._replace(
                secret=None, refusal='msg_totp_token_repeated',
                values={'line': first})
        yield token


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
        refuse_number()
    lines = [
        (line, dict(zip(header, row, strict=False)),
            header is _COLUMNS and len(row) > len(header))
        for line, row in rows]
    encoding = _encoding(values.get('key', '') for _, values, _ in lines)
    return [
        check(
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
                refuse_number()
    except csv.Error:
        raise TokenFileError(
            'msg_totp_token_file_csv', line=reader.line_num) from None
    return rows


def _read_row(values, encoding, long):
    if long:
        raise Refused('msg_totp_token_columns')
    if re.search('(?i)hotp|event|counter', values.get('type', '')):
        raise Refused('msg_totp_token_hotp')
    algorithm = get_algorithm(values.get('algorithm', ''))
    for name in ['hex', 'base32', 'key']:
        if text := values.get(name):
            key = _key(text, encoding if name == 'key' else {name})
            break
    else:
        raise Refused('msg_totp_token_no_key')
    return totp.Secret(
        key, algorithm, check_digits(_number(values, 'digits')),
        check_period(_number(values, 'period')))


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
