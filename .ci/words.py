# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""Find the words that CONTRIBUTING.rst advises against.

words.txt holds the rules: on each line a regular expression, without regard to
case, and what to write instead. A space of the expression also matches a line
break.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = [
    '*.rst', 'CHANGELOG', 'doc/*.rst', 'message.xml', 'event_email.html',
    'view/*.xml', 'locale/*.po']
# Code and names between the sentences of reStructuredText
CODE = re.compile(
    r'^( *)\.\. code-block::.*(?:\n(?:\1 +.*)?$)*'
    r'|``[^`]+``|:\w+:`[^`<]+`|<[^>]+>`', re.MULTILINE)
MSGID = re.compile(r'^msgid(?:_plural)? ((?:".*"\n)+)', re.MULTILINE)


def read_rules():
    "Return the expressions with what to write instead."
    rules = []
    for line in Path(__file__).with_name('words.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            pattern, advice = line.rsplit(' -> ', 1)
            pattern = pattern.strip().replace(' ', r'(?: +| *\n *)')
            rules.append((re.compile(pattern, re.IGNORECASE), advice))
    return rules


def texts(path):
    "Yield the English texts of the file with the numbers of their lines."
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.po':
        for match in MSGID.finditer(text):
            strings = match[1].splitlines()
            yield (
                text.count('\n', 0, match.start()) + 1,
                ''.join(map(ast.literal_eval, strings)))
    elif path.suffix == '.rst':
        # Keep the breaks, by which the lines are counted
        yield 1, CODE.sub(lambda m: re.sub('.', '`', m[0]), text)
    else:
        yield 1, text


def main():
    "Print what the rules find and return how much it is."
    rules = read_rules()
    seen, count = set(), 0
    for path in [p for name in FILES for p in sorted(ROOT.glob(name))]:
        for first, text in texts(path):
            # The files of all languages have the same English texts
            if text in seen:
                continue
            seen.add(text)
            for pattern, advice in rules:
                for match in pattern.finditer(text):
                    line = first + text.count('\n', 0, match.start())
                    found = ' '.join(match[0].split())
                    print(
                        f'{path.relative_to(ROOT)}:{line}: '
                        f'"{found}": {advice}')
                    count += 1
    return count


if __name__ == '__main__':
    sys.exit(main() > 0)
