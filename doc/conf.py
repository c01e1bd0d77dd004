# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.

from configparser import ConfigParser
from pathlib import Path

config = ConfigParser()
config.read(Path(__file__).parent.parent / 'tryton.cfg', encoding='utf-8')

project = "Authentication TOTP Module"
copyright = "the authors of authentication_totp"
version = release = config['tryton']['version']
html_theme = 'alabaster'
html_static_path = ['_static']
html_theme_options = {
    'description': "One-time passwords for Tryton",
    'page_width': '64em',
    'fixed_sidebar': True,
    }
html_sidebars = {'**': ['about.html', 'navigation.html', 'searchfield.html']}
html_show_sourcelink = False
html_copy_source = False
nitpicky = True
