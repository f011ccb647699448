"""Which greenlet may return a connection, and how often."""

from __future__ import annotations

import gevent
import psycopg
import pytest

from tests.support import wait_until
from tests.support.pools import counts, settled


@pytest.fixture
def pool(make_pool):
    """Return a pool of exactly one connection."""
    return make_pool(min_size=1, max_size=1)


def test_a_connection_cannot_be_returned_twice(make_pool):
    pool = make_pool(name="orders")
    conn = pool.getconn()
    pool.putconn(conn)
    with pytest.raises(ValueError, match="can't return connection to pool 'orders'"):
        pool.putconn(conn)
    assert counts(pool)[:3] == (1, 1, 0)


@pytest.mark.parametrize("way", ["putconn", "close"])
def test_a_connection_that_is_on_its_way_to_the_next_cannot_be_returned_again(make_pool, way):
    pool = make_pool(min_size=1, max_size=1, close_returns=True)
    conn = pool.getconn()
    waiter = gevent.spawn(pool.getconn, 5)
    wait_until(lambda: counts(pool).waiting == 1)
    pool.putconn(conn) if way == "putconn" else conn.close()
    assert counts(pool).in_use == 1  # the waiter's, which has not run yet
    with pytest.raises(ValueError, match=r"can't return connection to pool .* twice"):
        pool.putconn(conn)
    assert waiter.get() is conn
    assert counts(pool)[:3] == (1, 0, 1)
    pool.putconn(conn)


def test_a_connection_that_is_being_cleaned_cannot_be_returned_again(pool):
    conn = pool.getconn()
    conn.execute("SELECT 1")
    pool.putconn(conn)
    with pytest.raises(ValueError, match="can't return connection"):
        pool.putconn(conn)
    wait_until(lambda: settled(pool, 1))


def test_a_connection_of_another_pool_is_refused_and_named(make_pool):
    ours, theirs = make_pool(name="ours"), make_pool(name="theirs")
    conn = theirs.getconn()
    with pytest.raises(ValueError, match="to pool 'ours', it comes from pool 'theirs'"):
        ours.putconn(conn)
    theirs.putconn(conn)


def test_a_connection_of_no_pool_is_refused(pool, dsn):
    with (
        psycopg.connect(dsn) as conn,
        pytest.raises(ValueError, match="it doesn't come from any pool"),
    ):
        pool.putconn(conn)


def test_an_evicted_connection_cannot_be_returned_again(pool):
    conn = pool.getconn()
    conn.close()
    pool.putconn(conn)
    with pytest.raises(ValueError, match="can't return connection"):
        pool.putconn(conn)


def test_another_greenlet_may_return_a_connection(pool):
    conn = gevent.spawn(pool.getconn).get()
    conn.execute("SELECT 1")
    gevent.spawn(pool.putconn, conn).get()
    wait_until(lambda: settled(pool, 1))


def test_the_hub_itself_may_return_a_connection(pool):
    conn = pool.getconn()
    conn.execute("SELECT 1")
    gevent.get_hub().loop.run_callback(pool.putconn, conn)
    wait_until(lambda: settled(pool, 1))
