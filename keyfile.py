# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The key file, which the server reads again when it changes"

import codecs
import errno
import functools
import logging
import os
import re
import stat
import threading

from . import notice, seal

logger = logging.getLogger(__name__)

# More than a thousand keys
_MAX_SIZE = 64 * 1024
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_END = re.compile(r'\r\n?|\n')
_KEY = re.compile(r'[\w+/-]{43}=', re.ASCII)


class DeniedError(ValueError):
    "The user of this process may not read the file"


def keys(path):
    """Return the keys of the file, of which the first one seals.

    If the file is lost or damaged later, the keys that were read before stay
    in use, so that the users of a running server notice nothing.
    Raise ValueError if no keys have been read yet.
    """
    return _file(path).keys() if path else ()


@functools.cache
def _file(path):
    return _KeyFile(path)


class _KeyFile:

    def __init__(self, path):
        # The process may change its working directory later
        self.path = os.path.abspath(path)
        self._lock = threading.Lock()
        self._keys = ()
        self._signature = None
        self._fault = None

    def keys(self):
        if not self._keys or self._signature != _signature(self.path):
            with self._lock:
                self._follow()
        return self._keys

    def _follow(self):
        signature = _signature(self.path)
        if self._keys and signature == self._signature:
            return
        try:
            self._keys = _read(self.path)
        except ValueError as error:
            if not self._keys:
                raise
            if self._fault != str(error):
                logger.error(
                    "the keys of encryption_keys that were read before stay "
                    "in use until this process ends; encryption_keys %s",
                    error)
            self._fault = str(error)
        else:
            self._fault = None
        # Taken before reading, so that a later change is read next time
        self._signature = signature


def _signature(path):
    "Return a value that changes when the file does, None if there is no file."
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
        status.st_ctime_ns)


def _read(path):
    """Return the keys in the file, and log if others can read or replace it.

    Raise ValueError, which says what the path must be, if they cannot be read.
    """
    try:
        with open(path, 'rb', opener=_open) as file:
            _check(file.fileno(), path)
            content = file.read(_MAX_SIZE + 1)
            modes = _modes(file.fileno())
    except OSError as error:
        denied = error.errno in {errno.EACCES, errno.EPERM}
        raise (DeniedError if denied else ValueError)(
            "must be the path of a file that can be read, "
            f"but {path}: {error.strerror}") from None
    if len(content) > _MAX_SIZE:
        raise ValueError(
            "must be the path of a file of keys, "
            f"but {path} is larger than {_MAX_SIZE // 1024} KiB")
    keys = _parse(content, path)
    if modes & stat.S_IROTH:
        notice.tell(
            logger, "every user of this machine can read the keys in %s", path)
    if modes & (stat.S_IWGRP | stat.S_IWOTH):
        notice.tell(
            logger, "other users of this machine can replace the keys in %s",
            path)
    return keys


def _open(path, flags):
    # Opening a pipe that has no writer would block for ever
    return os.open(path, flags | getattr(os, 'O_NONBLOCK', 0))


def _check(descriptor, path):
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise ValueError(
            "must be the path of a file of keys, "
            f"but {path} is not a regular file")


def _modes(descriptor):
    "Return the mode of the file, or 0 where chmod could not change it."
    if os.name != 'posix':
        return 0
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        # Containers mount their secrets like this
        return 0
    return os.fstat(descriptor).st_mode


def _parse(content, path):
    encoding = 'utf-16' if content.startswith(_UTF_16) else 'utf-8'
    # A comment may be in any encoding, and no key contains the character that
    # replaces undecodable bytes
    text = content.decode(encoding, errors='replace')
    keys = []
    for number, line in enumerate(_END.split(text), 1):
        # Concatenated files may have a byte order mark in the middle
        line = line.replace('\ufeff', '').strip()
        if not line or line.startswith('#'):
            continue
        try:
            if not _KEY.fullmatch(line):
                raise ValueError(_fault(line))
            keys.append(seal.key(line))
        except ValueError as error:
            raise ValueError(
                "must be the path of a file of keys, one a line, each 32 "
                "bytes in URL-safe base64 (44 characters), "
                f"but line {number} of {path} {error}") from None
    if not keys:
        raise ValueError(
            "must be the path of a file of keys, one a line, "
            f"but {path} holds none")
    return tuple(keys)


def _fault(line):
    "Return what is wrong with the line, without quoting it."
    if not line.isascii():
        return "has characters that are not ASCII"
    if len(line.split()) > 1:
        return "has blanks between its characters"
    if len(line) != 44:
        return f"has {len(line)} characters"
    return "has characters that are not of base64, or no = at its end"
