"""C code holds the whole hub for seconds: what its time-outs do afterwards.

What is promised: a connection that was there, or was handed over, before the hub stood still goes
to whoever it was for, however late; and what the server answered meanwhile counts, so no good
connection is thrown away. A deadline that passed meanwhile has passed: an acquire that nobody
could serve before ends with `PoolTimeout` as soon as the hub runs.
"""

from __future__ import annotations

import time

import gevent
import gevent.monkey
import pytest

from geventpg import PoolTimeout
from tests.chaos.form import pick
from tests.connection.helpers import Attempt
from tests.statements.helpers import sleeping
from tests.support import wait_until
from tests.support.pools import backend_pid, counts, give_back, hold_all, settled

BLOCKED = pick(short=0.4, long=4.0)
block = gevent.monkey.get_original("time", "sleep")  # in C, with the whole hub


def pids(pool):
    conns = hold_all(pool, pool.max_size)
    try:
        return {backend_pid(conn) for conn in conns}
    finally:
        give_back(pool, conns)


def end_with_the_hub_held(admin, *sessions):
    """Terminate *sessions* and return when they are over; no other greenlet runs meanwhile."""
    for pid in sessions:
        ended = admin.pgconn.exec_(f"SELECT pg_terminate_backend({pid}, 5000)".encode())
        assert ended.get_value(0, 0) == b"t"


def test_who_was_handed_a_connection_gets_it_though_the_deadline_passed(make_pool, figures):
    pool = make_pool(min_size=2, max_size=2)
    conns = hold_all(pool, 2)
    attempts = [Attempt(pool.getconn, BLOCKED / 2) for _ in range(2)]
    wait_until(lambda: counts(pool).waiting == 2)
    give_back(pool, conns)  # handed over now; the waiters have not run yet
    block(BLOCKED)
    served = [attempt.join().result for attempt in attempts]
    figures.at_most("spurious PoolTimeout", len([a for a in attempts if a.error]), 0)
    give_back(pool, served)


def test_who_comes_after_a_blockade_is_served_at_once(make_pool, figures):
    pool = make_pool(min_size=2, max_size=2, keepalive_interval=BLOCKED / 3)
    wait_until(lambda: settled(pool, 2))
    before = pids(pool)
    for _ in range(pick(short=2, long=5)):
        block(BLOCKED)
        since = time.monotonic()
        pool.putconn(pool.getconn(timeout=0.2))
        figures.at_most("acquire after it", (time.monotonic() - since) * 1000, 100, "ms")
        gevent.sleep(0.05)
    wait_until(lambda: settled(pool, 2))
    figures.at_most("connections lost", len(before - pids(pool)), 0)


def test_probes_answered_during_a_blockade_count(make_pool, figures):
    # They are overdue when the hub runs again; the answers are there.
    pool = make_pool(min_size=4, max_size=4, probe_timeout=BLOCKED / 4)
    pool.wait()
    before = pids(pool)
    check = gevent.spawn(pool.check)
    wait_until(lambda: counts(pool).idle < 4, interval=0)
    gevent.sleep(0)  # the probes are sent
    block(BLOCKED)
    check.get(timeout=5)
    wait_until(lambda: settled(pool, 4))
    figures.at_most("connections lost", len(before - pids(pool)), 0)


def test_a_result_that_came_during_a_blockade_beats_a_timeout_of_the_pool(make_pool, figures):
    # psycopg's own wait time-out and the pool's validation: both look before they give up.
    def check(conn):
        conn.execute("SELECT pg_sleep(0.01)")
        conn.rollback()

    pool = make_pool(min_size=1, max_size=1, check=check)
    pool.wait()
    before = pids(pool)
    attempt = Attempt(pool.getconn, BLOCKED / 2)
    gevent.sleep(0.002)
    block(BLOCKED)
    attempt.join()
    # It was validated too late: the deadline is kept, and so is the connection.
    assert attempt.error is None or isinstance(attempt.error, PoolTimeout)
    if attempt.error is None:
        pool.putconn(attempt.result)
    figures.at_most("connections lost", len(before - pids(pool)), 0)


