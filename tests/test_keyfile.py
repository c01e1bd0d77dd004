# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import os
import stat
import tempfile
import unittest
from pathlib import Path
from unittest.mock import Mock, patch

from cryptography.fernet import Fernet

from trytond.modules.authentication_totp import notice, settings

from .tools import KEY, PASSWORD, RPC, UNREADABLE, TOTPTestCase, set_config

LOGGER = 'trytond.modules.authentication_totp'
KEY1, KEY2 = [Fernet.generate_key().decode() for _ in range(2)]


class FileTestCase(unittest.TestCase):
    "Test the file of keys, without database"

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / 'totp.keys'
        self.addCleanup(set_config(
                'authentication_totp', 'encryption_keys', str(self.path)))
        patcher = patch.object(notice, '_told', set())
        patcher.start()
        self.addCleanup(patcher.stop)

    def write(self, content):
        if isinstance(content, str):
            content = content.encode()
        self.path.write_bytes(content)
        self.path.chmod(0o600)

    def opened(self):
        "Which of the two keys open a text, the one that seals first"
        keys = settings.get('encryption_keys')
        sealed = [Fernet(key).encrypt(b'') for key in [KEY1, KEY2]]
        found = []
        for key in keys:
            for index, text in enumerate(sealed, 1):
                try:
                    key.decrypt(text)
                except Exception:
                    continue
                found.append(index)
        return found

    def assertRefused(self, *words):
        with self.assertRaises(settings.SettingError) as context:
            settings.check()
        message = str(context.exception)
        self.assertEqual(len(message.splitlines()), 1)
        self.assertIn(
            f"[authentication_totp] encryption_keys = '{self.path}': "
            "must be ", message)
        for word in words:
            self.assertIn(word, message)
        self.assertNotIn(KEY1[:8], message)
        self.assertNotIn(KEY1[-8:], message)
        return message

    def test_forms(self):
        "Test that files are read as editors and shells write them"
        text = f'# M\u00fcller, 2026-11 \u2013 \u9375\n{KEY1}\n\n{KEY2}\n'
        for name, content in [
                ('UTF-8', text),
                ('UTF-8 with BOM', text.encode('utf-8-sig')),
                ('UTF-16 LE', b'\xff\xfe' + text.encode('utf-16-le')),
                ('UTF-16 BE', b'\xfe\xff' + text.encode('utf-16-be')),
                ('Latin-1', text[:11].encode('latin-1')
                    + f'\n{KEY1}\n{KEY2}'.encode()),
                ('CRLF', text.replace('\n', '\r\n')),
                ('CRLF in UTF-16', text.replace('\n', '\r\n').encode(
                        'utf-16')),
                ('CR', text.replace('\n', '\r')),
                ('blanks', f' {KEY1}  \n\t{KEY2}\t\n \n'),
                ('two files with BOM',
                    f'\ufeff{KEY1}\n\ufeff# 2025\n\ufeff{KEY2}'),
                ('a line of its own in a comment',
                    f'# 2026\u2028# 2025\x0b\n{KEY1}\n{KEY2}\n'),
                ('no end', f'{KEY1}\n{KEY2}'),
                ('standard base64',
                    f'{KEY1}\n{KEY2}'.translate({45: '+', 95: '/'})),
                ]:
            with self.subTest(name=name):
                self.write(content)
                self.assertEqual(self.opened(), [1, 2])

    def test_bad_line(self):
        "Test that the number of a bad line is told, but not what it holds"
        for bad, fault in [
                (KEY1[:-1], "has 43 characters"),
                (KEY1 + KEY2, "has 88 characters"),
                (f'{KEY1} # 2025', "has blanks"),
                (f'key {KEY1}', "has blanks"),
                (KEY1[:-1] + '!', "has characters that are not of base64"),
                (KEY1[:-1] + '\u00e9', "has characters that are not ASCII"),
                (f'"{KEY1}"', "has 46 characters"),
                ('\u00e9', "has characters that are not ASCII"),
                ]:
            for before in ['', f'# 2026\n\n{KEY2}\n']:
                with self.subTest(bad=bad, before=before):
                    self.write(f'{before}{bad}\n{KEY2}\n')
                    number = before.count('\n') + 1
                    self.assertRefused(
                        f'line {number} of {self.path} {fault}')
        # As PowerShell writes it without being told to
        self.write(KEY1.encode('utf-16-le'))
        self.assertRefused(f'line 1 of {self.path} has ')

    def test_no_file(self):
        "Test what is said of what is no file of keys"
        self.assertRefused(f'{self.path}: No such file')
        self.path.mkdir()
        self.assertRefused(f'{self.path}: Is a directory')
        self.path.rmdir()
        os.mkfifo(self.path)
        self.assertRefused(f'{self.path} is not a regular file')
        self.path.unlink()
        for content in ['', '\n', '# 2026\n', b'\xff\xfe']:
            self.write(content)
            self.assertRefused(f'{self.path} holds none')
        self.write('#' * 70_000)
        self.assertRefused(f'{self.path} is larger than 64 KiB')
        self.write((KEY1 + '\n') * 1000)
        self.assertEqual(self.opened(), [1] * 1000)

    def test_relative(self):
        "Test that a relative path is told as the absolute one"
        folder = self.path.parent
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(folder)
        self.addCleanup(set_config(
                'authentication_totp', 'encryption_keys', 'sub/totp.keys'))
        with self.assertRaises(settings.SettingError) as context:
            settings.check()
        self.assertIn(
            f"encryption_keys = 'sub/totp.keys': must be the path of a file "
            f"that can be read, but {os.getcwd()}/sub/totp.keys: No such file",
            str(context.exception))

    def modes(self, mode, read_only=False):
        "The lines about a file with the mode"
        self.path.chmod(mode)
        flag = os.ST_RDONLY if read_only else 0
        with patch.object(notice, '_told', set()), \
                patch('os.fstatvfs', return_value=Mock(f_flag=flag)), \
                patch.object(notice, 'tell') as tell:
            settings.get('encryption_keys')
        return tell.call_count

    def test_mode(self):
        "Test that nothing is said where chmod cannot help"
        self.write(KEY1)
        for mode, count in [
                (0o600, 0), (0o640, 0), (0o440, 0), (0o444, 1), (0o666, 2)]:
            with self.subTest(mode=oct(mode)):
                self.assertEqual(self.modes(mode), count)
                # Another mode, so that the file is read again
                self.modes(0o400)
                self.assertEqual(self.modes(mode, read_only=True), 0)
        self.assertEqual(
            stat.S_IMODE(self.path.stat().st_mode), 0o666)

    def test_followed(self):
        "Test that another file is read at once"
        self.write(KEY1)
        self.assertEqual(self.opened(), [1])
        self.write(f'{KEY2}\n{KEY1}')
        self.assertEqual(self.opened(), [2, 1])
        # In the place of the one before, with its size and time
        other = self.path.with_suffix('.new')
        other.write_text(f'{KEY1}\n{KEY2}')
        status = self.path.stat()
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        other.replace(self.path)
        self.assertEqual(self.opened(), [1, 2])

    def test_read_once(self):
        "Test that the file is not read again as long as it stays"
        self.write(KEY1)
        self.opened()
        with patch('builtins.open') as open_:
            for _ in range(10):
                settings.get('encryption_keys')
        open_.assert_not_called()

    def assertKept(self, *words):
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            for _ in range(3):
                self.assertEqual(self.opened(), [1])
        line, = logs.output
        for word in (str(self.path), "stay in use", *words):
            self.assertIn(word, line)

    def test_lost(self):
        "Test that the keys stay in use if the file gets lost or spoilt"
        self.write(KEY1)
        self.assertEqual(self.opened(), [1])
        for content, words in [
                (None, "No such file"), ('x', "line 1 of"), ('', "holds none"),
                (None, "No such file")]:
            with self.subTest(content=content):
                if content is None:
                    self.path.unlink()
                else:
                    self.write(content)
                self.assertKept(words)
        self.write(KEY2)
        with self.assertNoLogs(LOGGER):
            self.assertEqual(self.opened(), [2])


