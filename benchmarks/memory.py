# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The memory of a server process with and without the module

RSS is all memory of the process; PSS counts shared memory in part. The hash is
the cheap one, because the memory of argon2 is freed anyway.
"""

import psutil

from benchmarks import tools
from tests.cheap_hash import CHEAP_HASH

DATABASE = 'memory'
BARE = 'memory_bare'
LOGINS = 100
RUNS = 3
HIDDEN = ' '.join(tools.MODULES)
NOT_INSTALLED = 'not installed'
NOT_ACTIVATED = 'installed, not activated'
ACTIVATED = 'activated, password'
USED = 'activated, password+totp'
# The database, the authentications and the modules to hide from the server
VARIANTS = {
    NOT_INSTALLED: (BARE, 'password', HIDDEN),
    NOT_ACTIVATED: (BARE, 'password', ''),
    ACTIVATED: (DATABASE, 'password', ''),
    USED: (DATABASE, 'password+totp', ''),
    }


def memory(process):
    "Return RSS and PSS of the only worker, in MiB."
    worker, = process.children()
    info = psutil.Process(worker.pid).memory_full_info()
    return [size / 2 ** 20 for size in (info.rss, info.pss)]


def run(variant, users):
    "Return the memory after the start and after the logins."
    database, authentications, hidden = VARIANTS[variant]
    with tools.serve(
            database, authentications, preload=False, cheap=True,
            BENCH_HIDE=hidden) as (port, process):
        result = memory(process)
        for user in users[:tools.scaled(LOGINS)]:
            assert tools.log_in(port, database, user), variant
        return result + memory(process)


def measure():
    "Return the table of the memory."
    tools.new_database(DATABASE)
    count = LOGINS * RUNS
    users = tools.make_users(DATABASE, count)
    tools.set_passwords(DATABASE, CHEAP_HASH)
    tools.create_database(BARE, tools.BARE)
    # Without the module no user has a secret
    bare_users = [
        tools.User(0, 'admin', user.key) for user in users[:LOGINS]]
    runs = {variant: [] for variant in VARIANTS}
    for i in range(RUNS):
        for variant, (database, *_) in VARIANTS.items():
            some = users[i * LOGINS:(i + 1) * LOGINS]
            runs[variant].append(
                run(variant, bare_users if database == BARE else some))
    rows = [
        [variant, *(
                tools.spread(values, '{:.1f}')
                for values in zip(*runs[variant], strict=True))]
        for variant in VARIANTS]
    return [
        f'Medians of {RUNS} servers with {tools.THREADS} threads, in MiB.\n',
        tools.table([
                'module', 'RSS at start', 'PSS at start',
                f'RSS after {tools.scaled(LOGINS)} logins',
                f'PSS after {tools.scaled(LOGINS)} logins'], rows)]
