"""Connections held past ``leak_threshold`` are reported once, and when they come back."""

from __future__ import annotations

import logging

import gevent
import pytest

from tests.support import wait_until
from tests.support.pools import give_back, hold_all


@pytest.fixture
def reports(caplog):
    """Return a function that gives the log lines about leaks."""
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if " held " in r.getMessage()]


def take_and_forget(pool):
    return pool.getconn()


def test_a_connection_held_too_long_is_reported_once_with_holder_age_and_stack(make_pool, reports):
    pool = make_pool(min_size=1, max_size=1, leak_threshold=0.2, name="leaky")
    pool.wait()
    gevent.sleep(0.05)  # the watchdog has gone to sleep

    def hold():
        conn = take_and_forget(pool)
        gevent.sleep(1)
        pool.putconn(conn)

    holder = gevent.spawn(hold)
    wait_until(reports, timeout=1)
    (report,) = reports()
    assert "'leaky'" in report
    assert repr(holder).split(":")[0].strip("<>") in report
    assert "0.2" in report
    assert "in take_and_forget" in report
    assert "test_leaks.py" in report
    gevent.sleep(0.3)
    assert len(reports()) == 1
    holder.join()
    wait_until(lambda: len(reports()) == 2)
    assert "returned after 1." in reports()[1]
    assert "'leaky'" in reports()[1]


def test_every_connection_held_too_long_is_reported(make_pool, reports):
    pool = make_pool(min_size=3, max_size=3, leak_threshold=0.15)
    conns = hold_all(pool, 3)
    wait_until(lambda: len(reports()) == 3, timeout=2)
    give_back(pool, conns)
    assert len(reports()) == 6


def test_the_same_connection_is_reported_again_when_it_leaks_again(make_pool, reports):
    pool = make_pool(min_size=1, max_size=1, leak_threshold=0.1)
    for expected in (2, 4):
        conn = pool.getconn()
        wait_until(lambda: len(reports()) == expected - 1, timeout=2)  # noqa: B023
        pool.putconn(conn)
        assert len(reports()) == expected


def test_short_use_is_not_reported_however_often(make_pool, reports):
    pool = make_pool(min_size=1, max_size=1, leak_threshold=0.3)
    for _ in range(50):
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(0.01)")
    assert reports() == []


def test_a_waiters_hold_counts_from_when_it_was_served(make_pool, reports):
    pool = make_pool(min_size=1, max_size=1, leak_threshold=0.4)

    def hold():
        with pool.connection():
            gevent.sleep(0.25)

    gevent.joinall([gevent.spawn(hold) for _ in range(3)], raise_error=True)
    assert reports() == []


def test_leaks_are_not_looked_for_by_default(make_pool, reports):
    pool = make_pool(min_size=1, max_size=1)
    with pool.connection():
        gevent.sleep(0.3)
    assert reports() == []
