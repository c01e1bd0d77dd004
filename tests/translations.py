# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Update the translation files, like Tryton's wizards that set, clean, update
and export translations

Arguments are the codes of new languages. New texts are empty in the files, and
changed ones are fuzzy.
"""

import sys
from pathlib import Path

import polib

from trytond.pool import Pool
from trytond.tests.test_tryton import DB_NAME, activate_module
from trytond.transaction import Transaction

MODULE = 'authentication_totp'
SOURCE = 'en'
FOLDER = Path(__file__).parent.parent / 'locale'


def languages():
    "Return the codes of the languages that have files."
    return sorted(path.stem for path in FOLDER.glob('*.po'))


def load(codes, modules):
    """Load the translations of the languages into the test database.

    modules: the names of the modules whose translations are loaded
    """
    activate_module(MODULE)
    with Transaction().start(DB_NAME, 0):
        Lang = Pool().get('ir.lang')
        Lang.write(
            Lang.search([('code', 'in', codes)]), {'translatable': True})
    Pool(DB_NAME).init(update=modules, lang=['en', *codes])


def export(codes):
    "Yield the up-to-date file of each language, as an object of polib."
    with Transaction().start(DB_NAME, 0):
        pool = Pool()
        Lang = pool.get('ir.lang')
        Translation = pool.get('ir.translation')
        _run('set', 'transition_set_')
        _run('clean', 'transition_clean')
        for code in codes:
            if code != SOURCE:
                language, = Lang.search([('code', '=', code)])
                _run('update', 'do_update', {}, language=language)
            content = Translation.translation_export(code, MODULE)
            yield polib.pofile(content.decode())


def _run(name, method, *args, **values):
    Wizard = Pool().get(f'ir.translation.{name}', type='wizard')
    session_id, _, _ = Wizard.create()
    wizard = Wizard(session_id)
    for field, value in values.items():
        setattr(wizard.start, field, value)
    getattr(wizard, method)(*args)


if __name__ == '__main__':
    codes = sorted({*languages(), *sys.argv[1:]})
    load(codes, ['ir', 'res', MODULE])
    for code, content in zip(codes, export(codes), strict=True):
        path = FOLDER / f'{code}.po'
        # The export does not contain the comment at the top of the file
        content.header = (
            polib.pofile(str(path)).header if path.exists()
            else "Not proofread by a native speaker.")
        content.save(path)
        print(
            f"{code}: {len(content.untranslated_entries())} empty, "
            f"{len(content.fuzzy_entries())} fuzzy")
