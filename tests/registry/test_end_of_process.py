"""A process that ends with connections held ends quietly, and the server knows."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.script import run_script

PATCH = """
import sys
from gevent import monkey; monkey.patch_all()
import gevent, geventpg
geventpg.configure(sys.argv[1], min_size=2, max_size=4)
"""

STOCK = """
import sys, threading, time
import geventpg
geventpg.configure(sys.argv[1], min_size=2, max_size=4)
"""

ENDS = {
    "main": PATCH + "conn = geventpg.get_conn(); conn.execute('select 1'); conn.commit()",
    "block": PATCH
    + "conn = geventpg.get_conn(); conn.__enter__(); conn.execute('select 1'); conn.commit()",
    "greenlet": PATCH
    + """
def hold():
    geventpg.get_conn().execute('select 1')
    geventpg.get_conn().commit()
    held.set()
    gevent.sleep(100)
import gevent.event
held = gevent.event.Event()
kept = gevent.spawn(hold)
held.wait()
""",
    "raw greenlet": PATCH
    + """
def hold():
    geventpg.get_conn().execute('select 1')
    geventpg.get_conn().commit()
    gevent.sleep(100)
kept = gevent.spawn_raw(hold)
gevent.sleep(0.3)
""",
    "statement": PATCH
    + """
kept = gevent.spawn(lambda: geventpg.get_conn().execute('select pg_sleep(60)'))
gevent.sleep(0.3)
""",
    "waiters": PATCH
    + """
for _ in range(4): geventpg.get_pool().getconn()
kept = [gevent.spawn(geventpg.get_conn) for _ in range(20)]
gevent.sleep(0.1)
""",
    "sys.exit": PATCH + "geventpg.get_conn(); sys.exit(0)",
    "connecting": PATCH + "geventpg.get_pool()",
    "global": PATCH + "import builtins; builtins.kept = geventpg.get_conn()",
    "stock main": STOCK + "conn = geventpg.get_conn(); conn.execute('select 1'); conn.commit()",
    "stock thread": STOCK
    + """
held = threading.Event()
def hold():
    geventpg.get_conn().execute('select 1')
    geventpg.get_conn().commit()
    held.set()
    time.sleep(100)
threading.Thread(target=hold, daemon=True).start()
held.wait()
""",
    "stock connecting": STOCK + "geventpg.get_pool()",
}


@pytest.mark.parametrize("how", ENDS)
def test_a_process_that_holds_connections_ends_at_once_without_a_word(dsn, backends, how):
    done = run_script(ENDS[how], dsn, timeout=15)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: not backends(), timeout=8, message="the server has closed its side")


@pytest.mark.parametrize("start", [PATCH, STOCK], ids=["gevent", "stock"])
def test_a_transaction_that_is_open_at_the_end_is_told_of_in_one_line(dsn, start):
    done = run_script(start + "geventpg.get_conn().execute('select 1')", dsn, timeout=15)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(done.stderr.splitlines()) <= 1, done.stderr
    assert "rolling back" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_process_that_ends_by_an_exception_shows_that_exception_only(dsn):
    done = run_script(PATCH + "geventpg.get_conn(); raise KeyError('mine')", dsn, timeout=15)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.strip().splitlines()[-1] == "KeyError: 'mine'"