def test_a_deadline_that_passed_while_the_hub_stood_still_is_told_as_soon_as_it_runs(
    make_pool, figures
):
    pool = make_pool(min_size=2, max_size=2)
    conns = hold_all(pool, 2)
    attempts = [Attempt(pool.getconn, BLOCKED / 2) for _ in range(20)]
    wait_until(lambda: counts(pool).waiting == 20)
    block(BLOCKED)
    runs_again = time.monotonic()
    for attempt in attempts:
        assert isinstance(attempt.join().error, PoolTimeout)
    late = time.monotonic() - runs_again
    figures.at_most("until they were told", late * 1000, 50, "ms")
    give_back(pool, conns)


@pytest.mark.parametrize("min_size", [0, 2])
def test_connecting_through_a_blockade(make_pool, proxy, dsn, figures, min_size):
    proxy.delay(0.02)
    pool = make_pool(proxy.dsn(dsn), min_size=min_size, max_size=2)
    attempt = Attempt(pool.getconn, 10.0)
    wait_until(lambda: counts(pool).connecting)
    block(BLOCKED)
    attempt.join()
    assert attempt.error is None
    pool.putconn(attempt.result)
    figures.at_most("attempts that failed", pool.get_stats()["connections_errors"], 0)
    proxy.delay(0)


@pytest.mark.parametrize("use_lifo", [True, False], ids=["lifo", "fifo"])
@pytest.mark.parametrize("way", ["a checkout", "a single statement"])
def test_the_pool_gives_out_no_session_that_ended_while_the_hub_was_blocked(
    make_pool, admin, way, use_lifo
):
    pool = make_pool(min_size=4, max_size=4, use_lifo=use_lifo)
    conns = hold_all(pool, 4)
    for conn in conns:
        conn.execute("SELECT 1", prepare=True)  # and it is known that there is no pooler
        conn.rollback()
    sessions = {backend_pid(conn) for conn in conns}
    give_back(pool, conns)
    assert settled(pool, 4)
    busy = []

    def go_on():
        with pool.connection() as conn:
            busy.append(backend_pid(conn))
            conn.execute("SELECT pg_sleep(0.5)")
            if way == "a single statement":
                return pool.fetch_val("SELECT pg_backend_pid()")
            with pool.connection() as other:
                return other.execute("SELECT pg_backend_pid()").fetchone()[0]

    attempt = Attempt(go_on)
    wait_until(lambda: sleeping(admin))
    gevent.sleep(0.05)  # the answer to BEGIN was read
    idle = list(sessions - set(busy))
    # The hub will see at once three sessions' ends and, last, the answer.
    end_with_the_hub_held(admin, *idle)
    block(0.5)
    assert attempt.join().error is None
    assert attempt.result not in idle
    assert pool.get_stats()["connections_lost"] == 3
    wait_until(lambda: settled(pool, 4))


def test_the_pool_gives_out_no_session_that_ended_right_after_its_probe(make_pool, admin):
    pool = make_pool(min_size=1, max_size=1)
    pool.wait()
    with pool.connection() as conn:
        ended = backend_pid(conn)

    def take():
        with pool.connection() as conn:
            return conn.execute("SELECT pg_backend_pid()").fetchone()[0]

    checking = Attempt(pool.check)
    gevent.sleep(0)
    taking = Attempt(take)
    gevent.sleep(0)
    assert counts(pool).waiting == 1  # for the one that is probed
    block(0.05)  # the answer to the probe is here, and the session's end comes behind it
    end_with_the_hub_held(admin, ended)
    assert taking.join().error is None
    assert taking.result != ended
    assert checking.join().error is None
    assert pool.get_stats()["connections_lost"] == 1
