# This file is part of authentication_totp.  The COPYRIGHT file at the top
# level of this repository contains the full copyright notices and license
# terms.
"""The memory of a server process with and without the module

The figures are RSS, which counts all memory of the process, after logins. The
hash is the cheap one, because the memory of argon2 is freed anyway.
"""

import statistics

import psutil

from benchmarks import tools
from benchmarks.results import figure
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
    "Return the figures and the data of the memory."
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
    names = [
        f'{kind}_{when}_mib' for when in ['at_start', 'after_logins']
        for kind in ['rss', 'pss']]
    data = {
        variant: dict(zip(names, zip(*values, strict=True), strict=True))
        for variant, values in runs.items()}
    rss = {
        variant: statistics.median(values['rss_after_logins_mib'])
        for variant, values in data.items()}
    figures = [
        figure('MiB without the module', rss[NOT_INSTALLED], 1),
        *(figure(
                f'MiB more, {variant}', rss[variant] - rss[NOT_INSTALLED], 1)
            for variant in [NOT_ACTIVATED, ACTIVATED, USED])]
    return figures, {
        'threads': tools.THREADS, 'logins': tools.scaled(LOGINS), **data}
