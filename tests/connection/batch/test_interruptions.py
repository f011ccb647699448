"""A batch whose greenlet is killed or timed out, at every place where it can be."""

from __future__ import annotations

import itertools

import gevent
import pytest

from tests.chaos.switch_points import EXCEPTIONS, MOMENTS, ThrowAtSwitch
from tests.connection.batch.helpers import INSERT, batch_of, check_pool, rows
from tests.connection.helpers import Attempt, active
from tests.statements.helpers import sleeping
from tests.support import wait_until

LARGE = "x" * 300_000
SIZE = 6


@pytest.fixture
def pool(make_pool):
    """Return a pool of one connection: what is left on it hits the next."""
    return make_pool(max_size=1)


def mixed(tag):
    """Return a batch that has to wait to write as well as to read."""
    return batch_of(
        *[(INSERT, (number, tag)) for number in range(SIZE)],
        *[("select length(%s), repeat('y', 300000)", (LARGE,))] * 5,
        "select pg_sleep(0.001)",
    )


def all_or_nothing(pool, tag):
    pool.send_batch(mixed(tag))


def each_for_itself(pool, tag):
    pool.send_batch(mixed(tag), atomic=False)


def on_an_autocommit_connection(pool, tag):
    with pool.connection() as conn:
        conn.autocommit = True
        try:
            conn.send_batch(mixed(tag))
        finally:
            status = conn.info.transaction_status
            assert status.name in ("IDLE", "UNKNOWN"), status
            if not conn.closed:
                conn.autocommit = False


def executemany(pool, tag):
    with pool.connection() as conn:
        conn.cursor().executemany(INSERT, [(number, tag) for number in range(SIZE)])


@pytest.mark.parametrize(
    "work", [all_or_nothing, each_for_itself, on_an_autocommit_connection, executemany]
)
def test_an_exception_at_any_switch_point_leaves_nothing_half_done(pool, done, backends, work):
    interrupted = 0
    for make_error, moment in zip(EXCEPTIONS.values(), itertools.cycle(MOMENTS), strict=False):
        for point in itertools.count(1):
            tag = f"{make_error.__name__} {moment} {point}"
            attempt = Attempt(work, pool, tag)
            error = make_error()
            victim = attempt._greenlet
            with ThrowAtSwitch(lambda one: one is victim, {point: error}, moment) as thrower:  # noqa: B023
                attempt.join(10)
            assert attempt.error is (error if thrower.delivered else None)
            ids = done(tag)
            if work is each_for_itself:
                assert ids == list(range(len(ids)))
            else:
                assert ids in ([], list(range(SIZE)))
            assert not active(backends)
            check_pool(pool)
            if not thrower.delivered:
                break
            interrupted += 1
    assert interrupted > len(EXCEPTIONS)


def test_a_time_limit_ends_a_batch_on_the_server(pool, done, backends):
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        pool.send_batch(batch_of((INSERT, (1, "a")), *["select pg_sleep(30)"] * 3))
    assert not active(backends)
    assert done("a") == []
    check_pool(pool)


def test_a_batch_cancelled_from_outside_is_a_failed_statement(pool, done, admin):
    attempt = Attempt(pool.send_batch, batch_of((INSERT, (1, "a")), "select pg_sleep(30)"))
    wait_until(lambda: sleeping(admin), message="it sleeps")
    assert pool.cancel_statements() == 1
    attempt.join()
    assert type(attempt.error).__name__ == "QueryCanceled"
    assert attempt.error.index == 1
    assert done("a") == []
    check_pool(pool)


def test_a_connection_closed_under_a_batch_is_a_lost_one(pool, done, admin):
    attempt = Attempt(
        lambda: pool.send_batch(batch_of((INSERT, (1, "a")), "select pg_sleep(30)"), atomic=False)
    )
    wait_until(lambda: sleeping(admin), message="it sleeps")
    pool.abort(wake=True)
    attempt.join()
    errors = [result.error for result in attempt.result]
    assert errors[1].index == 1
    assert rows(attempt.result[:1]) == [[(1,)]] or errors[0].index == 0
