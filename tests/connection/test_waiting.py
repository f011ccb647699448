"""While one greenlet waits for the server, the others run, and no timer or system call is spent."""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import gevent
import pytest

from geventpg.testing.programs import require_program
from tests.connection.helpers import Attempt, Ticker, active
from tests.support import wait_until
from tests.support.pools import terminate
from tests.support.script import ROOT, clean_environment, output_of

STARTS = {
    "nothing patched": "",
    "patched first": "from gevent import monkey; monkey.patch_all()",
    "patched after psycopg": (
        "import psycopg, psycopg_pool; from gevent import monkey; monkey.patch_all()"
    ),
    "patched after geventpg": "import geventpg; from gevent import monkey; monkey.patch_all()",
    "patched without select": (
        "from gevent import monkey; monkey.patch_all(select=False, thread=False)"
    ),
}

OVERLAP = """
import sys, time, gevent, geventpg
conns = []
def connect():
    conns.append(geventpg.Connection.connect(sys.argv[1]))
gevent.joinall([gevent.spawn(connect) for _ in range(5)], raise_error=True)
ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1
ticker = gevent.spawn(tick)
started = time.monotonic()
def query(number):
    with conns[number].cursor() as cur:
        return cur.execute("select pg_sleep(0.4), %s::int", [number]).fetchone()[1]
greenlets = [gevent.spawn(query, number) for number in range(5)]
gevent.joinall(greenlets, raise_error=True)
assert [g.value for g in greenlets] == list(range(5))
took = time.monotonic() - started
assert 0.4 <= took < 1.2, took
assert ticks >= 10, ticks
for conn in conns:
    conn.close()
print("done")
"""


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_queries_of_several_greenlets_overlap_and_the_hub_ticks(dsn, start):
    assert output_of(f"{start}\n{OVERLAP}", dsn) == "done\n"


@pytest.mark.parametrize(
    "start", [STARTS["nothing patched"], STARTS["patched after psycopg"]], ids=["plain", "late"]
)
def test_two_greenlets_that_share_a_connection_take_turns(dsn, start):
    source = """
import sys, gevent, geventpg
conn = geventpg.Connection.connect(sys.argv[1], autocommit=True)
def query(number):
    return conn.execute("select pg_sleep(0.05), %s::int", [number]).fetchone()[1]
greenlets = [gevent.spawn(query, number) for number in range(4)]
gevent.joinall(greenlets, raise_error=True, timeout=10)
assert [g.value for g in greenlets] == list(range(4))
conn.close()
print("done")
"""
    assert output_of(f"{start}\n{source}", dsn) == "done\n"


def test_the_main_greenlet_waits_as_well_as_any_other(conn):
    with Ticker() as ticker:
        conn.execute("select pg_sleep(0.3)")
    assert ticker.ticks >= 10
    assert ticker.longest_gap < 0.25


def test_connecting_leaves_the_hub_to_others(connect, proxy, dsn):
    proxy.delay(0.1)
    with Ticker() as ticker:
        connect(proxy.dsn(dsn))
    assert ticker.ticks >= 10
    assert ticker.longest_gap < 0.2


def test_no_timer_wakes_a_waiting_greenlet(conn, monkeypatch):
    class CountingLoop:
        def __init__(self, loop):
            self._loop = loop
            self.timers = 0

        def __getattr__(self, name):
            if name == "timer":
                self.timers += 1
            return getattr(self._loop, name)

    hub = gevent.get_hub()
    conn.execute("select 1")
    counting = CountingLoop(hub.loop)
    greenlet = Attempt(lambda: conn.execute("select pg_sleep(0.2)").fetchone())
    while not greenlet.over:
        # One round of the loop; only this sleep's timer is ours.
        monkeypatch.setattr(hub, "loop", counting)
        try:
            gevent.sleep(0)
        finally:
            monkeypatch.setattr(hub, "loop", counting._loop)
        gevent.sleep(0.02)
    assert greenlet.error is None
    assert counting.timers == 0


def test_a_process_that_waits_for_500_slow_statements_uses_hardly_any_cpu(dsn):
    # One connection each would need 500 backends: 20 connections with 25 greenlets in line.
    source = """
    import sys, time, gevent, geventpg
    conns = [geventpg.Connection.connect(sys.argv[1], autocommit=True) for _ in range(20)]
    def work(conn):
        conn.execute("select pg_sleep(1.5)")
    greenlets = [gevent.spawn(work, conn) for conn in conns for _ in range(25)]
    gevent.sleep(0.2)
    before, started = time.process_time(), time.monotonic()
    gevent.sleep(1.0)
    share = (time.process_time() - before) / (time.monotonic() - started)
    assert share < 0.02, share
    gevent.killall(greenlets, block=True)
    for conn in conns:
        conn.close()
    print("done")
    """
    assert output_of(source, dsn) == "done\n"


