# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The files for hardware tokens in PSKC, the format of RFC 6030"

import datetime as dt
import io
import re
from collections import Counter
from xml.etree import ElementTree

from . import totp
from .tokenfile_checks import (
    MAX_TOKENS, Refused, TokenFileError, check, check_digits, check_period,
    get_algorithm, refuse_number)

try:
    from pskc import PSKC
    from pskc.exceptions import DecryptionError
except ImportError:
    PSKC = None

# Larger values would keep the server busy for a long time
_MAX_ITERATIONS = 2 * 10**6
_MAX_DERIVED_LENGTH = 64
_MAX_XML_TEXT = 1024
# The elements that stand for a token, including those of the drafts of the RFC
_XML_TOKENS = ['KeyPackage', 'Device', 'Key', 'Secret']
# Only signatures and certificates need these elements, and nothing here reads
# them
_LONG_XML = {'X509Certificate', 'SignatureValue'}


def read(text, time, passphrase, key):
    """Return a list of each Token in the file, including the refused ones.

    text: the content of the file
    time, passphrase, key: as for tokenfile.read
    Raise TokenFileError if the file cannot be read.
    """
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
        check(
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
            refuse_number()
        return ElementTree.tostring(root)
    except (ElementTree.ParseError, RecursionError):
        raise TokenFileError('msg_totp_token_file_unreadable') from None


def _decrypt(pskc, passphrase, key):
    """Set the key with which the library decrypts the keys of the tokens.

    passphrase, key: as for tokenfile.read
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
        secret, get_algorithm(key.algorithm_suite or ''),
        check_digits(totp.USUAL['digits'] if digits is None else digits),
        check_period(totp.USUAL['period'] if period is None else period))
