"""A server that goes read-only under a pool, or was the wrong one from the start."""

from __future__ import annotations

from collections import Counter

import gevent
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from geventpg import PoolTimeout
from tests.support import wait_until
from tests.support.pools import backend_pid, counts, give_back, hold_all, settled

WRITE = "CREATE TEMPORARY TABLE written (id int)"


@pytest.fixture
def fence(embedded_pg):
    """Return a function that makes the server refuse writes of new transactions, or take them."""

    def set_read_only(value):
        with embedded_pg.connect(options="-c default_transaction_read_only=off") as admin:
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
            admin.execute("SELECT pg_reload_conf()")
        wait_until(lambda: is_read_only(embedded_pg) is (value == "on"))

    yield set_read_only
    set_read_only("off")


def is_read_only(server):
    with server.connect() as conn:
        return conn.execute("SHOW default_transaction_read_only").fetchone() == ("on",)


def pids(pool, number):
    taken = hold_all(pool, number)
    found = {backend_pid(conn) for conn in taken}
    give_back(pool, taken)
    return found


def refused_write(pool):
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pool.connection() as conn:
        conn.execute(WRITE)


def test_a_refused_write_retires_all_connections_to_the_server(make_pool, embedded_dsn, fence):
    pool = make_pool(embedded_dsn, min_size=4, max_size=4)
    pool.wait()
    old = pids(pool, 4)
    fence("on")
    refused_write(pool)
    wait_until(lambda: settled(pool, 4))
    wait_until(lambda: not (pids(pool, 4) & old))


def test_a_refused_write_retires_connections_in_use_when_they_are_returned(
    make_pool, embedded_dsn, fence
):
    pool = make_pool(embedded_dsn, min_size=2, max_size=2)
    pool.wait()
    with pool.connection() as busy:
        fence("on")
        refused_write(pool)
        assert busy.execute("SELECT 1").fetchone() == (1,)  # it is not taken away
        held = backend_pid(busy)
    wait_until(lambda: settled(pool, 2))
    assert held not in pids(pool, 2)


def test_one_in_use_is_retired_also_while_no_better_server_is_found(make_pool, embedded_dsn, fence):
    conninfo = make_conninfo(embedded_dsn, target_session_attrs="read-write")
    pool = make_pool(conninfo, min_size=2, max_size=2)
    pool.wait()
    with pool.connection() as busy:
        busy.execute("SELECT 1")
        fence("on")
        refused_write(pool)
        wait_until(lambda: pool.get_stats()["connections_errors"], message="none can be opened")
    wait_until(lambda: not counts(pool).idle)
    with pytest.raises(PoolTimeout, match="read-only"):
        pool.getconn(timeout=0.1)


def test_a_connection_that_could_not_be_asked_is_refused_one_write_too(
    make_pool, embedded_dsn, fence
):
    pool = make_pool(embedded_dsn, min_size=2, max_size=2, use_lifo=False)
    pool.wait()
    fence("on")
    refused = Counter()

    def write(conn):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute(WRITE)
        refused[conn.info.backend_pid] += 1
        conn.rollback()
        pool.putconn(conn)

    one = pool.getconn()
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        one.execute(WRITE)
    other = pool.getconn()  # before the watchdog gets at it; handed on, it is never idle
    waiters = [gevent.spawn(lambda: write(pool.getconn())) for _ in range(20)]
    wait_until(lambda: counts(pool).waiting == 20)
    old = other.info.backend_pid
    write(other)
    gevent.joinall(waiters, raise_error=True)
    assert refused[old] == 1
    pool.putconn(one)


def test_writes_work_at_once_when_the_server_takes_them_again(make_pool, embedded_dsn, fence):
    pool = make_pool(embedded_dsn, min_size=2, max_size=2)
    pool.wait()
    fence("on")
    refused_write(pool)
    fence("off")
    with pool.connection() as conn:
        conn.execute(WRITE)


def test_a_pool_that_asks_for_a_writable_server_gives_out_no_other(
    make_pool, embedded_dsn, fence, caplog
):
    dsn = make_conninfo(embedded_dsn, target_session_attrs="read-write")
    pool = make_pool(dsn, min_size=2, max_size=2, keepalive_interval=0.1)
    pool.wait()
    fence("on")
    # It is idle: the probes find out, and no connection is better than a wrong one.
    wait_until(lambda: "takes no more writes" in caplog.text)
    wait_until(lambda: counts(pool).size == counts(pool).connecting)
    writer = gevent.spawn(pool.getconn)
    with pytest.raises(gevent.Timeout):
        writer.get(timeout=0.2)
    fence("off")
    conn = writer.get(timeout=10)
    conn.execute(WRITE)
    pool.putconn(conn)


def test_refused_writes_do_not_renew_a_read_only_pool_again_and_again(
    make_pool, embedded_dsn, fence, caplog
):
    fence("on")
    pool = make_pool(embedded_dsn, min_size=2, max_size=2)
    pool.wait()
    for _ in range(20):
        refused_write(pool)
    wait_until(lambda: settled(pool, 2))
    assert pool.get_stats()["connections_num"] <= 4
    assert caplog.text.count("takes no more writes") == 1


def test_a_pool_for_reading_keeps_its_connections_after_a_refused_write(
    make_pool, embedded_dsn, fence
):
    fence("on")
    dsn = make_conninfo(embedded_dsn, target_session_attrs="read-only")
    pool = make_pool(dsn, min_size=2, max_size=2)
    pool.wait()
    before = pids(pool, 2)
    refused_write(pool)
    assert pids(pool, 2) == before


@pytest.mark.parametrize("how", ["attribute", "statement"])
def test_a_write_in_the_users_own_read_only_transaction_retires_nothing(make_pool, how):
    pool = make_pool(min_size=2, max_size=2)
    pool.wait()
    before = pids(pool, 2)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), pool.connection() as conn:
        if how == "attribute":
            conn.read_only = True
        else:
            conn.execute("SET TRANSACTION READ ONLY")
        conn.execute(WRITE)
    wait_until(lambda: settled(pool, 2))
    assert pids(pool, 2) == before
