# PYTHON_ARGCOMPLETE_OK
# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"The command trytond_totp, for the administrator of the server"

import argparse
import configparser
import logging
import os
import sys
import time

import trytond.commandline as commandline
import trytond.config as config

from . import seal, settings

# A login of a user in a batch waits until the whole batch is written
_BATCH = 100
_BAR = 40
_DESCRIPTION = """\
Manage the TOTP of the users of a database from the server: let a user who
lost the authenticator log in again, even the only administrator, and encrypt
the stored secrets with a new key.

Anyone who can run this command can do to each user what an administrator can.
"""
_EPILOG = """\
examples:
  Show which users have TOTP, since when, and which have to wait or are locked:
    trytond_totp -c trytond.conf -d DATABASE status
    trytond_totp -c trytond.conf -d DATABASE status alice
  Alice lost her authenticator and her recovery codes:
    trytond_totp -c trytond.conf -d DATABASE reset alice
  Reset a copy of the database for tests, without e-mails to real users:
    trytond_totp -c trytond.conf -d DATABASE reset --all --quiet
  Alice entered so many wrong codes that her codes no longer work:
    trytond_totp -c trytond.conf -d DATABASE unlock alice
  Encrypt the secrets that are unencrypted or encrypted with an old key, once
  every server has the new key in the first line of its key file:
    trytond_totp -c trytond.conf -d DATABASE reseal
  Generate a new encryption key:
    trytond_totp genkey > totp.keys

exit codes:
  0  success
  1  failure, or no key decrypts some secrets; a line on standard error says
     which
  2  wrong arguments

The environment variable TRYTOND_CONFIG can name the configuration file, and
TRYTOND_DATABASE_URI the database server.
"""