class LostTestCase(TOTPTestCase):
    "Test logins with the wrong file of keys"

    def log_in(self, login):
        self.forget_attempts()
        return self.dialogue(login, password=[PASSWORD], totp_code=[
                self.code()])

    def test_put_back(self):
        "Test that codes work as soon as the right file is back"
        path = Path(self.key_file(KEY1))
        self.set_totp('encryption_keys', str(path))
        login, user_id = self.user(KEY)
        path.write_text(KEY2)
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            _, questions = self.log_in(login)
        self.assertEqual(questions[-1], ('totp_code', UNREADABLE))
        self.assertEqual(len(logs.output), 1)
        path.write_text(f'{KEY1}\n{KEY2}')
        self.assertEqual(self.log_in(login)[0], user_id)
        self.assertEqual(self.failures(user_id), 0)
        self.assertEqual(self.events(user_id), ['set_up'])

    def assertLine(self, count, tried):
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            self.load()
        line, = [line for line in logs.output if "no key decrypts" in line]
        self.assertIn(f': {count} of {tried} tried; ', line)
        self.assertIn('trytond_totp status', line)

    def test_at_start(self):
        "Test that the server says at start that secrets do not open"
        self.forget_others()
        self.set_keys(KEY1)
        for _ in range(3):
            self.user(KEY)
        with self.assertNoLogs(LOGGER):
            self.load()
        self.set_keys(KEY2)
        self.user(KEY)
        self.user()
        self.assertLine(3, 4)
        # Also if the setting is lost
        self.set_keys()
        self.assertLine(4, 4)
        with patch(
                'trytond.modules.authentication_totp.maintenance._SAMPLE', 2):
            self.assertLine(2, 2)
        self.set_keys(KEY2, KEY1)
        with self.assertNoLogs(LOGGER):
            self.load()

    def test_at_start_one_query(self):
        "Test that the number of statements does not depend on the users"
        self.forget_others()
        self.set_keys(KEY1)
        counts = []
        for _ in range(2):
            self.user(KEY)
            with self.count_statements() as statements:
                self.load()
            counts.append(len(statements))
        self.assertEqual(*counts)

    def test_once(self):
        "Test that a process says it once, however often the pool loads"
        self.forget_others()
        self.set_keys(KEY1)
        self.user(KEY)
        self.set_keys(KEY2)
        self.set_config('session', 'authentications', 'password+topt')
        with self.assertLogs(LOGGER, 'ERROR') as logs, \
                patch.object(notice, '_told', set()):
            for _ in range(3):
                with self.transaction():
                    self.check()
        self.assertEqual(len(logs.output), 2, logs.output)

    def check(self):
        from trytond.pool import Pool
        Pool().get('ir.configuration')(1).check()