def test_a_query_costs_no_epoll_ctl(dsn, tmp_path):
    strace = require_program("strace")
    source = """
    import sys, geventpg
    conn = geventpg.Connection.connect(sys.argv[1], autocommit=True)
    def run(count):
        for number in range(count):
            assert conn.execute("select %s::int", [number]).fetchone() == (number,)
    run(5)
    import os
    os.getpgid(0)   # a mark in the trace
    run(200)
    os.getpgid(0)
    conn.close()
    """
    trace = tmp_path / "trace"
    command = [strace, "-f", "-o", str(trace), "-e", "trace=epoll_ctl,getpgid,timerfd_settime"]
    command += [sys.executable, "-c", textwrap.dedent(source), dsn]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    calls = re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.MULTILINE)
    first, last = (position for position, name in enumerate(calls) if name == "getpgid")
    counts = collections.Counter(calls[first + 1 : last])
    assert counts["epoll_ctl"] <= 4, counts
    assert counts["timerfd_settime"] <= 4, counts


def test_an_idle_connection_with_unread_data_does_not_spin_the_loop(conn, connect):
    conn.execute("listen idle_channel")
    with connect(autocommit=True) as other:
        other.execute("notify idle_channel, 'here'")
        gevent.sleep(0.05)
        before = time.process_time()
        gevent.sleep(0.3)
        assert time.process_time() - before < 0.1
    assert [n.payload for n in conn.notifies(timeout=1, stop_after=1)] == ["here"]


def test_an_idle_connection_does_not_keep_the_loop_alive(dsn):
    source = """
    import sys, gevent, geventpg
    conn = geventpg.Connection.connect(sys.argv[1])
    assert gevent.get_hub().join(timeout=5) is True   # nothing left to wait for
    conn.close()
    print("done")
    """
    assert output_of(source, dsn) == "done\n"


def test_a_process_ends_quietly_while_a_greenlet_waits(dsn, backends, admin):
    source = """
    import sys, gevent, geventpg
    def wait(conn):
        conn.execute("select pg_sleep(30)")
    conns = [geventpg.Connection.connect(sys.argv[1]) for _ in range(3)]
    greenlets = [gevent.spawn(wait, conn) for conn in conns]
    gevent.sleep(0.1)
    print("done")
    """
    started = time.monotonic()
    assert output_of(source, dsn) == "done\n"
    assert time.monotonic() - started < 15
    for backend in backends():  # they sleep on: the server has not looked at its socket
        terminate(admin, backend.pid)


@pytest.mark.parametrize("start", [STARTS["nothing patched"], STARTS["patched first"]])
def test_ctrl_c_cancels_the_main_greenlets_statement_and_ends_it(dsn, backends, start):
    source = """
import signal, sys, geventpg
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
conn = geventpg.Connection.connect(sys.argv[1], autocommit=True)
try:
    conn.execute("select pg_sleep(30)")
except KeyboardInterrupt:
    print("interrupted", conn.execute("select 42").fetchone()[0])
conn.close()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{start}\n{source}", dsn],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: active(backends), timeout=10, message="the statement runs")
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert output == "interrupted 42\n"
    assert process.returncode == 0


def test_a_greenlet_that_waits_for_its_turn_can_be_killed(conn, backends):
    first = Attempt(lambda: conn.execute("select pg_sleep(0.4), 'first'").fetchone()[1])
    wait_until(lambda: active(backends), message="the first statement runs")
    second = Attempt(lambda: conn.execute("select 'second'").fetchone())
    third = Attempt(lambda: conn.execute("select 'third'").fetchone())
    gevent.sleep(0.01)
    second.throw(gevent.GreenletExit())
    second.join()
    assert isinstance(second.error, gevent.GreenletExit)
    assert not first.over
    assert first.join().result == "first"
    assert third.join().result == ("third",)


def test_a_greenlet_killed_just_as_it_gets_its_turn_passes_it_on(conn):
    def waiter(number):
        return conn.execute("select %s::int", [number]).fetchone()[0]

    with conn.lock:
        attempts = [Attempt(waiter, number) for number in range(4)]
        gevent.sleep(0)
        attempts[0].throw(gevent.GreenletExit())
        # Leaving hands the lock to the first in line, which hears of its end before of that.
    for attempt in attempts:
        attempt.join()
    assert isinstance(attempts[0].error, gevent.GreenletExit)
    assert [attempt.result for attempt in attempts[1:]] == [1, 2, 3]
    assert waiter(7) == 7