def main(args=None):
    """Run the command.

    args: the arguments without the name of the command, by default those
        of the process
    Raise SystemExit with the code 2 if the arguments are wrong, and with a
    line about the cause if the command fails.
    """
    parser = _get_parser()
    commandline.set_autocomplete(parser)
    options = parser.parse_args(args)
    for library, error in settings.missing_libraries():
        sys.exit(f"the library {library} cannot be loaded: {_line(error)}")
    if options.function is genkey:
        genkey()
        return
    if not options.database_name:
        parser.error(
            "the following arguments are required: -d/--database")
    _configure(options)
    # Import after the command is configured
    from trytond import backend
    try:
        _load(options.database_name)
        options.function(options)
    except backend.DatabaseOperationalError as error:
        sys.exit(f"the database failed: {_line(error)}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def _get_parser():
    parser = argparse.ArgumentParser(
        prog='trytond_totp', description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(logconf=None)
    # The option of trytond takes several files after one -c, and would take
    # the subcommand as another file
    parser.add_argument(
        '-c', '--config', dest='configfile', metavar='FILE', action='append',
        default=[], help="the configuration file; repeat -c for several")
    parser.add_argument(
        '-d', '--database', dest='database_name', metavar='NAME',
        help="the database; required, except by genkey",
        ).completer = commandline.database_completer
    parser.add_argument(
        '-v', '--verbose', action='count', default=0,
        help="show the log; repeat -v for more of it")
    commands = parser.add_subparsers(metavar='COMMAND', required=True)

    def add(function, help):
        command = commands.add_parser(
            function.__name__, help=help, description=f"{help}.")
        command.set_defaults(function=function)
        return command

    add(status, "show a line for each user with TOTP, or for one user"
        ).add_argument('login', metavar='LOGIN', nargs='?')
    command = add(
        reset,
        "remove the authenticators and the recovery codes of a user, or of "
        "all users, log them out everywhere and tell them by e-mail")
    who = command.add_mutually_exclusive_group(required=True)
    who.add_argument('login', metavar='LOGIN', nargs='?')
    who.add_argument(
        '--all', action='store_true',
        help="reset every user with TOTP; safe to interrupt and to repeat")
    command.add_argument(
        '--quiet', action='store_true', help="send no e-mails")
    command.add_argument(
        '--yes', action='store_true', help="reset all users without asking")
    add(unlock, "forget the wrong codes of a user and tell the user by e-mail"
        ).add_argument('login', metavar='LOGIN')
    add(reseal,
        "encrypt all stored secrets with the first key of encryption_keys; "
        "safe to interrupt, to repeat and to run beside the server")
    add(genkey, "print a new encryption key for the file encryption_keys")
    return parser


def _configure(options):
    if options.verbose:
        commandline.config_log(options)
    else:
        # Show no traceback with the line about the error
        logging.basicConfig(handlers=[logging.NullHandler()])
    try:
        # Trytond ignores files that it cannot read
        for path in options.configfile:
            open(os.path.expanduser(path)).close()
        config.update_etc(options.configfile)
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        sys.exit(f"the configuration cannot be read: {_line(error)}")
    try:
        settings.check()
    except settings.SettingError as error:
        sys.exit(str(error))


def _load(database_name):
    from trytond import backend
    from trytond.pool import Pool
    from trytond.transaction import Transaction

    try:
        with Transaction().start(None, 0, readonly=True) as transaction:
            database_names = transaction.database.list()
    except backend.DatabaseOperationalError as error:
        sys.exit(f"the database server cannot be reached: {_line(error)}")
    if database_name not in database_names:
        sys.exit(f'there is no Tryton database "{database_name}"')
    pool = Pool(database_name)
    pool.init()
    try:
        pool.get('res.user.totp_counter')
    except KeyError:
        sys.exit(
            "the module authentication_totp is not activated "
            f'in the database "{database_name}"')


def _transact(options, function, *args):
    """Return the result of the function, called with the class User and the
    arguments in a transaction of its own.

    The call is repeated if a simultaneous transaction makes it fail.
    """
    from trytond import backend
    from trytond.pool import Pool
    from trytond.transaction import Transaction, inactive_records

    retry = config.getint('database', 'retry')
    for count in range(retry, -1, -1):
        try:
            with Transaction().start(options.database_name, 0), \
                    inactive_records():
                return function(Pool().get('res.user'), *args)
        except backend.DatabaseOperationalError:
            if not count:
                raise
            time.sleep(0.02 * (retry - count + 1))


def _find(User, login):
    from trytond.tools import escape_wildcard

    users = User.search([('id', '!=', 0), ('login', '=', login)])
    if not users:
        message = f'there is no user with the login "{login}"'
        similar = User.search([
                ('id', '!=', 0),
                ('login', 'ilike', escape_wildcard(login)),
                ], order=[('login', 'ASC')])
        if similar:
            message += "; did you mean %s?" % " or ".join(
                f'"{_line(user.login)}"' for user in similar)
        sys.exit(message)
    return users


def status(options):
    lines, users, tokens = _transact(options, _status, options.login)
    for line in lines:
        print(line)
    # Print the lines first if both streams go to the same file
    sys.stdout.flush()
    _exit_unreadable(users, tokens)


def _exit_unreadable(users, tokens):
    "Exit if there are users or tokens whose secret no key decrypts."
    if failed := ", ".join(
            f"{kind} whose secret no key decrypts: {len(names)}"
            for kind, names in [("users", users), ("tokens", tokens)]
            if names):
        sys.exit(failed)


def _status(User, login):
    if login is not None:
        users = _find(User, login)
    else:
        users = User.search(
            [('totp_enabled', '=', True)], order=[('login', 'ASC')])
    unreadable = User.unreadable_totp_owners(users)
    tokens = User.unreadable_totp_tokens() if login is None else []
    return [
        *(_describe(user, user.id in unreadable) for user in users),
        *(f'token "{_line(serial)}": no key decrypts the secret'
            for serial in tokens),
        *(_describe_waiting() if login is None else []),
        ], unreadable, tokens


def _describe_waiting():
    from trytond.pool import Pool

    Event = Pool().get('res.user.totp_event')
    count, since = Event.waiting()
    if count:
        since = since.replace(microsecond=0)
        yield f"e-mails waiting for a worker: {count}, since {since} UTC"


def _describe(user, unreadable):
    login = _line(user.login)
    if not user.totp_enabled:
        return f"{login}: off"
    text = (
        f"{login}: on since {user.totp_since} UTC, "
        f"{user.totp_recovery_codes} recovery codes left, "
        f"{user.totp_failures} failures")
    if user.totp_waiting_until:
        text += f", waiting until {user.totp_waiting_until} UTC"
    if user.totp_locked:
        text += ", locked"
    if unreadable:
        text += ", no key decrypts the secret"
    return text


def reset(options):
    if options.all:
        _reset_all(options)
        return
    _transact(
        options, lambda User: User.reset_totp(
            _find(User, options.login), tell=not options.quiet))
    print(f'TOTP was reset for "{options.login}"')


def _reset_all(options):
    ids = _transact(
        options, lambda User: [
            u.id for u in User.search([('totp_enabled', '=', True)])])
    if ids and not options.yes:
        _confirm(
            f"Reset TOTP of {len(ids)} users of the database "
            f"{options.database_name}?")
    for batch in _batches(ids):
        _transact(
            options, lambda User, ids: User.reset_totp(
                User.browse(ids), tell=not options.quiet), batch)
    print(f"TOTP was reset, users: {len(ids)}")


def _confirm(question):
    "Exit unless the user confirms at the terminal."
    if not sys.stdin.isatty():
        sys.exit("no terminal to ask for confirmation: add --yes")
    print(f"{question} [y/N] ", end='', file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {'y', 'yes'}:
        sys.exit("nothing was reset")


def unlock(options):
    _transact(
        options, lambda User: User.unlock_totp(_find(User, options.login)))
    print(f'TOTP was unlocked for "{options.login}"')


def reseal(options):
    if not settings.get('encryption_keys'):
        sys.exit(
            "[authentication_totp] encryption_keys is not set: "
            "there is no key to encrypt with")
    _transact(options, lambda User: User.drop_totp_token_files())
    users = _transact(options, lambda User: User.totp_owners())
    tokens = _transact(options, lambda User: User.totp_tokens())
    logins, serials = [
        [name for batch in _batches(ids)
            for name in _transact(options, function, batch)]
        for function, ids in [(_reseal, users), (_reseal_tokens, tokens)]]
    for name in [
            *(f'"{_line(login)}"' for login in logins),
            *(f'the token "{_line(serial)}"' for serial in serials)]:
        print(f'no key decrypts the secret of {name}', file=sys.stderr)
    _exit_unreadable(logins, serials)
    text = f"all secrets are encrypted with the first key, users: {len(users)}"
    print(f"{text}, tokens: {len(tokens)}" if tokens else text)


def _reseal(User, ids):
    return [u.login for u in User.reseal_totp(User.browse(ids))]


def _reseal_tokens(User, ids):
    return User.reseal_totp_tokens(ids)


def _batches(ids):
    "Yield the ids in batches, with a progress bar on a terminal."
    batches = [ids[i:i + _BATCH] for i in range(0, len(ids), _BATCH)]
    if not (batches and sys.stderr.isatty()):
        yield from batches
        return
    try:
        for done, batch in enumerate(batches, 1):
            yield batch
            bar = '#' * (_BAR * done // len(batches))
            print(
                f"\r[{bar:{_BAR}}] {100 * done // len(batches)}%", end='',
                file=sys.stderr, flush=True)
    finally:
        print(file=sys.stderr)


def genkey():
    print(seal.new_key())


def _line(text):
    return ' '.join(str(text).split())


if __name__ == '__main__':
    main()