class ClockTestCase(TOTPTestCase):
    "Test a clock that is set back"

    def test_at_start(self):
        "Test that the server says at start that the clock was set back"
        self.forget_others()
        self.set_keys(KEY1)
        login, user_id = self.user(KEY)
        self.assertEqual(
            self.dialogue(
                login, password=[PASSWORD], totp_code=[self.code()])[0],
            user_id)
        for back, told in [(0, False), (60, False), (61, True), (10**6, True)]:
            with self.subTest(back=back):
                self.now -= back
                if told:
                    with self.assertLogs(LOGGER, 'ERROR') as logs:
                        self.load()
                    line, = logs.output
                    self.assertIn("clock of this machine was set back", line)
                    self.assertIn("2033-05-18 03:33:20 UTC", line)
                else:
                    with self.assertNoLogs(LOGGER):
                        self.load()
                self.now += back

    def test_at_login(self):
        "Test that a code from before is told at a level that is shown"
        login, _ = self.user(KEY)
        self.dialogue(login, password=[PASSWORD], totp_code=[self.code()])
        self.now -= 120
        with self.assertLogs(LOGGER, 'ERROR') as logs:
            self.dialogue(login, password=[PASSWORD], totp_code=[self.code()])
        self.assertIn("ahead of the clock, which was set back", logs.output[0])


class LibraryTestCase(TOTPTestCase):
    "Test what a user meets if a library cannot be loaded"

    def setUp(self):
        super().setUp()
        self.login, self.user_id = self.user(KEY)
        self.without, self.without_id = self.user()
        patcher = patch.object(
            settings, 'missing_libraries',
            return_value=[('passlib', ImportError("broken"))])
        patcher.start()
        self.addCleanup(patcher.stop)

    def test_login(self):
        "Test that a right code is neither accepted nor counted"
        for value in ['password+totp', 'totp,password', 'totp+password']:
            self.set_config('session', 'authentications', value)
            for login in [self.login, self.without]:
                with self.subTest(value=value, login=login):
                    self.forget_attempts()
                    got, questions = self.dialogue(
                        login, password=[PASSWORD], totp_code=[self.code()])
                    self.assertIsNone(got)
        self.set_config('session', 'authentications', 'password+totp')
        _, questions = self.dialogue(
            self.login, password=[PASSWORD], totp_code=[self.code()])
        self.assertEqual(questions[-1], ('totp_code', UNREADABLE))
        self.assertEqual(self.failures(self.user_id), 0)
        self.assertEqual(self.events(self.user_id), ['set_up'])

    def test_password(self):
        "Test that users without TOTP log in where they may"
        self.set_config(
            'session', 'authentications', 'password+totp?no_totp_secret')
        self.assertEqual(
            self.dialogue(self.without, password=[PASSWORD])[0],
            self.without_id)

    def test_set_up(self):
        "Test that nobody is shown a key that could not be confirmed"
        self.set_config(
            'session', 'authentications', 'password+totp?setup_totp')
        _, questions = self.dialogue(self.without, password=[PASSWORD])
        self.assertEqual(questions[-1], ('totp_code', UNREADABLE))
        self.set_config('session', 'authentications', 'password')
        rpc = RPC()
        rpc.login(self.without, password=PASSWORD)
        with self.assertRaisesRegex(Exception, UNREADABLE):
            rpc.start_setup()
