"""Forks in the midst of everything: both processes work on, and nothing is shared."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from tests.chaos.form import pick
from tests.support import wait_until
from tests.support.script import ROOT, clean_environment, output_of


@pytest.fixture
def rows(admin):
    """Make a table that all processes write into; return a function that counts by process."""
    admin.execute("drop table if exists forked; create table forked (process int, number int)")
    query = "select process, count(*) from forked group by 1"
    yield lambda: dict(admin.execute(query).fetchall())
    admin.execute("drop table forked")


def run_family(*arguments: str, timeout: float = 60.0) -> str:
    """Run Python and return what it and its children printed; a process that hangs is killed."""
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", *arguments],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, complaints = process.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, complaints) == (0, ""), complaints
    return output


@pytest.mark.hang_limit(120)
@pytest.mark.parametrize(
    ("how", "ending"), [("os.fork", "_exit"), ("os.fork", "exit"), ("multiprocessing", "exit")]
)
def test_forks_while_tasks_are_in_every_phase(rows, dsn, backends, how, ending):
    output = run_family("-m", "tests.apps.forking", dsn, how, ending)
    lines = [[int(word) for word in line.split()] for line in output.splitlines()]
    told = {process: rows for process, _parent, rows in lines}
    assert rows() == told
    assert len(told) == 4
    wait_until(lambda: not backends())
    parent, *children = sorted(told.values(), reverse=True)
    print(f"{how}: parent {parent} rows, children {children}, all of them and no others committed")


QUIET = """
import gc, os, socket, struct, sys
from gevent import monkey; monkey.patch_all()
import gevent, geventpg
from tests.support.children import watch_children; watch_children()

def traffic(conn):
    # The kernel's count for both processes: tcp_info's bytes_acked and bytes_received.
    with socket.socket(fileno=os.dup(conn.fileno())) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return struct.unpack_from("QQ", info, 120)

geventpg.configure(sys.argv[1], min_size=3, max_size=3, keepalive_interval=0)
pool = geventpg.get_pool()
pool.wait()
idle, busy = pool.getconn(), pool.getconn()
busy.execute("create temporary table mine (i int)")
pool.putconn(idle)
mine = geventpg.get_conn()
mine.execute("select 1")
gevent.sleep(0.1)
before = [traffic(conn) for conn in (idle, busy, mine)]
child = os.fork()
if child == 0:
    try:
        {child}
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    {ending}
_, status = os.waitpid(child, 0)
assert status == 0, status
gevent.sleep(0.1)
after = [traffic(conn) for conn in (idle, busy, mine)]
assert before == after, (before, after)
assert busy.execute("select count(*) from mine").fetchone() == (0,)
assert traffic(busy) != after[1]
busy.rollback()
pool.putconn(busy)
mine.rollback()
geventpg.release_conn()
with pool.connection() as conn:
    assert conn is mine or conn is busy or conn is idle
geventpg.close_all()
print("not a byte")
"""

CHILDREN = {
    "works": """
        with geventpg.get_conn() as own:
            own.execute("select 1")
        """,
    "closes what it inherited": """
        busy.close()
        geventpg.close_all()
        pool.close()
        """,
    "tries to use what it inherited": """
        for conn in (idle, busy, mine):
            try:
                conn.execute("select 1")
            except Exception:
                conn.close()
            else:
                raise AssertionError("it works")
        """,
    "forgets what it inherited": """
        del idle, busy, mine, pool
        geventpg.close_all()
        gc.collect()
        """,
    "does nothing": "pass",
}


@pytest.mark.parametrize("ending", pick(short=["sys.exit(0)"], long=["os._exit(0)", "sys.exit(0)"]))
@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN)
def test_the_parents_sessions_do_not_hear_a_byte_of_a_child_that(dsn, child, ending):
    body = textwrap.indent(textwrap.dedent(child), " " * 8)
    source = QUIET.replace("        {child}", body).replace("{ending}", ending)
    assert output_of(source, dsn) == "not a byte\n"
