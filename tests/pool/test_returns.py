"""What becomes of a connection that comes back, clean or not."""

from __future__ import annotations

import gevent
import psycopg
import pytest
from psycopg import pq

from tests.support import wait_until
from tests.support.pools import (
    backend_pid,
    counts,
    engine_greenlets,
    give_back,
    hold_all,
    no_switch,
    settled,
    terminate,
)

IDLE = pq.TransactionStatus.IDLE


@pytest.fixture
def pool(make_pool):
    """Return a pool of exactly one connection."""
    pool = make_pool(min_size=1, max_size=1, cancel_timeout=2.0)
    pool.wait()
    return pool


@pytest.fixture
def table(admin):
    """Return the name of a table with one integer column."""
    admin.execute("DROP TABLE IF EXISTS pool_returns")
    admin.execute("CREATE TABLE pool_returns (n int)")
    yield "pool_returns"
    admin.execute("DROP TABLE pool_returns")


def next_pid(pool):
    """Check out, use and return the next connection; tell its backend."""
    with pool.connection(timeout=5) as conn:
        assert conn.info.transaction_status == IDLE
        assert conn.pgconn.pipeline_status == pq.PipelineStatus.OFF
        assert conn.execute("SELECT 1").fetchone() == (1,)
        return backend_pid(conn)


# -- transactions left open ----------------------------------------------------------------------


def test_an_open_transaction_is_rolled_back_and_logged(pool, admin, table, caplog):
    conn = pool.getconn()
    pid = backend_pid(conn)
    conn.execute("INSERT INTO pool_returns VALUES (1)")
    pool.putconn(conn)
    assert next_pid(pool) == pid
    assert "rolling back returned connection" in caplog.text
    assert admin.execute("SELECT count(*) FROM pool_returns").fetchone() == (0,)


def test_a_failed_transaction_is_rolled_back_and_logged(pool, caplog):
    conn = pool.getconn()
    pid = backend_pid(conn)
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("SELECT 1/0")
    pool.putconn(conn)
    assert next_pid(pool) == pid
    assert "rolling back returned connection" in caplog.text


def test_a_waiter_gets_the_connection_after_the_rollback(pool):
    conn = pool.getconn()
    conn.execute("SELECT 1")
    waiter = gevent.spawn(next_pid, pool)
    wait_until(lambda: counts(pool).waiting == 1)
    pool.putconn(conn)
    assert waiter.get(timeout=5) == backend_pid(conn)


def test_a_rollback_that_the_server_does_not_answer_costs_the_connection(
    make_pool, proxy, dsn, caplog
):
    pool = make_pool(proxy.dsn(dsn), min_size=1, max_size=1, cancel_timeout=0.3)
    conn = pool.getconn()
    conn.execute("SELECT 1")
    proxy.stall()
    pool.putconn(conn)
    wait_until(lambda: conn.closed, timeout=3)
    proxy.drop_connections()
    proxy.resume()
    assert next_pid(pool)


def test_a_rollback_killed_on_the_way_loses_no_slot(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=2, max_size=2, cancel_timeout=0.3)
    conns = hold_all(pool, 2)
    for conn in conns:
        conn.execute("SELECT 1")
    proxy.delay(0.1)
    give_back(pool, conns)
    gevent.sleep(0.02)
    gevent.killall(engine_greenlets(), block=False)
    proxy.delay(0)
    wait_until(lambda: settled(pool, 2))


# -- work left undone ----------------------------------------------------------------------------


def start_statement(conn):
    conn.pgconn.send_query(b"SELECT pg_sleep(30)")


def open_copy_in(conn):
    conn.pgconn.exec_(b"COPY pool_returns FROM STDIN")


def open_copy_out(conn):
    conn.pgconn.exec_(b"COPY (SELECT generate_series(1, 100000)) TO STDOUT")


def open_pipeline(conn):
    conn.pgconn.enter_pipeline_mode()
    conn.pgconn.send_query_params(b"SELECT pg_sleep(30)", None)
    conn.pgconn.pipeline_sync()


