"""Sockets and their watchers: high numbers, re-used numbers, closing under a waiting greenlet."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import weakref

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.helpers import Attempt, active, open_descriptors, token
from tests.support import wait_until


@pytest.fixture
def many_descriptors():
    """Occupy all file descriptors up to 1100."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("may not open enough files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        descriptor = 0
        while descriptor < 1100:
            descriptor = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, descriptor)
        yield


def test_descriptors_above_1024_work(many_descriptors, connect, backends):
    conn = connect(autocommit=True)
    assert conn.fileno() > 1024
    assert conn.execute("select 1").fetchone() == (1,)
    data = b"d" * 20_000_000
    assert conn.execute("select length(%s::bytea)", [data]).fetchone() == (len(data),)
    with pytest.raises(ZeroDivisionError), gevent.Timeout(0.1, ZeroDivisionError()):
        conn.execute("select pg_sleep(30)")
    assert not active(backends)
    assert list(conn.notifies(timeout=0.01)) == []
    assert conn.execute("select 2").fetchone() == (2,)


def test_no_descriptor_left_at_all_is_an_error_and_not_a_hang(connect, dsn, backends):
    conn = connect(autocommit=True)
    sleeper = Attempt(conn.execute, "select pg_sleep(30)")
    wait_until(lambda: active(backends), message="the statement runs")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_descriptors() + 20, 64), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        failure = Attempt(geventpg.Connection.connect, dsn).join(5)
        # Its cancel cannot be sent either: the connection is closed.
        sleeper.throw(error := gevent.Timeout())
        sleeper.join(8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    assert isinstance(failure.error, psycopg.OperationalError)
    assert sleeper.error is error
    assert conn.closed
    with connect(autocommit=True) as other:
        for backend in active(backends):
            other.execute("select pg_terminate_backend(%s)", [backend.pid])


@pytest.mark.parametrize(
    "query", ["select pg_sleep(30)", "select pg_sleep(30), %s::text"], ids=["reading", "writing"]
)
def test_closing_under_a_waiting_greenlet_ends_its_wait(connect, proxy, dsn, query):
    conn = connect(proxy.dsn(dsn), autocommit=True)
    params = None
    if "%s" in query:
        proxy.stall()  # the peer does not read what it writes
        params = ["p" * 50_000_000]
    attempt = Attempt(conn.execute, query, params)
    gevent.sleep(0.2)
    conn.close()
    attempt.join(2)
    assert isinstance(attempt.error, psycopg.OperationalError)
    assert conn.closed
    proxy.drop_connections()
    proxy.resume()


@pytest.fixture(autouse=True)
def end_statements(request):
    """End the statements that a closed connection leaves running: the server does not notice."""
    yield
    if "dsn" in request.fixturenames:
        pg, name = (request.getfixturevalue(f) for f in ("pg", "application_name"))
        with pg.connect() as conn:
            conn.execute(
                "select pg_terminate_backend(pid, 2000) from pg_stat_activity"
                " where application_name = %s",
                [name],
            )


def test_closing_under_greenlets_that_wait_for_their_turn_ends_all_waits(conn):
    attempts = [Attempt(conn.execute, "select pg_sleep(30)") for _ in range(3)]
    gevent.sleep(0.1)
    conn.close()
    for attempt in attempts:
        attempt.join(2)
        assert isinstance(attempt.error, psycopg.OperationalError)


def test_closing_under_a_greenlet_that_waits_for_notifications_ends_its_wait(conn):
    attempt = Attempt(lambda: list(conn.notifies()))
    gevent.sleep(0.05)
    conn.close()
    attempt.join(2)
    assert isinstance(attempt.error, psycopg.OperationalError)


def test_closing_twice_and_using_a_closed_connection(conn):
    conn.close()
    conn.close()
    assert conn.closed
    assert not conn.broken
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    with pytest.raises(psycopg.OperationalError):
        list(conn.notifies(timeout=0.1))


def test_a_new_connection_on_the_descriptor_of_a_closed_one_works(connect):
    for _ in range(5):
        old = connect(autocommit=True)
        number = old.fileno()
        waiting = Attempt(old.execute, "select pg_sleep(30)")
        gevent.sleep(0.02)
        old.close()
        new = connect(autocommit=True)
        assert new.fileno() == number
        expected = token()
        assert new.execute("select %s::text, pg_sleep(0.05)", [expected]).fetchone()[0] == expected
        waiting.join(2)
        assert isinstance(waiting.error, psycopg.OperationalError)
        new.close()


def test_a_forgotten_connection_warns_as_psycopgs_does_and_leaves_nothing(connect, dsn, backends):
    conn = geventpg.Connection.connect(dsn, autocommit=True)
    conn.execute("select 1")
    number, reference = conn.fileno(), weakref.ref(conn)
    held = [conn]
    del conn
    with pytest.warns(ResourceWarning, match="deleted while still open"):
        held.clear()
    assert reference() is None
    wait_until(lambda: not backends(), message="the session has ended")
    new = connect(autocommit=True)
    assert new.fileno() == number
    assert new.execute("select pg_sleep(0.05), 7").fetchone()[1] == 7


def test_open_connections_are_not_kept_alive_by_their_watchers(dsn):
    conns = [geventpg.Connection.connect(dsn) for _ in range(3)]
    references = [weakref.ref(conn) for conn in conns]
    for conn in conns:
        conn.execute("select 1")
        conn.close()
    del conn
    conns.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3


def test_opening_and_closing_leaves_no_descriptor(dsn):
    geventpg.Connection.connect(dsn).close()
    before = open_descriptors()
    for _ in range(30):
        with geventpg.Connection.connect(dsn) as conn:
            conn.execute("select 1")
    assert open_descriptors() <= before
