# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build what the test of the desktop client needs and run it"

import shutil
import subprocess
import sys

from demo.demo import ROOT, build, build_server, pip_install, run

SERIES = ['8.0', '8.2']
# The bindings of GTK are there for the Python of the system only
PYTHON = '/usr/bin/python3'
COMMANDS = [PYTHON, 'Xvfb', 'openbox']
LIBRARIES = """\
import ensurepip
import gi
gi.require_foreign('cairo')
gi.require_version('Gtk', '3.0')
from gi.repository import GdkPixbuf, Gtk
'svg' in [f.get_name() for f in GdkPixbuf.Pixbuf.get_formats()] or exit(1)
"""
MISSING = """\
Something that the desktop client or its test needs is missing. Debian: apt-get
install gir1.2-gtk-3.0 librsvg2-common openbox python3-gi-cairo python3-venv \
xvfb"""


def install(series):
    "Install the server and the client of the series, and return the folder."
    def make_client(path):
        print(f"Installing the desktop client {series}...", flush=True)
        run(PYTHON, '-m', 'venv', '--system-site-packages', path)
        pip_install(path, requirement)

    folder = ROOT / '.e2e' / f'gtk-{series}'
    requirement = f'tryton == {series}.*'
    client = folder / 'client'
    build_server(folder, 'pillow', 'pyotp', 'zxing-cpp', series=series)
    build(client, f'{client} {requirement}', make_client)
    return folder


if not all(map(shutil.which, COMMANDS)) or subprocess.call(
        [PYTHON, '-c', LIBRARIES], stderr=subprocess.DEVNULL):
    sys.exit(MISSING)
pythons = [install(series) / 'venv' / 'bin' / 'python' for series in SERIES]
# Most of the time they wait for the next code
processes = [
    subprocess.Popen(
        [python, '-m', 'unittest', '-v', 'e2e.test_gtk'], cwd=ROOT)
    for python in pythons]
sys.exit(any([process.wait() for process in processes]))
