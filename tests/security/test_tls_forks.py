"""TLS sessions and forks: one byte of the child on the parent's session would corrupt it."""

from __future__ import annotations

import pytest

from tests.support.script import output_of

PATCHES = {"unpatched": "", "patched": "from gevent import monkey; monkey.patch_all()"}

CONNECTIONS = """
import gc, os, sys, warnings, gevent, gevent.os, geventpg
from tests.support.children import watch_children; watch_children()
warnings.simplefilter("ignore")
conn = geventpg.Connection.connect(sys.argv[1], autocommit=True)
assert conn.pgconn.ssl_in_use
reader = geventpg.Connection.connect(sys.argv[1], autocommit=True)
sleeper = gevent.spawn(reader.execute, "select pg_sleep(0.5), repeat('x', 100000)")
gevent.sleep(0.05)
pid = gevent.os.fork()
if pid == 0:
    status = 1
    try:
        {child}
        status = 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(status)
_, status = gevent.os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
for size in (1, 20_000, 200_000):
    assert len(conn.execute("select repeat('x', %s)", [size]).fetchone()[0]) == size
assert len(sleeper.get(timeout=5).fetchone()[1]) == 100_000
assert reader.execute("select 8").fetchone() == (8,)
conn.close()
reader.close()
print("done")
"""

CHILDREN = {
    "closes it": "conn.close(); reader.close(); assert conn.closed and reader.closed",
    "forgets it": "del conn, reader, sleeper; gc.collect(); gevent.sleep(0.2)",
    "opens its own": (
        "own = geventpg.Connection.connect(sys.argv[1]); assert own.pgconn.ssl_in_use;"
        " assert own.execute('select 9').fetchone() == (9,); own.close(); conn.close()"
    ),
}


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_the_parents_tls_sessions_live_when_the_child(tls_dsn, patch, child):
    assert output_of(f"{patch}\n{CONNECTIONS.format(child=child)}", tls_dsn) == "done\n"


HANDSHAKE = """
import os, sys, gevent, gevent.os, geventpg
from tests.support.children import watch_children; watch_children()
parent = os.getpid()

def connect():
    try:
        return geventpg.Connection.connect(sys.argv[1])
    except Exception:
        if os.getpid() == parent:
            raise

connecting = gevent.spawn(connect)
gevent.sleep(0.5)
assert not connecting.ready()
pid = gevent.os.fork()
if pid == 0:
    # The child has a copy of that greenlet, which gets its turns here.
    connecting.join(timeout=1.5)
    os._exit(0)
_, status = gevent.os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
with connecting.get(timeout=5) as conn:
    assert conn.execute("select 9").fetchone() == (9,)
print("done")
"""


def test_a_handshake_under_way_goes_on_in_the_parent_only(terminator):
    with terminator(pause=0.4) as conninfo:
        assert output_of(HANDSHAKE, conninfo) == "done\n"


# Like gunicorn with preload_app, or Celery's prefork with an app that connects at import.
PRELOADED = """
from gevent import monkey; monkey.patch_all()
import os, sys, gevent, geventpg
from tests.support.children import watch_children; watch_children()
geventpg.configure(sys.argv[1], min_size=2, max_size=3)

def work(count):
    def one(number):
        with geventpg.get_conn() as conn:
            assert conn.pgconn.ssl_in_use
            sql = "select %s::int, repeat('x', 30000), pg_backend_pid()"
            row = conn.execute(sql, [number]).fetchone()
            assert (row[0], len(row[1])) == (number, 30_000)
            return row[2]
    jobs = [gevent.spawn(one, number) for number in range(count)]
    gevent.joinall(jobs, raise_error=True)
    return {job.value for job in jobs}

before = work(10)
held = geventpg.get_conn()
held.execute("create temporary table kept (i int)")
children = []
for _ in range(3):
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            pids = work(20)
            assert not pids & before, "a backend of the parent"
            os.write(write_end, " ".join(map(str, pids)).encode())
            geventpg.close_all()
            status = 0
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(write_end)
    children.append((pid, read_end))
work(20)  # the parent works on meanwhile
seen = set(before)
for pid, read_end in children:
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, status
    pids = set(os.read(read_end, 1000).decode().split())
    assert pids and not pids & seen, "two processes on one backend"
    seen |= pids
assert held.execute("select count(*) from kept").fetchone() == (0,)
held.rollback()
geventpg.release_conn()
assert work(20)
geventpg.close_all()
print("done")
"""


def test_preloading_servers_parent_and_children_all_work(tls_dsn):
    assert output_of(PRELOADED, tls_dsn) == "done\n"
