# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Serve the demo until a signal stops it"

import configparser
import fcntl
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

from .demo import LOGINS, ROOT, Server, answers, build_tools

FOLDER = ROOT / '.demo'
PORTS = range(1, 2 ** 16)
# A terminal that is closed sends SIGHUP
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# For how many seconds the processes may take to end before they are killed
PATIENCE = 10
SCREEN = """
Tryton is on http://localhost:{port}

    login    password
    alice    {alice}    a user without TOTP
    bob      {bob}    a user with two authenticators
    carol    {carol}    a user with a hardware token
    admin    {admin}    the administrator

"make demo-code LOGIN=bob" in another terminal prints what his authenticators
show, "make demo-code LOGIN=carol" what her token shows.
E-mails: {mails}
Log: {log}
Policy: authentications = {policy}

What to do next:
  1. Log in as alice. "Set up TOTP" opens by itself: scan the QR code with the
     authenticator on your phone, and enter the code that it shows. Save the
     recovery codes and close the wizard. Enter the password and the next code.
  2. Log out, and log in as alice again: your browser is a remembered device
     now and skips the code. Open "Set up TOTP" in the menu, enter a code,
     choose "All devices" and press "Forget Devices".
  3. Log in as alice once more: Tryton asks for a code. Enter a wrong one, then
     the last one again, then a recovery code: it lets you set up a new phone.
  4. Log in as carol: "Set up TOTP" asks for a code of her token.
     Log in as bob: the codes of both his authenticators work.
  5. Log in as admin and cancel the wizards that open. Administration > Users
     lists users, each with a tab "TOTP", TOTP tokens and TOTP events.
  6. Open the folder of the e-mails in the browser.

Edit the policy in {settings}, or try another one once:
    make demo AUTHENTICATIONS=password+totp
To stop: Ctrl-C. To go on with the same data: make demo. To delete it all:
make demo-clean
"""


def parse_port(text):
    "Return the port that the text names, or exit with an error message."
    try:
        port = int(text) if text.isascii() and text.isdigit() else None
    # The text has more digits than Python converts
    except ValueError:
        port = None
    if port not in PORTS:
        sys.exit(
            f"PORT must be a whole number from {PORTS[0]} to {PORTS[-1]}, "
            f"not {text!r}")
    return port


@contextmanager
def only_one(folder, port):
    """Lock the folder against other demos until the context ends.

    Exit with an error message if another demo uses it.
    """
    folder.mkdir(exist_ok=True)
    with (folder / 'lock').open('a+') as file:
        try:
            # The system releases the lock however this process ends
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            sys.exit(
                f"The demo already runs on port {file.read()}; stop it with "
                "Ctrl-C before you start it again")
        file.truncate(0)
        file.write(str(port))
        file.flush()
        yield


def supervise(work):
    """Call work in a separate process. Return its exit status once it and all
    processes that it started have ended.

    The processes get no signals from the terminal, only those that this
    process passes on, and end when this process ends. A signal is the usual
    way to stop the demo, so the status is then 0.
    """
    stopped = []

    def stop(*args):
        stopped.append(True)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        signal.alarm(PATIENCE)

    def kill(*args):
        with suppress(OSError):
            os.killpg(pid, signal.SIGKILL)

    life, own_life = os.pipe()
    # Block signals until there is a process to pass them on to
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if not pid:
        os.close(own_life)
        os.setsid()
        threading.Thread(target=follow, args=[life], daemon=True).start()
        signal.signal(signal.SIGTERM, leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        sys.exit(work())
    os.close(life)
    for number in SIGNALS:
        signal.signal(number, stop)
    signal.signal(signal.SIGALRM, kill)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _, status = os.waitpid(pid, 0)
    kill()
    return 0 if stopped else os.waitstatus_to_exitcode(status)


def follow(life):
    """Kill all processes of the session once their supervisor has ended.

    life: the end of a pipe whose other end only the supervisor holds
    """
    os.read(life, 1)
    os.killpg(0, signal.SIGKILL)


def leave(*args):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit()


def serve(server):
    try:
        build_tools(FOLDER)
        server.build()
        with server.serve() as process:
            print(screen(server), flush=True)
            return process.wait()
    except subprocess.CalledProcessError as error:
        sys.exit(f"This command failed: {' '.join(map(str, error.cmd))}")
    except configparser.Error as error:
        sys.exit(' '.join(str(error).split()))


def screen(server):
    return SCREEN.format(
        port=server.port, mails=server.mails, log=server.log,
        settings=server.settings, policy=server.authentications,
        **{login: server.password(login) for login in LOGINS})


def main(port, authentications=None):
    port = parse_port(port)
    with only_one(FOLDER, port):
        if answers(port):
            sys.exit(
                f"Port {port} is taken by another program; choose another "
                "one, for example: make demo PORT=8001")
        server = Server(FOLDER, FOLDER, port, authentications)
        return supervise(lambda: serve(server))


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
