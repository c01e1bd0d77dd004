# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"Build what the browser test needs and run it"

import shutil
import subprocess
import sys

from demo.demo import ROOT, build_tools

TOOLS = ROOT / '.e2e'

if not shutil.which('chromium'):
    sys.exit("Chromium is missing: the test needs the command chromium.")
build_tools(TOOLS, 'pillow', 'playwright', 'pyotp', 'zxing-cpp')
sys.exit(subprocess.call(
        [TOOLS / 'venv' / 'bin' / 'python', '-m', 'unittest', '-v',
            'e2e.test_sao'], cwd=ROOT))
