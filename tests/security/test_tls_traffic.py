"""Everything that a connection does works over TLS too, where a socket tells less than half."""

from __future__ import annotations

import os
import time

import gevent
import psycopg
import pytest

import geventpg
from tests.support import wait_until
from tests.support.pools import settled, terminate

RECORDS = [16_384, 9_000, 1_000]


@pytest.fixture(params=["server", *RECORDS])
def conn(request, terminator, tls):
    """Return an autocommit connection: to the server, and through proxies with such records."""
    if request.param == "server":
        with geventpg.Connection.connect(tls.conninfo(), autocommit=True) as direct:
            yield direct
        return
    with (
        terminator(record=request.param) as conninfo,
        geventpg.Connection.connect(conninfo, autocommit=True) as proxied,
    ):
        yield proxied


def some_sizes(rng):
    """Yield (bytes a row, rows): small, and around the limits of records and buffers."""
    for limit in (8_192, 16_384, 32_768, 65_536):
        yield limit + rng.randrange(-30, 30), 3
    for _ in range(20):
        yield rng.randrange(1, 200), rng.randrange(1, 3_000)
        yield rng.randrange(200, 90_000), rng.randrange(1, 10)


ROWS = "select repeat('x', %s) from generate_series(1, %s)"


def test_results_of_all_sizes_arrive_and_no_greenlet_waits_for_what_openssl_has(conn, rng):
    assert conn.pgconn.ssl_in_use
    for size, count in some_sizes(rng):
        with gevent.Timeout(10, AssertionError(f"{count} rows of {size} bytes did not arrive")):
            rows = conn.execute(ROWS, [size, count]).fetchall()
        assert [len(text) for (text,) in rows] == [size] * count


def test_rows_that_are_streamed_arrive(conn, rng):
    for size, count in some_sizes(rng):
        with gevent.Timeout(10, AssertionError(f"{count} rows of {size} bytes did not arrive")):
            assert sum(len(row[0]) for row in conn.cursor().stream(ROWS, [size, count])) == (
                size * count
            )


def test_a_pipeline_gets_all_results(conn, rng):
    for size, _ in some_sizes(rng):
        late = AssertionError(f"results of {size} bytes did not arrive")
        with gevent.Timeout(10, late), conn.pipeline():
            cursors = [conn.execute("select repeat('x', %s)", [size]) for _ in range(10)]
            assert [len(cursor.fetchone()[0]) for cursor in cursors] == [size] * 10


def test_copy_carries_data_both_ways(conn, rng):
    conn.execute("create temporary table carried (text text)")
    for size, count in some_sizes(rng):
        text = os.urandom(size // 2 + 1).hex()
        with gevent.Timeout(10, AssertionError(f"{count} rows of {len(text)} bytes got stuck")):
            with conn.cursor().copy("copy carried from stdin") as copy:
                for _ in range(count):
                    copy.write_row([text])
            with conn.cursor().copy("copy carried to stdout") as copy:
                assert [row for (row,) in copy.rows()] == [text] * count
        conn.execute("truncate carried")


def test_large_parameters_go_out_while_large_results_come_in(conn):
    size = 20_000_000  # more than the buffers of both sides
    # The server sends the first result and reads nothing until that is gone.
    with gevent.Timeout(30, AssertionError("got stuck")), conn.pipeline():
        first = conn.execute("select repeat('x', %s)", [size])
        second = conn.execute("select length(%s::text)", ["x" * size])
        assert len(first.fetchone()[0]) == size
        assert second.fetchone() == (size,)


def test_several_greenlets_work_while_one_reads_a_large_result(tls, open_pool):
    pool = open_pool(tls.conninfo(), max_size=3, min_size=3)
    pool.wait(10)
    done = []

    def small():
        for _ in range(20):
            with pool.connection() as conn:
                conn.execute("select 1")
        done.append("small")

    def large():
        with pool.connection() as conn:
            for _ in conn.cursor().stream(ROWS, [10_000, 2_000]):
                pass
        done.append("large")

    gevent.joinall([gevent.spawn(large), gevent.spawn(small)], raise_error=True)
    assert sorted(done) == ["large", "small"]


def test_an_interrupted_statement_is_cancelled_and_the_request_for_it_is_encrypted(
    terminator, backends
):
    # This proxy drops whatever does not begin with a request for TLS.
    with (
        terminator() as conninfo,
        geventpg.Connection.connect(conninfo, autocommit=True) as conn,
    ):
        pid = conn.execute("select pg_backend_pid()").fetchone()[0]
        started = time.monotonic()
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.2):
            conn.execute("select pg_sleep(60)")
        assert time.monotonic() - started < conn.cancel_timeout
        assert not conn.closed
        assert conn.execute("select pg_backend_pid()").fetchone()[0] == pid
        assert [backend.pid for backend in backends()] == [pid]


