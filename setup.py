#!/usr/bin/env python3
# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

NAME = 'authentication_totp'
PACKAGE = f'trytond.modules.{NAME}'
HERE = Path(__file__).parent

config = ConfigParser()
config.read_string((HERE / 'tryton.cfg').read_text(encoding='utf-8'))

# PyPI shows the README without the files beside it: leave out the pictures and
# turn the links to files into their names
readme = (HERE / 'README.rst').read_text(encoding='utf-8')
readme = re.sub(r'(?m)^\.\. image::.*\n(?: +.*\n)*\n', '', readme)
readme = re.sub(
    r'`([^`<]+)\s<(?!https?:)([^>]+)>`__?', r'\1 (``\2``)', readme)

setup(
    name=f'trytond_{NAME}',
    version=config['tryton']['version'],
    description="Tryton module to log in with time-based one-time passwords",
    long_description=readme,
    long_description_content_type='text/x-rst',
    author="The authors of authentication_totp",
    keywords='tryton totp authentication two-factor 2FA RFC 6238',
    project_urls={
        'Tryton': 'https://www.tryton.org/',
        'Forum': 'https://discuss.tryton.org/',
        },
    package_dir={PACKAGE: '.'},
    packages=[PACKAGE, f'{PACKAGE}.tests'],
    package_data={
        PACKAGE: config['tryton']['xml'].split() + [
            'tryton.cfg', '*.html', 'view/*.xml', 'locale/*.po',
            'icons/*.svg'],
        f'{PACKAGE}.tests': ['*.rst', '*.csv', '*.xml', 'upgrade/*'],
        },
    classifiers=[
        'Development Status :: 4 - Beta',
        'Environment :: Plugins',
        'Framework :: Tryton',
        'Intended Audience :: Developers',
        'Intended Audience :: Financial and Insurance Industry',
        'Intended Audience :: System Administrators',
        'Natural Language :: Bulgarian',
        'Natural Language :: Catalan',
        'Natural Language :: Chinese (Simplified)',
        'Natural Language :: Czech',
        'Natural Language :: Dutch',
        'Natural Language :: English',
        'Natural Language :: Finnish',
        'Natural Language :: French',
        'Natural Language :: German',
        'Natural Language :: Hungarian',
        'Natural Language :: Indonesian',
        'Natural Language :: Italian',
        'Natural Language :: Persian',
        'Natural Language :: Polish',
        'Natural Language :: Portuguese',
        'Natural Language :: Romanian',
        'Natural Language :: Russian',
        'Natural Language :: Slovenian',
        'Natural Language :: Spanish',
        'Natural Language :: Turkish',
        'Natural Language :: Ukrainian',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Office/Business',
        'Topic :: Security',
        ],
    license_expression='GPL-3.0-or-later',
    license_files=['COPYRIGHT', 'LICENSE'],
    python_requires='>=3.10',
    install_requires=[
        'cryptography',
        'passlib',
        'python-sql >= 1.8',
        'trytond[qrcode] >= 8.0, < 8.3',
        ],
    extras_require={
        'pskc': ['python-pskc'],
        'test': [
            'aiosmtpd',
            'proteus >= 8.0, < 8.3',
            'hypothesis',
            'pyotp',
            'python-pskc',
            'trytond_authentication_sms >= 8.0, < 8.3',
            'zxing-cpp',
            ],
        },
    zip_safe=False,
    entry_points={
        'console_scripts': [f'trytond_totp = {PACKAGE}.command:main'],
        'trytond.modules': [f'{NAME} = {PACKAGE}'],
        },
    )
