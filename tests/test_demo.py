# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import configparser
import signal
import subprocess
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
DEMO = ROOT / 'demo'
if DEMO.is_dir():
    from demo import run, show_code
    from demo.demo import Server, download
# The body of a function that starts a process and does not end by itself
WORK = """\
    subprocess.Popen(["sleep", "1000"])
    print("ready", flush=True)
    time.sleep(1000)
"""


@unittest.skipUnless(DEMO.is_dir(), "the demo is not installed")
class DemoTestCase(unittest.TestCase):
    "Test the demo without installing its server and client"

    def setUp(self):
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def configure(self, port=8000, authentications=None):
        server = Server(self.folder, self.folder, port, authentications)
        server.configure()
        config = configparser.ConfigParser(interpolation=None)
        config.read(server.config)
        return server, config

    def test_port(self):
        "Test that a port is accepted and anything else refused in one line"
        for text, port in [('1', 1), ('8000', 8000), ('65535', 65535)]:
            self.assertEqual(run.parse_port(text), port)
        for text in ['', ' ', '0', '-1', '65536', '70000', 'abc', '8000 ',
                '8e3', '80.0', '٣', '²', '9' * 5000]:
            with self.subTest(text=text[:10]), \
                    self.assertRaises(SystemExit) as refused:
                run.parse_port(text)
            self.assertEqual(
                refused.exception.code,
                "PORT must be a whole number from 1 to 65535, "
                f"not {text!r}")

    def test_settings(self):
        "Test that the demo keeps an edited configuration, but not its ports"
        server, config = self.configure()
        policy = server.authentications
        self.assertEqual(
            policy, 'password+totp?no_totp_secret:setup_totp:totp_device')
        self.assertEqual(config['session']['authentications'], policy)
        edited = (
            '[web]\nlisten = localhost:1\n'
            '[session]\nauthentications = password+totp\ntimeout = 60\n'
            '[authentication_totp]\nissuer = 100 % {database}\n')
        server.settings.write_text(edited)

        server, config = self.configure(port=8001)
        self.assertEqual(server.settings.read_text(), edited)
        self.assertEqual(server.authentications, 'password+totp')
        self.assertEqual(dict(config['session']), {
                'authentications': 'password+totp', 'timeout': '60'})
        self.assertEqual(
            config['authentication_totp']['issuer'], '100 % {database}')
        self.assertEqual(config['web']['listen'], 'localhost:8001')
        # The links in e-mails use it
        self.assertEqual(config['web']['hostname'], 'localhost:8001')
        self.assertEqual(
            config['email']['uri'], f'smtp://localhost:{server.mail_port}')

    def test_keys(self):
        "Test that the demo encrypts secrets unless its settings turn it off"
        _, config = self.configure()
        self.assertEqual(
            config['authentication_totp']['encryption_keys'],
            str(self.folder / 'database' / 'totp.keys'))
        (self.folder / 'trytond.conf').write_text(
            '[authentication_totp]\nencryption_keys =\n')
        server, config = self.configure()
        self.assertEqual(config['authentication_totp']['encryption_keys'], '')
        # The default of trytond applies, as the file has no such setting
        self.assertEqual(server.authentications, 'password')

    def test_policy(self):
        "Test that a policy from the command line is used once and not stored"
        server, _ = self.configure()
        text = server.settings.read_text()
        server, config = self.configure(authentications='totp,password')
        self.assertEqual(server.authentications, 'totp,password')
        self.assertEqual(config['session']['authentications'], 'totp,password')
        self.assertEqual(server.settings.read_text(), text)
        server, config = self.configure(authentications='')
        self.assertIn('totp_device', config['session']['authentications'])

    def test_only_one(self):
        "Test that a second demo is refused while the first one runs"
        with run.only_one(self.folder, 8000):
            with self.assertRaises(SystemExit) as refused, \
                    run.only_one(self.folder, 8001):
                self.fail("two demos run")
            self.assertIn("already runs on port 8000;", refused.exception.code)
        # A process that could not clean up leaves no lock behind
        subprocess.run([
                sys.executable, '-c',
                'import os, pathlib, sys\n'
                'from demo.run import only_one\n'
                'with only_one(pathlib.Path(sys.argv[1]), 8002):\n'
                '    os.kill(os.getpid(), 9)\n', self.folder], cwd=ROOT)
        with run.only_one(self.folder, 8001):
            self.assertEqual((self.folder / 'lock').read_text(), '8001')

    def supervise(self, work, *numbers):
        """Supervise a function in a new process

        work: the body of the function
        numbers: the signals to send once the function has printed a line
        Return the exit status and what was printed after the first line.
        """
        process = subprocess.Popen([
                sys.executable, '-c',
                'import signal, subprocess, sys, time\n'
                'from demo import run\n'
                'run.PATIENCE = 1\n'
                f'def work():\n{work}\n'
                'sys.exit(run.supervise(work))\n'], cwd=ROOT, text=True,
            stdout=subprocess.PIPE)
        process.stdout.readline()
        for number in numbers:
            process.send_signal(number)
        # Returns only once all processes that hold the pipe have ended
        rest, _ = process.communicate(timeout=60)
        return process.returncode, rest

    def test_stop(self):
        "Test that a signal ends the demo and its processes with status 0"
        deaf = '    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n' + WORK
        for lines, *numbers in [
                (WORK, signal.SIGINT),
                (WORK, signal.SIGTERM),
                (WORK, signal.SIGHUP),
                (WORK, signal.SIGINT, signal.SIGINT),
                (deaf, signal.SIGINT)]:
            with self.subTest(lines=lines, numbers=numbers):
                self.assertEqual(self.supervise(lines, *numbers), (0, ''))

    def test_killed(self):
        "Test that the processes of the demo end even if it is killed"
        self.assertEqual(
            self.supervise(WORK, signal.SIGKILL), (-signal.SIGKILL, ''))

    def test_status(self):
        "Test that the demo ends with the status of a failed step"
        self.assertEqual(
            self.supervise('    print(1, flush=True)\n    return 3'), (3, ''))

    def test_download(self):
        "Test that a failed download ends with its command and a hint"
        download(sys.executable, '-c', '')
        with self.assertRaises(SystemExit) as refused:
            download(Path(sys.executable), '-c', 'raise SystemExit(1)')
        self.assertRegex(
            refused.exception.code,
            "^The download failed .* connection to the internet.* -c "
            r"'raise SystemExit\(1\)'$")

    def test_code(self):
        "Test that the demo computes the codes of the vectors in RFC 6238"
        key = 'GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ'
        for time, code in [
                (59, '287082'), (1111111109, '081804'),
                (20000000000, '353130')]:
            self.assertEqual(show_code.code(key, time // 30), code)
