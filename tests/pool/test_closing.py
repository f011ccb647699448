"""A pool that is closed, forgotten, or left open at the end of the program."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import textwrap
import time
import warnings
import weakref
from pathlib import Path

import gevent
import pytest

from geventpg import Pool, PoolClosed
from tests.support import wait_until
from tests.support.pools import counts, engine_greenlets, give_back, hold_all

ROOT = Path(__file__).parents[2]


# -- close() -------------------------------------------------------------------------------------


def test_closing_closes_idle_connections(make_pool, backends):
    pool = make_pool(min_size=3)
    pool.wait()
    pool.close()
    wait_until(lambda: not backends())
    assert counts(pool)[:2] == (0, 0)


def test_closing_is_idempotent(make_pool):
    pool = make_pool()
    pool.close()
    pool.close()
    with pytest.raises(PoolClosed):
        pool.getconn()


def test_closing_a_pool_that_was_never_opened_is_harmless(dsn):
    pool = Pool(dsn, open=False)
    pool.close()
    assert pool.closed


def test_waiters_get_pool_closed(make_pool):
    pool = make_pool(max_size=1, name="orders")
    conn = pool.getconn()
    waiters = [gevent.spawn(pool.getconn) for _ in range(5)]
    filling = gevent.spawn(pool.wait)
    wait_until(lambda: counts(pool).waiting == 5)
    pool.close()
    gevent.joinall([*waiters, filling], timeout=5)
    assert {type(g.exception) for g in [*waiters, filling]} == {PoolClosed}
    assert {str(w.exception) for w in waiters} == {"the pool 'orders' is closed"}
    pool.putconn(conn)


def test_connections_in_use_work_on_and_are_closed_when_they_are_returned(make_pool, backends):
    pool = make_pool(min_size=2, max_size=2)
    clean, dirty = hold_all(pool, 2)
    pool.close()
    assert clean.execute("SELECT 1").fetchone() == (1,)
    clean.rollback()
    dirty.execute("SELECT 1")
    pool.putconn(clean)
    pool.putconn(dirty)
    assert clean.closed
    assert dirty.closed
    wait_until(lambda: not backends())
    assert counts(pool).size == 0


def test_a_block_that_outlives_the_pool_commits(make_pool, admin, backends):
    admin.execute("CREATE TABLE pool_closing (n int)")
    try:
        pool = make_pool(min_size=1)
        with pool.connection() as conn:
            conn.execute("INSERT INTO pool_closing VALUES (1)")
            pool.close()
        assert admin.execute("SELECT n FROM pool_closing").fetchall() == [(1,)]
        wait_until(lambda: not backends())
    finally:
        admin.execute("DROP TABLE pool_closing")


def test_closing_waits_for_a_rollback_under_way(make_pool, backends):
    pool = make_pool(min_size=1, reset=lambda _conn: gevent.sleep(0.1))
    conn = pool.getconn()
    conn.execute("SELECT 1")
    pool.putconn(conn)
    pool.close()
    assert conn.closed
    wait_until(lambda: not backends())


@pytest.mark.parametrize("timeout", [0, 0.2])
def test_closing_is_bounded_whatever_hangs(make_pool, proxy, dsn, timeout):
    pool = make_pool(proxy.dsn(dsn), min_size=3, max_size=3, cancel_timeout=30)
    conns = hold_all(pool, 3)
    conns[0].execute("SELECT 1")
    conns[1].pgconn.send_query(b"SELECT pg_sleep(1)")
    proxy.stall()
    give_back(pool, conns)
    gevent.sleep(0.01)
    started = time.monotonic()
    pool.close(timeout=timeout)
    assert time.monotonic() - started < timeout + 0.25
    assert counts(pool).size == 0
    proxy.resume()


def test_closing_while_connecting_leaves_no_backend(make_pool, proxy, dsn, backends):
    proxy.delay(0.05)
    pool = make_pool(proxy.dsn(dsn), min_size=4, max_size=4)
    gevent.sleep(0.08)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 1
    proxy.delay(0)
    wait_until(lambda: not backends())
    assert counts(pool).size == 0


def test_closing_during_an_outage_is_quick_and_ends_the_attempts(make_pool, proxy, dsn):
    proxy.stop()
    pool = make_pool(proxy.dsn(dsn))
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: pool.get_stats()["connections_errors"] >= 1)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 0.5
    waiter.join(timeout=5)
    assert isinstance(waiter.exception, PoolClosed)
    attempts = pool.get_stats()["connections_num"]
    gevent.sleep(0.5)
    assert pool.get_stats()["connections_num"] == attempts


def test_a_pool_can_be_closed_from_its_own_callbacks(make_pool, backends):
    for callback in ("configure", "check", "reset", "reconnect_failed"):
        closed = []

        def close(_argument):
            pool.close(timeout=1)  # noqa: B023
            closed.append(True)  # noqa: B023

        options = {callback: close}
        if callback == "reconnect_failed":
            options.update(conninfo="host=127.0.0.1 port=1", reconnect_timeout=0.1)
        pool = make_pool(min_size=1, max_size=1, **options)
        user = gevent.spawn(lambda: pool.putconn(pool.getconn(timeout=5)))  # noqa: B023
        started = time.monotonic()
        user.join(timeout=5)
        wait_until(lambda: closed)  # noqa: B023
        assert time.monotonic() - started < 3
        assert pool.closed
        wait_until(lambda: not backends())
        wait_until(lambda: counts(pool).size == 0)  # noqa: B023


def test_a_pool_can_be_closed_by_a_holder_inside_its_block(make_pool, backends):
    pool = make_pool(min_size=2)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        pool.close()
    wait_until(lambda: not backends())


def test_an_interrupted_close_has_closed_the_pool(make_pool, backends):
    pool = make_pool(min_size=2, reset=lambda _conn: gevent.sleep(0.3))
    pool.putconn(pool.getconn())
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        pool.close()
    assert pool.closed
    wait_until(lambda: counts(pool).size == 0)
    wait_until(lambda: not backends())


def test_a_killed_close_has_closed_the_pool(make_pool, backends):
    pool = make_pool(min_size=2, reset=lambda _conn: gevent.sleep(0.3))
    pool.putconn(pool.getconn())
    closer = gevent.spawn(pool.close)
    gevent.sleep(0.05)
    closer.kill()
    assert pool.closed
    wait_until(lambda: not backends())


def test_two_greenlets_may_close_a_pool_at_the_same_time(make_pool, backends):
    pool = make_pool(min_size=2, reset=lambda _conn: gevent.sleep(0.05))
    pool.putconn(pool.getconn())
    gevent.joinall([gevent.spawn(pool.close) for _ in range(3)], raise_error=True)
    wait_until(lambda: not backends())


def test_a_closed_pool_leaves_no_greenlet_behind(make_pool):
    before = set(engine_greenlets())
    pool = make_pool(min_size=3, keepalive_interval=0.02)
    pool.wait()
    assert set(engine_greenlets()) - before
    pool.close()
    wait_until(lambda: not set(engine_greenlets()) - before)


def test_a_pool_closed_while_it_opens_in_a_with_block_ends_cleanly(dsn, backends):
    for _ in range(5):
        with Pool(dsn, min_size=3, max_size=3):
            pass
    wait_until(lambda: not backends())


# -- forgotten -----------------------------------------------------------------------------------


def test_a_pool_that_was_not_closed_can_be_collected(dsn, backends):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool = Pool(dsn, min_size=2, max_size=4, open=True)
        pool.wait()
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        del conn
        gevent.sleep(0.01)
        reference = weakref.ref(pool)
        del pool
        wait_until(lambda: gc.collect() is not None and reference() is None)
    wait_until(lambda: not backends())


def test_a_forgotten_pool_leaves_no_greenlet_behind(dsn):
    before = set(engine_greenlets())
    pool = Pool(dsn, min_size=2, max_size=4, open=True, keepalive_interval=0.05)
    pool.wait()
    del pool
    wait_until(lambda: gc.collect() is not None and not set(engine_greenlets()) - before)


def test_a_pool_forgotten_during_an_outage_can_be_collected(dsn, proxy, monkeypatch):
    # pytest keeps log records, they the error, its traceback the frames, and these the pool.
    monkeypatch.setattr(logging.getLogger("psycopg.pool"), "disabled", True)
    proxy.stop()
    reference = weakref.ref(Pool(proxy.dsn(dsn), min_size=1, open=True))
    # Alive while it connects, at most.
    wait_until(lambda: gc.collect() is not None and reference() is None)


def test_a_pool_that_was_never_opened_can_be_collected(dsn):
    pool = Pool(dsn, open=False)
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert reference() is None


def test_a_pool_forgotten_with_a_connection_in_use_lives_until_that_is_returned(dsn, backends):
    pool = Pool(dsn, min_size=1, max_size=1, open=True)
    conn = pool.getconn()
    reference = weakref.ref(pool)
    del pool
    gc.collect()
    assert conn.execute("SELECT 1").fetchone() == (1,)
    conn.rollback()
    reference().putconn(conn)
    del conn
    wait_until(lambda: gc.collect() is not None and reference() is None)
    wait_until(lambda: not backends())


# -- at the end of the program -------------------------------------------------------------------


def run_script(body, dsn, *arguments, timeout=20):
    script = "import sys, gevent\nfrom gevent import monkey\nmonkey.patch_all()\n"
    script += "import geventpg, time\nfrom geventpg import Pool\ndsn = sys.argv[1]\n"
    script += textwrap.dedent(body)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GEVENTPG_")}
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", *arguments, "-c", script, dsn],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return result, time.monotonic() - started


@pytest.mark.parametrize(
    "state",
    [
        "pool.wait()",
        "conn = pool.getconn()",
        "conn = pool.getconn(); conn.execute('SELECT 1')",
        "conn = pool.getconn(); pool2 = Pool(dsn, open=True)",
        "c = [pool.getconn() for _ in 'ab']; gevent.spawn(pool.getconn); gevent.sleep(0.05)",
        "gevent.spawn(lambda: pool.getconn().execute('SELECT pg_sleep(60)')); gevent.sleep(0.1)",
        "pass",
    ],
)
def test_a_program_that_leaves_its_pool_open_ends_at_once_and_silently(dsn, backends, state):
    body = f"pool = Pool(dsn, min_size=1, max_size=2, open=True)\n{state}\nprint('end')\n"
    result, duration = run_script(body, dsn)
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
    assert duration < 5
    wait_until(lambda: not backends())


def test_an_idle_open_pool_does_not_hold_up_gevent_wait(dsn):
    body = """
        pool = Pool(dsn, min_size=2, max_size=4, open=True, keepalive_interval=0.1)
        pool.wait()
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        gevent.sleep(0.2)
        started = time.monotonic()
        gevent.wait(timeout=3)
        gevent.get_hub().join(timeout=3)
        print(time.monotonic() - started < 2)
    """
    result, _ = run_script(body, dsn)
    assert (result.stdout, result.stderr) == ("True\n", "")


def test_gevent_wait_waits_for_the_waiters_of_a_pool(dsn):
    body = """
        pool = Pool(dsn, min_size=1, max_size=1, open=True)
        conn = pool.getconn()
        def work():
            try:
                pool.getconn(timeout=0.3)
            except geventpg.PoolTimeout:
                print("timed out")
        gevent.spawn(work)
        gevent.wait()
        print("end")
    """
    result, _ = run_script(body, dsn)
    assert (result.stdout, result.stderr) == ("timed out\nend\n", "")


def test_a_connection_class_that_hangs_does_not_keep_the_program_from_ending(dsn):
    body = """
        class Hanging(geventpg.Connection):
            @classmethod
            def connect(cls, *args, **kwargs):
                gevent.sleep(60)
        pool = Pool(dsn, min_size=2, open=True, connection_class=Hanging)
        gevent.sleep(0.05)
        print("end")
    """
    result, duration = run_script(body, dsn)
    assert (result.returncode, result.stdout, result.stderr) == (0, "end\n", "")
    assert duration < 8