@pytest.mark.parametrize("leave", [start_statement, open_copy_in, open_copy_out, open_pipeline])
def test_a_connection_with_work_undone_is_replaced_and_nothing_runs_on(
    pool, backends, leave, table, caplog
):
    conn = pool.getconn()
    conn.autocommit = True
    pid = backend_pid(conn)
    leave(conn)
    pool.putconn(conn)
    assert next_pid(pool) != pid
    wait_until(lambda: pid not in {b.pid for b in backends()})
    assert [b for b in backends() if b.state == "active"] == []
    assert "closing returned connection" in caplog.text


def test_a_connection_returned_inside_its_own_pipeline_block_is_not_handed_on_in_it(pool):
    conn = pool.getconn()
    pipeline = conn.pipeline()
    pipeline.__enter__()
    pool.putconn(conn)
    next_pid(pool)


def test_a_connection_returned_with_an_open_server_side_cursor_works_for_the_next(pool):
    conn = pool.getconn()
    conn.execute("DECLARE left_open CURSOR FOR SELECT generate_series(1, 1000)")
    conn.execute("FETCH left_open")
    pool.putconn(conn)
    for _ in range(2):
        next_pid(pool)


def test_a_prepared_transaction_left_begun_is_ended(pool):
    conn = pool.getconn()
    conn.tpc_begin("left behind")
    conn.execute("SELECT 1")
    pool.putconn(conn)
    next_pid(pool)
    with pool.connection() as conn, conn.transaction():
        conn.execute("SELECT 1")


def test_a_transaction_block_left_open_does_not_haunt_the_next_user(pool, admin, table):
    conn = pool.getconn()
    block = conn.transaction()
    block.__enter__()
    conn.execute("INSERT INTO pool_returns VALUES (1)")
    pool.putconn(conn)
    with pool.connection(timeout=5) as conn:
        conn.execute("INSERT INTO pool_returns VALUES (2)")
    with pool.connection(timeout=5) as conn, conn.transaction():
        conn.execute("INSERT INTO pool_returns VALUES (3)")
    assert admin.execute("SELECT n FROM pool_returns ORDER BY n").fetchall() == [(2,), (3,)]


def test_an_interrupted_statement_is_not_running_when_the_connection_is_back(pool, backends):
    for _ in range(3):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05), pool.connection() as conn:
            conn.execute("SELECT pg_sleep(30)")
        assert [b for b in backends() if b.state == "active"] == []
        assert counts(pool).in_use == 0
        next_pid(pool)


# -- connections that are gone -------------------------------------------------------------------


def test_a_closed_connection_is_replaced(pool, caplog):
    conn = pool.getconn()
    pid = backend_pid(conn)
    conn.close()
    pool.putconn(conn)
    assert next_pid(pool) != pid
    assert pool.get_stats()["returns_bad"] == 1
    assert "discarding closed connection" in caplog.text


def test_a_connection_that_the_server_ended_while_it_was_held_is_not_handed_on(pool, admin):
    conn = pool.getconn()
    pid = backend_pid(conn)
    terminate(admin, pid)
    gevent.sleep(0.02)  # the goodbye arrives and is not read
    pool.putconn(conn)
    assert next_pid(pool) != pid


def test_a_connection_that_the_server_ended_in_a_transaction_is_not_handed_on(pool, admin):
    conn = pool.getconn()
    conn.execute("SELECT 1")
    pid = backend_pid(conn)
    terminate(admin, pid)
    pool.putconn(conn)
    assert next_pid(pool) != pid


# -- returning does not wait ---------------------------------------------------------------------


