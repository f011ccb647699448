"""The checks that run after every test find what they are there for."""

from __future__ import annotations

import gevent
import pytest

from tests.support import wait_until
from tests.support.invariants import check_counts, check_every_slot, check_invariants
from tests.support.pools import counts, no_switch, sampling


def test_a_healthy_pool_has_no_problems(make_pool):
    pool = make_pool(min_size=1, max_size=3)
    assert check_invariants(pool) == []
    assert counts(pool)[:3] == (3, 3, 0)


def test_a_lost_connection_is_found(make_pool, monkeypatch):
    monkeypatch.setattr("tests.support.invariants._ACQUIRE_TIMEOUT", 0.1)
    pool = make_pool(max_size=2)
    lost = pool.getconn()
    (problem,) = check_invariants(pool)
    assert "1 of 2 slots are usable" in problem
    pool.putconn(lost)


def test_a_forgotten_waiter_is_found(make_pool, monkeypatch):
    monkeypatch.setattr("tests.support.invariants._SETTLING_TIME", 0.1)
    pool = make_pool(max_size=1)
    conn = pool.getconn()
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: counts(pool).waiting)
    (problem,) = check_invariants(pool)
    assert "a greenlet still waits" in problem
    pool.putconn(conn)
    pool.putconn(waiter.get())


def test_a_pool_that_is_closed_or_cannot_connect_is_not_asked_for_connections(
    make_pool, proxy, dsn
):
    closed = make_pool()
    closed.close()
    assert check_invariants(closed) == []
    proxy.stop()
    assert check_invariants(make_pool(proxy.dsn(dsn))) == []


def test_impossible_counts_are_found():
    class Impossible:
        closed = False

        def __repr__(self):
            return "<Pool size=5 idle=3 in_use=3 waiting=0 connecting=0 min_size=0 max_size=4>"

        def get_stats(self):
            return {"pool_size": 5, "pool_available": 2, "requests_waiting": 0}

    problems = " ".join(check_counts(Impossible()))
    assert "size 5 is over max_size 4" in problems
    assert "more than size" in problems
    assert "get_stats() has" in problems


def test_a_switch_is_found():
    with pytest.raises(AssertionError), no_switch():
        gevent.sleep(0)


def test_a_sampler_raises_what_it_found():
    def sample():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), sampling(sample):
        gevent.sleep(0.01)


def test_every_slot_is_given_back_by_the_check(make_pool):
    pool = make_pool(min_size=0, max_size=2)
    for _ in range(3):
        assert check_every_slot(pool) == []
    assert counts(pool).in_use == 0