def test_a_killed_greenlets_statement_is_cancelled_on_the_server(tls_dsn, open_pool, tls_backends):
    pool = open_pool(tls_dsn, min_size=1, max_size=1)

    def sleep():
        with pool.connection() as conn:
            conn.execute("select pg_sleep(60)")

    sleeper = gevent.spawn(sleep)
    wait_until(lambda: any("pg_sleep" in b.query and b.state == "active" for b in tls_backends()))
    [before] = tls_backends()
    sleeper.kill()
    with pool.connection() as conn:
        assert conn.execute("select pg_backend_pid()").fetchone()[0] == before.pid


def test_a_notification_reaches_the_greenlet_that_waits_for_it(conn):
    conn.execute("listen news")

    def notify():
        for number in range(200):
            conn_2.execute("select pg_notify('news', %s)", [f"{number}" + "x" * 5_000])

    params = conn.info.get_parameters()
    password = {"password": conn.info.password}
    with geventpg.Connection.connect(**params, **password, autocommit=True) as conn_2:
        sender = gevent.spawn(notify)
        with gevent.Timeout(20, AssertionError("a notification got stuck")):
            received = [note.payload[:3] for note in conn.notifies(stop_after=200, timeout=15)]
        sender.get()
    assert len(received) == 200


def rounds_of_the_loop(seconds):
    """Return how often the event loop of an idle program turns in that time."""
    rounds = []
    watcher = gevent.get_hub().loop.prepare()
    watcher.start(rounds.append, None)
    try:
        gevent.sleep(seconds)
    finally:
        watcher.stop()
        watcher.close()
    return len(rounds)


def test_notifications_on_idle_connections_leave_them_in_the_pool(tls, tls_dsn, open_pool):
    heard = []

    def listen(conn):
        conn.autocommit = True
        conn.add_notify_handler(lambda note: heard.append(note.payload))
        conn.execute("listen idle")

    pool = open_pool(tls_dsn, min_size=2, max_size=2, configure=listen)
    pool.wait(10)
    with tls.connect() as admin:
        for number in range(100):
            admin.execute("select pg_notify('idle', %s)", [f"{number} " + "x" * 2_000])
        admin.execute("alter system set work_mem = '5MB'")  # and a changed setting
        admin.execute("alter system reset work_mem")
    assert rounds_of_the_loop(0.3) < 300  # what was read must not wake it again
    assert settled(pool, 2)
    taken = [pool.getconn(), pool.getconn()]
    for conn in taken:
        assert conn.execute("select 1").fetchone() == (1,)
        pool.putconn(conn)
    assert len(heard) == 200
    assert pool.get_stats().get("connections_lost", 0) == 0


def test_the_watchdog_replaces_what_the_server_ended(tls_dsn, tls_admin, open_pool, tls_backends):
    pool = open_pool(tls_dsn, min_size=3, max_size=3)
    pool.wait(10)
    old = {backend.pid for backend in tls_backends()}
    terminate(tls_admin, *old)
    wait_until(lambda: settled(pool, 3) and len(tls_backends()) == 3)
    assert not old & {backend.pid for backend in tls_backends()}
    with pool.connection() as conn:
        assert conn.pgconn.ssl_in_use


def test_probes_keep_healthy_connections(tls_dsn, open_pool, tls_backends):
    pool = open_pool(tls_dsn, min_size=2, max_size=2, keepalive_interval=0.05)
    pool.wait(10)
    before = {backend.pid for backend in tls_backends()}

    def last_probes():
        starts = [backend.query_start for backend in tls_backends()]
        return starts if all(starts) else None

    first = wait_until(last_probes)
    wait_until(lambda: min(last_probes()) > max(first), message="both were probed again")
    assert {backend.pid for backend in tls_backends()} == before


def test_a_probe_over_tls_is_bounded_when_the_link_is_silent(tls, open_pool):
    from geventpg.testing import TcpProxy

    with TcpProxy(tls.host, tls.port) as proxy:
        conninfo = tls.conninfo(port=proxy.port)
        pool = open_pool(
            conninfo, min_size=1, max_size=1, keepalive_interval=0.1, probe_timeout=0.2
        )
        pool.wait(10)
        proxy.stall()
        wait_until(lambda: pool.get_stats()["connections_lost"] == 1, timeout=5)
        proxy.drop_connections(reset=True)
        proxy.resume()
        with pool.connection(timeout=10) as conn:
            assert conn.execute("select 1").fetchone() == (1,)


def test_a_tls_session_that_is_cut_in_a_statement_is_an_operational_error(tls):
    from geventpg.testing import TcpProxy

    with TcpProxy(tls.host, tls.port) as proxy:
        conn = geventpg.Connection.connect(tls.conninfo(port=proxy.port), autocommit=True)
        statement = gevent.spawn(conn.execute, "select pg_sleep(60)")
        gevent.sleep(0.05)
        proxy.drop_connections()
        with pytest.raises(psycopg.OperationalError):
            statement.get(timeout=5)
        assert conn.broken
        conn.close()