@pytest.mark.parametrize("state", ["clean", "in transaction", "failed", "active", "closed"])
@pytest.mark.parametrize("with_reset", [False, True])
def test_returning_never_switches(make_pool, state, with_reset):
    pool = make_pool(max_size=1, reset=(lambda conn: conn.rollback()) if with_reset else None)
    conn = pool.getconn()
    if state == "in transaction":
        conn.execute("SELECT 1")
    elif state == "failed":
        with pytest.raises(psycopg.Error):
            conn.execute("SELECT 1/0")
    elif state == "active":
        start_statement(conn)
    elif state == "closed":
        conn.close()
    with no_switch():
        pool.putconn(conn)
    next_pid(pool)


def test_returning_to_a_waiter_does_not_switch(pool):
    conn = pool.getconn()
    waiter = gevent.spawn(next_pid, pool)
    wait_until(lambda: counts(pool).waiting == 1)
    with no_switch():
        pool.putconn(conn)
    waiter.get(timeout=5)


# -- killed at the end of the block --------------------------------------------------------------


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("exception", [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_a_kill_while_the_block_ends_loses_no_connection(
    make_pool, proxy, dsn, *, backends, ending, exception
):
    pool = make_pool(proxy.dsn(dsn), min_size=1, max_size=1, cancel_timeout=1.0)
    pool.wait()
    ended = []

    def work():
        try:
            with pool.connection() as conn:
                conn.execute("SELECT 1")
                proxy.delay(0.1)
                if ending == "rollback":
                    raise ZeroDivisionError
        except ZeroDivisionError:
            ended.append("exception")
        except BaseException as error:
            ended.append(type(error))

    worker = gevent.spawn(work)
    gevent.sleep(0.05)
    worker.kill(exception)
    proxy.delay(0)
    assert ended == [exception]
    wait_until(lambda: counts(pool).in_use == 0)
    next_pid(pool)
    wait_until(lambda: not [b for b in backends() if b.state != "idle"])


def test_two_kills_at_the_end_of_the_block_lose_no_connection(make_pool, proxy, dsn, backends):
    pool = make_pool(proxy.dsn(dsn), min_size=1, max_size=1, cancel_timeout=1.0)
    pool.wait()

    def work():
        with pool.connection() as conn:
            conn.execute("SELECT 1")
            proxy.delay(0.05)

    worker = gevent.spawn(work)
    gevent.sleep(0.03)
    worker.kill(block=False)
    gevent.sleep(0.02)
    worker.kill()
    proxy.delay(0)
    next_pid(pool)
    wait_until(lambda: not [b for b in backends() if b.state != "idle"])


# -- cleaned again and again ---------------------------------------------------------------------


@pytest.mark.parametrize("round_trip", [False, True])
def test_a_connection_that_is_reset_on_every_return_is_kept(make_pool, round_trip):
    def reset(conn):
        if round_trip:
            conn.execute("SELECT 1")
            conn.rollback()

    pool = make_pool(min_size=1, max_size=1, reset=reset)
    pool.wait()

    def work():
        for _ in range(20):
            pool.putconn(pool.getconn())

    gevent.joinall([gevent.spawn(work) for _ in range(10)], raise_error=True)
    wait_until(lambda: settled(pool, 1))
    stats = pool.get_stats()
    assert stats["connections_num"] == 1
    assert stats["returns_bad"] == stats["connections_lost"] == 0


# -- used after it came back ---------------------------------------------------------------------


@pytest.mark.parametrize("use_lifo", [True, False], ids=["lifo", "fifo"])
def test_the_pool_gives_out_no_connection_that_is_closed_after_its_return(make_pool, use_lifo):
    pool = make_pool(min_size=1, max_size=1, use_lifo=use_lifo)
    with pool.connection() as kept:
        first = backend_pid(kept)
    kept.close()
    with pool.connection() as conn:
        assert conn.execute("SELECT pg_backend_pid()").fetchone()[0] != first
    with pool.connection() as kept:
        first = backend_pid(kept)
    kept.close()
    assert pool.fetch_val("SELECT pg_backend_pid()") != first
    assert pool.stats().retired["closed_by_user"] == 2
    assert pool.get_stats()["connections_lost"] == 0
