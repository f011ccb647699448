"""Answers come through every kind of socket, whatever their number; none is left lying."""

from __future__ import annotations

import gevent
import pytest
from psycopg.conninfo import make_conninfo

from tests.connection.helpers import Attempt
from tests.statements.helpers import all_true, at_rest, cancel, echo, echoes, sleeping, warm_up
from tests.support import wait_until


@pytest.fixture
def without_timers(monkeypatch):
    """Have nothing come to the rescue of answers that are left lying."""
    for name in ("pipe", "choice", "sending"):
        monkeypatch.setattr(f"geventpg.statements.{name}.HEAD_LIMIT", 1000.0)


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
