"""`Pool.stats`: each counter moves for its own reason, and for nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial

import gevent
import psycopg
import psycopg_pool
import pytest

from geventpg import Pool, PoolClosed, PoolTimeout, TooManyRequests
from geventpg.pool.causes import EVICTIONS, RETIREMENTS, Cause
from geventpg.pool.counters import Recorder
from geventpg.pool.stats import BOUNDS, STATISTICS, Histogram
from tests.support.script import output_of
from tests.support.waiting import wait_until


def left(pool) -> dict[str, int]:
    """Return the causes for which connections have left *pool*, with their numbers."""
    stats = pool.stats()
    return {cause: n for cause, n in {**stats.evicted, **stats.retired}.items() if n}


def test_a_fresh_pool_shows_its_sizes_and_every_cause(make_pool):
    pool = make_pool(min_size=2, max_size=5)
    pool.wait()
    stats = pool.stats()
    assert (stats.name, stats.min_size, stats.max_size) == (pool.name, 2, 5)
    assert (stats.size, stats.idle, stats.in_use, stats.returning) == (2, 2, 0, 0)
    assert (stats.connecting, stats.waiting, stats.requests) == (0, 0, 0)
    assert list(stats.evicted) == [cause.value for cause in EVICTIONS]
    assert list(stats.retired) == [cause.value for cause in RETIREMENTS]
    assert {c.value for c in Cause} == {*stats.evicted, *stats.retired}
    assert stats.created == stats.connect.count == 2
    assert 0 < stats.connect.sum < 10
    assert stats.hold is stats.statement is None


def test_the_snapshot_cannot_be_changed(make_pool):
    stats = make_pool().stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.size = 7
    with pytest.raises(TypeError):
        stats.evicted["broken"] = 7


def test_the_snapshot_becomes_json(make_pool):
    pool = make_pool(timings=True)
    with pool.connection() as conn:
        conn.execute("select 1")
    shown = json.loads(json.dumps(pool.stats().as_dict()))
    assert shown["created"] == 1
    assert shown["evicted"]["broken"] == 0
    assert shown["hold"]["bounds"] == list(BOUNDS)
    assert sum(shown["statement"]["counts"]) == 1


def test_checkouts_that_need_not_wait_are_in_the_first_bucket_of_waiting(make_pool):
    pool = make_pool(max_size=1)
    pool.wait()
    for _ in range(3):
        with pool.connection():
            pass
    with pool.connection():
        waiter = gevent.spawn(pool.getconn, 10)
        wait_until(pool.waiters)
        gevent.sleep(0.02)
    pool.putconn(waiter.get())
    stats = pool.stats()
    assert (stats.requests, stats.queued) == (5, 1)
    assert stats.wait.count == 5
    assert stats.wait.counts[0] == 4
    assert 0.02 <= stats.wait.sum < 10


def test_failed_checkouts_are_counted_by_reason(make_pool):
    pool = make_pool(max_size=1, max_waiting=1)
    with pool.connection():
        for timeout in (0, 0.01):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout)
        killed = gevent.spawn(pool.getconn, 10)
        wait_until(pool.waiters)
        with pytest.raises(TooManyRequests):
            pool.getconn(10)
        killed.kill()
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            pool.getconn(10)
    stats = pool.stats()
    assert (stats.timed_out, stats.shed, stats.interrupted, stats.rejected) == (2, 1, 2, 0)
    # Neither the one with no time to wait nor the one that was shed has waited.
    assert stats.wait.count == stats.requests - 2 == 4


def test_refused_credentials_are_counted(make_pool, dsn):
    pool = make_pool(f"{dsn} dbname=nowhere_at_all", min_size=0)
    with pytest.raises(PoolTimeout):
        pool.getconn(10)
    assert pool.stats().rejected == 1
    assert pool.stats().timed_out == 0
    assert pool.stats().connect_errors >= 1
    pool.close()


def test_waiters_of_a_pool_that_is_closed_are_counted_once(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection():
        waiter = gevent.spawn(pool.getconn, 10)
        wait_until(pool.waiters)
        pool.close()
        with pytest.raises(PoolClosed):
            waiter.get()
    stats = pool.stats()
    assert (stats.timed_out, stats.shed, stats.interrupted, stats.rejected) == (0, 0, 0, 0)


# -- why connections leave -----------------------------------------------------------------------


def lose_it_in_use(pool, backends):
    with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
        conn.execute("select pg_terminate_backend(pg_backend_pid())")


def lose_it_idle(pool, backends):
    pool.wait()
    (backend,) = backends()
    with psycopg.connect(pool.conninfo, autocommit=True, application_name="") as admin:
        admin.execute("select pg_terminate_backend(%s)", [backend.pid])


def close_it(pool, backends):
    with pool.connection() as conn:
        conn.close()


def wait_and(action):
    def act(pool, backends):
        pool.wait()
        action(pool)

    return act


def use_it(pool):
    pool.putconn(pool.getconn())


def shrink_in_use(pool, backends):
    with pool.connection():
        wait_until(lambda: pool.stats().size == 1)
        other = gevent.spawn(pool.getconn, 10).get()
        pool.resize(1)
    pool.putconn(other)


def drain_in_use(pool, backends):
    with pool.connection():
        pool.drain()


cleaners = []


def clean_slowly(conn):
    cleaners.append(gevent.getcurrent())
    conn.execute("select pg_sleep(30)")


def interrupt_the_cleaning(pool, backends):
    pool.putconn(pool.getconn())
    wait_until(lambda: cleaners)
    cleaners.pop().kill()


def detach(pool, backends):
    conn = pool.getconn()
    pool.detach(conn)
    conn.close()


@pytest.mark.parametrize(
    ("cause", "options", "action"),
    [
        ("broken", {}, lose_it_in_use),
        ("closed_by_server", {}, lose_it_idle),
        ("closed_by_user", {}, close_it),
        ("drained", {}, wait_and(Pool.drain)),
        ("drained", {}, drain_in_use),
        ("shrunk", {"max_size": 2}, shrink_in_use),
        ("expired", {"max_lifetime": 0.05}, wait_and(id)),
        ("unused", {"min_size": 0, "max_idle": 0.05}, wait_and(use_it)),
        ("pool_closed", {}, wait_and(Pool.close)),
        ("detached", {}, detach),
        ("unclean", {"reset": clean_slowly}, interrupt_the_cleaning),
    ],
)
def test_a_connection_that_leaves_is_counted_by_its_cause(
    make_pool, backends, cause, options, action
):
    pool = make_pool(**options)
    action(pool, backends)
    wait_until(lambda: left(pool), timeout=10)
    counted = left(pool)
    pool.close()
    assert set(counted) == {cause}


def test_a_connection_that_fails_its_check_is_counted(make_pool):
    bad = []

    def check(conn):
        if not bad:
            bad.append(conn)
            conn.close()
            raise RuntimeError("bad")

    pool = make_pool(min_size=2, check=check)  # another is tried at once
    pool.wait()
    with pool.connection():
        pass
    assert left(pool) == {"check_failed": 1}
    assert pool.stats().validate.count == 2


def test_a_probe_without_an_answer_is_counted(make_pool, dsn, proxy):
    pool = make_pool(proxy.dsn(dsn), probe_timeout=0.1)
    pool.wait()
    proxy.stall()
    pool.check()
    assert left(pool)["probe_failed"] == 1
    assert pool.stats().validate.count == 1
    proxy.resume()


# -- statements ----------------------------------------------------------------------------------


def test_a_statement_that_was_interrupted_counts_as_cancelled(make_pool):
    pool = make_pool()
    with pool.connection() as conn:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            conn.execute("select pg_sleep(10)")
        assert pool.stats().cancelled == 1
        worker = gevent.spawn(conn.execute, "rollback; select pg_sleep(10)")
        wait_until(lambda: pool.holders()[0].transaction == "ACTIVE")
        assert pool.cancel_statements() == 1
        worker.join()
    assert pool.stats().cancelled == 2


def test_healed_statements_are_counted(make_pool):
    pool = make_pool(kwargs={"autocommit": True, "prepare_threshold": 0})
    with pool.connection() as conn:
        conn.execute("select 1")
        conn.execute("do $$ begin execute 'deallocate all'; end $$")
        conn.execute("select 1")
    assert (pool.stats().healed, pool.stats().lost) == (1, 0)


def test_a_leak_is_counted_once(make_pool):
    pool = make_pool(leak_threshold=0.05)
    with pool.connection():
        wait_until(lambda: pool.stats().leaked == 1)
        gevent.sleep(0.1)
    assert pool.stats().leaked == 1


# -- psycopg_pool's statistics -------------------------------------------------------------------


def test_pop_stats_sets_only_its_own_counters_back(make_pool):
    pool = make_pool()
    with pool.connection():
        pass
    popped = pool.pop_stats()
    assert popped["requests_num"] == 1
    assert pool.get_stats()["requests_num"] == pool.get_stats()["connections_num"] == 0
    assert pool.stats().requests == pool.stats().created == 1
    with pool.connection():
        pass
    assert pool.pop_stats()["requests_num"] == 1
    assert pool.stats().requests == 2


# -- timings -------------------------------------------------------------------------------------


def test_get_stats_has_the_keys_of_psycopg_pool_and_those_of_the_table(make_pool, dsn):
    with psycopg_pool.ConnectionPool(dsn, min_size=1) as stock:
        stock.wait()
        with stock.connection() as conn:
            conn.execute("select 1")
        theirs = set(stock.get_stats())
    ours = {one.key for one in STATISTICS if one.key is not None}
    shown = set(make_pool().get_stats())
    assert theirs | ours <= shown
    assert {key for key in shown - theirs if key.startswith("statements_")} <= ours


def test_no_two_statistics_have_one_name():
    for names in (
        [one.name for one in STATISTICS],
        [one.key for one in STATISTICS if one.key],
        [(one.metric, one.name if one.label else "") for one in STATISTICS if one.metric],
    ):
        assert len(names) == len(set(names))


def test_with_timings_holding_and_statements_are_measured(make_pool):
    pool = make_pool(timings=True)
    with pool.connection() as conn:
        conn.execute("select pg_sleep(0.02)")
        conn.cursor().executemany("select %s::int", [[1], [2]])
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1/0")
    conn = pool.getconn()
    pool.putconn(conn)
    stats = pool.stats()
    assert stats.hold.count == 2
    assert stats.statement.count == 3
    assert 0.02 <= stats.statement.sum <= stats.hold.sum < 10


def test_timings_can_be_turned_on_and_off_while_the_pool_runs(make_pool):
    pool = make_pool(max_size=1)

    def count():
        with pool.connection() as conn:
            conn.execute("select 1")
        stats = pool.stats()
        return stats.hold and stats.hold.count, stats.statement and stats.statement.count

    assert count() == (None, None)
    with pool.connection() as conn:
        pool.timings = True
        conn.execute("select 1")
    assert count() == (2, 2)
    pool.timings = False
    assert count() == (2, 2)
    pool.timings = True
    assert count() == (3, 3)


@pytest.mark.parametrize("autocommit", [True, False])
def test_statements_that_are_executed_often_are_measured_like_others(make_pool, autocommit):
    pool = make_pool(timings=True, kwargs={"autocommit": autocommit})
    told = []
    for number in range(1, 21):
        with pool.connection() as conn:
            conn.execute("select 1 from pg_sleep(%s)", (0.001,))
        assert pool.stats().statement.count == number
    assert pool.stats().statement.sum >= 0.02
    pool.add_listener(told.append, "statement")
    with pool.connection() as conn:
        conn.execute("select 1 from pg_sleep(%s)", (0.001,))
    assert len(told) == 1


@pytest.mark.parametrize(
    "make_cursor",
    [
        psycopg.Cursor,
        psycopg.ClientCursor,
        psycopg.RawCursor,
        partial(psycopg.ServerCursor, name="s"),
    ],
)
def test_statements_of_every_cursor_class_are_measured(make_pool, make_cursor):
    pool = make_pool(timings=True)
    with pool.connection() as conn, make_cursor(conn) as cursor:
        cursor.execute("select 1")
        assert cursor.fetchone() == (1,)
    assert pool.stats().statement.count == 1


def test_what_is_executed_in_a_pipeline_is_not_measured(make_pool):
    """Its answer comes later: sending it is not its time."""
    pool = make_pool(timings=True)
    with pool.connection() as conn, conn.pipeline():
        conn.execute("select 1")
        conn.cursor().executemany("select %s::int", [[1]])
    assert pool.stats().statement.count == 0


# -- histograms ----------------------------------------------------------------------------------


def test_a_histogram_puts_each_value_into_the_bucket_that_bounds_it():
    recorder = Recorder()
    for bound in BOUNDS:
        recorder.record(bound)
    recorder.record(math.nextafter(BOUNDS[-1], math.inf))
    assert recorder.snapshot().counts == (1,) * (len(BOUNDS) + 1)
    assert recorder.snapshot().count == len(BOUNDS) + 1


def test_quantiles_and_the_mean_of_a_histogram():
    recorder = Recorder()
    assert recorder.snapshot().mean is recorder.snapshot().quantile(0.5) is None
    for seconds in (0.002,) * 98 + (4.0, 100.0):
        recorder.record(seconds)
    histogram = recorder.snapshot()
    assert histogram.quantile(0) == histogram.quantile(0.5) == histogram.quantile(0.98) == 0.0025
    assert histogram.quantile(0.99) == 5.0
    assert histogram.quantile(1) == math.inf
    assert histogram.mean == pytest.approx(1.04196)
    assert (histogram + histogram).count == 200
    assert (histogram + Histogram()) == histogram


# -- forks ---------------------------------------------------------------------------------------


def test_a_forked_child_counts_from_zero(dsn):
    """Its parent goes on counting what the parent did: in a sum it would be there twice."""
    printed = output_of(
        """
        from gevent import monkey; monkey.patch_all()
        import os, sys, gevent, geventpg
        from tests.support.children import watch_children; watch_children()
        pool = geventpg.Pool(sys.argv[1], min_size=1, max_size=1, open=True, timings=True)
        with pool.connection() as conn:
            conn.execute("select 1")
        child = os.fork()
        if not child:
            stats = pool.stats()
            assert (stats.requests, stats.created, stats.connect.count) == (0, 0, 0), stats
            assert pool.get_stats()["requests_num"] == stats.hold.count == stats.wait.count == 0
            with pool.connection() as conn:
                conn.execute("select 1")
            stats = pool.stats()
            assert (stats.requests, stats.statement.count, stats.hold.count) == (1, 1, 1), stats
            pool.close()
            os._exit(0)
        print(os.waitpid(child, 0)[1], pool.stats().requests)
        pool.close()
        """,
        dsn,
    )
    assert printed == "0 1\n"
