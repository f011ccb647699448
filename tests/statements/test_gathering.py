"""Many answers are taken in at a time; none is left lying because there are too few."""

from __future__ import annotations

import os
import socket

import gevent
import pytest
from psycopg.conninfo import make_conninfo

import geventpg
from tests.connection.helpers import Attempt
from tests.statements.helpers import all_true, at_rest, cancel, echo, echoes, sleeping, warm_up
from tests.support import wait_until


@pytest.fixture(autouse=True)
def however_slow_the_machine_is(monkeypatch):
    monkeypatch.setattr("geventpg.statements.gathering._QUICK", 1.0)


@pytest.fixture
def without_timers(monkeypatch):
    """Have nothing come to the rescue of answers that are left lying."""
    for name in ("pipe", "choice", "sending"):
        monkeypatch.setattr(f"geventpg.statements.{name}.HEAD_LIMIT", 1000.0)


def low_water_mark(conn):
    """Return how many bytes have to be there for the socket to count as readable."""
    with socket.socket(fileno=os.dup(conn.pgconn.socket)) as sock:
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_a_busy_server_wakes_the_hub_for_several_answers_at_a_time(pool):
    """The server takes longer than the client: each answer would wake it."""

    def work():
        query = "select count(*) from generate_series(1, %s)"
        return all(pool.fetch_val(query, (1000,)) == 1000 for _ in range(50))

    loop = gevent.get_hub().loop
    workers = [gevent.spawn(work) for _ in range(100)]
    before = loop.iteration
    assert all_true(workers)
    assert 100 * 50 / (loop.iteration - before) > 4


@pytest.fixture(params=["plain", "unix socket", "tls"])
def any_socket(request, make_pool, pg, dsn):
    """Return a pool that reaches its server this way."""
    if request.param == "tls":
        dsn = request.getfixturevalue("tls_dsn")
    elif request.param == "unix socket":
        directory = getattr(pg, "socket_directory", None)
        if directory is None:
            pytest.skip("the server's socket directory is not known")
        dsn = make_conninfo(dsn, host=str(directory))
    pool = make_pool(dsn, min_size=2)
    warm_up(pool)
    return pool


@pytest.mark.parametrize("greenlets", [31, 70, 130])
def test_answers_come_through_every_kind_of_socket(any_socket, without_timers, greenlets):
    def work():
        return all(echo(any_socket) for _ in range(30))

    assert all_true([gevent.spawn(work) for _ in range(greenlets)])
    wait_until(lambda: at_rest(any_socket))


@pytest.mark.parametrize("greenlets", [1, 10, 29, 30, 31, 32, 33, 45, 70, 130])
def test_the_shortest_answers_are_enough(pool, done, without_timers, greenlets):
    def work():
        return all(
            pool.execute("update things set id = 1 where id = %s", (1,)).rowcount == 0
            for _ in range(30)
        )

    assert all_true([gevent.spawn(work) for _ in range(greenlets)])
    assert done("") == []


@pytest.mark.usefixtures("no_rescue")
def test_what_was_answered_before_a_slow_statement_is_not_left_lying(pool, admin):
    for number in range(8):  # each time other ones are left
        before = echoes(pool, 60 + number)
        slow = Attempt(pool.fetch_val, f"select pg_sleep(60), {number}")
        behind = echoes(pool, 40)
        assert all_true(before)
        assert sleeping(admin)
        assert not slow.over
        cancel(admin, slow)
        assert all_true(behind)
        wait_until(lambda: at_rest(pool))


def test_a_closed_connection_leaves_the_socket_alone_that_has_its_number_now(dsn):
    conn = geventpg.Connection.connect(dsn)
    number = conn.fileno()
    conn.close()
    socks = [socket.socket() for _ in range(20)]
    (ours,) = [sock for sock in socks if sock.fileno() == number]
    assert not conn.watch.wait_for_bytes(800)
    assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
    for sock in socks:
        sock.close()


def test_a_connection_that_is_given_back_is_as_it_was(pool):
    def work():
        return all(echo(pool) for _ in range(50))

    assert all_true([gevent.spawn(work) for _ in range(100)])
    wait_until(lambda: at_rest(pool))
    held = [pool.getconn() for _ in range(pool.max_size)]
    for conn in held:
        assert low_water_mark(conn) == 1
        assert conn.execute("select 1").fetchone() == (1,)
        pool.putconn(conn)
