"""A program that forks under load: ``python -m tests.apps.forking CONNINFO HOW ENDING``.

*HOW* is "os.fork" or "multiprocessing", *ENDING* how a forked child ends: "exit" or "_exit". Each
process prints one line: its number, its parent's, and how many rows it knows to be committed.
"""

import gc
import multiprocessing
import os
import sys
from collections import Counter

from gevent import monkey

monkey.patch_all()

import gevent  # noqa: E402

from geventpg import Pool  # noqa: E402
from tests.support.children import watch_children  # noqa: E402
from tests.support.process_sockets import sockets_to  # noqa: E402

watch_children()

CHILDREN = 3
GREENLETS = 20

conninfo, how, ending = sys.argv[1:4]
committed = Counter()
errors = []
stop = []


def statement(conn, me, number):
    assert conn.execute("select %s::int, pg_sleep(0.003)", [number]).fetchone()[0] == number


def transaction(conn, me, number):
    conn.execute("insert into forked values (%s, %s)", [me, number])
    assert conn.execute("select %s::int, pg_sleep(0.002)", [number]).fetchone()[0] == number
    conn.execute("insert into forked values (%s, %s)", [me, number])


def copy(conn, me, number):
    with conn.cursor().copy("copy forked from stdin") as copying:
        for _ in range(2):
            copying.write_row((me, number))
            gevent.sleep(0.001)


def prepared(conn, me, number):
    for _ in range(2):
        conn.execute("insert into forked values (%s, %s)", [me, number], prepare=True)


KINDS = [statement, transaction, copy, prepared]


def task(number):
    me = os.getpid()
    work = KINDS[number % len(KINDS)]
    with pool.connection() as conn:
        work(conn, me, number)
    # A copy of a greenlet that goes on in a child counts for the process that it began in.
    committed[me] += 0 if work is statement else 2


def load(first, tasks=None):
    home, number = os.getpid(), first
    while not stop and os.getpid() == home and (tasks is None or number < first + tasks):
        try:
            task(number)
        except Exception as error:
            if os.getpid() == home:
                errors.append(repr(error))
        number += 1


def child(parent, port):
    known = committed[parent]
    inherited = sockets_to(parent, port)
    jobs = [gevent.spawn(load, index, 8) for index in range(GREENLETS)]
    gevent.joinall(jobs, timeout=20)
    assert all(job.ready() for job in jobs), "the child's greenlets hang"
    shared = sockets_to(os.getpid(), port) & (inherited | sockets_to(parent, port))
    assert not shared, f"shared sockets: {shared}"
    assert 0 < len(sockets_to(os.getpid(), port)) <= pool.max_size
    assert committed[parent] == known, "the child believes to have committed for its parent"
    gc.collect()
    report(parent)


def report(parent):
    assert not errors, errors[:3]
    assert committed[os.getpid()], "nothing was done"
    # In one write: several processes share the pipe, and their lines must not mix.
    os.write(1, f"{os.getpid()} {parent} {committed[os.getpid()]}\n".encode())


def leave(status):
    sys.stderr.flush()
    if ending == "exit":
        sys.exit(status)
    os._exit(status)


def forked(parent, port):
    pid = os.fork()
    if pid == 0:
        try:
            child(parent, port)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr)
            leave(1)
        leave(0)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def started(parent, port):
    process = multiprocessing.get_context("fork").Process(target=child, args=(parent, port))
    process.start()

    def wait():
        while process.is_alive():
            gevent.sleep(0.02)
        return process.exitcode

    return wait


# A short life, so that some connections are just being opened when it forks.
pool = Pool(conninfo, min_size=2, max_size=6, max_lifetime=0.1, open=True, timeout=20)
pool.wait()
with pool.connection() as first:
    port = first.info.port
jobs = [gevent.spawn(load, index) for index in range(GREENLETS)]
me = os.getpid()
waits = []
for _ in range(CHILDREN):
    gevent.sleep(0.1)
    waits.append((forked if how == "os.fork" else started)(me, port))
for wait in waits:
    assert wait() == 0, "a child failed"
before = sum(committed.values())
gevent.sleep(0.2)
assert sum(committed.values()) > before, "the parent does nothing"
stop.append(True)
gevent.joinall(jobs, timeout=20)
assert all(job.ready() for job in jobs), "the parent's greenlets hang"
assert pool.get_stats()["returns_bad"] == 0
report(0)
pool.close()
