"""A connection belongs to one thread's hub; elsewhere there is an error, and never a hang."""

from __future__ import annotations

import contextlib

import gevent
import gevent.hub
import psycopg
import pytest

import geventpg
from geventpg.errors import WrongHub
from tests.connection.helpers import Attempt, active, assert_clean_or_closed
from tests.support import wait_until


def in_thread(function, *args):
    """Run *function* in a real thread; return its result or error."""

    def run():
        try:
            return function(*args)
        except BaseException as error:
            return error

    with gevent.Timeout(10):
        return gevent.get_hub().threadpool.apply(run)


def use_in_greenlet(function):
    """Run *function* in a greenlet of whatever thread this is."""
    return gevent.spawn(function).get()


@pytest.mark.parametrize("runner", [lambda f: f(), use_in_greenlet], ids=["main", "greenlet"])
@pytest.mark.parametrize("autocommit", [True, False])
def test_using_it_in_another_thread_is_an_error_and_sends_nothing(connect, runner, autocommit):
    conn = connect(autocommit=autocommit)
    for use in (
        lambda: conn.execute("select 'from the other thread'"),
        lambda: list(conn.notifies(timeout=1)),
        lambda: conn.cursor().executemany("select %s", [(1,), (2,)]),
    ):
        error = in_thread(runner, use)
        assert isinstance(error, WrongHub)
        assert "thread" in str(error)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert conn.execute("select 'here'").fetchone() == ("here",)
    assert_clean_or_closed(conn)
    assert not conn.closed


def test_using_it_in_another_thread_while_it_is_busy_is_an_error(conn, backends):
    sleeper = Attempt(lambda: conn.execute("select pg_sleep(0.4), 'mine'").fetchone()[1])
    wait_until(lambda: active(backends), message="the statement runs")
    assert isinstance(in_thread(conn.execute, "select 1"), WrongHub)
    assert sleeper.join().result == "mine"
    assert_clean_or_closed(conn)
    assert not conn.closed


def test_another_thread_can_cancel_its_statement(conn, backends):
    for cancel in (conn.cancel, conn.cancel_safe):
        sleeper = Attempt(conn.execute, "select pg_sleep(30)")
        wait_until(lambda: active(backends), message="the statement runs")
        assert in_thread(cancel) is None
        sleeper.join(5)
        assert isinstance(sleeper.error, psycopg.errors.QueryCanceled)


def test_closing_it_in_another_thread_ends_the_waits_here(conn, backends, admin):
    sleeper = Attempt(conn.execute, "select pg_sleep(3)")
    wait_until(lambda: active(backends), message="the statement runs")
    outcome = in_thread(conn.close)
    assert outcome is None or isinstance(outcome, WrongHub)
    if outcome is None:
        sleeper.join(2)
        assert isinstance(sleeper.error, psycopg.OperationalError)
        assert conn.closed
    for backend in active(backends):
        admin.execute("select pg_terminate_backend(%s, 2000)", [backend.pid])


def test_closing_an_idle_one_in_another_thread_frees_its_descriptor_number(connect):
    conn = connect(autocommit=True)
    number = conn.fileno()
    outcome = in_thread(conn.close)
    if isinstance(outcome, WrongHub):
        return
    assert outcome is None
    new = connect(autocommit=True)
    assert new.fileno() == number
    for expected in range(3):
        row = new.execute("select %s::int, pg_sleep(0.02)", [expected]).fetchone()
        assert row[0] == expected


def test_one_opened_in_another_thread_works_there(dsn):
    def work():
        with geventpg.Connection.connect(dsn, autocommit=True) as conn:
            greenlets = [gevent.spawn(conn.execute, "select pg_sleep(0.02)") for _ in range(3)]
            gevent.joinall(greenlets, raise_error=True, timeout=5)
            return conn.execute("select 5").fetchone()[0]

    assert in_thread(work) == 5


def test_threads_with_connections_of_their_own_do_not_disturb_each_other(dsn):
    def work(number):
        with geventpg.Connection.connect(dsn) as conn:
            rows = [conn.execute("select %s::int", [number]).fetchone()[0] for _ in range(50)]
            return set(rows)

    pool = gevent.get_hub().threadpool
    results = [pool.spawn(work, number) for number in range(4)]
    here = work(99)
    assert [result.get(timeout=20) for result in results] == [{0}, {1}, {2}, {3}]
    assert here == {99}


def test_waiting_inside_a_callback_of_the_hub_is_an_error(connect):
    for autocommit in (True, False):
        conn = connect(autocommit=autocommit)
        outcome = []

        def callback(conn=conn, outcome=outcome):
            try:
                outcome.append(conn.execute("select 1").fetchone())
            except psycopg.Error as error:
                outcome.append(error)

        gevent.get_hub().loop.run_callback(callback)
        wait_until(lambda outcome=outcome: outcome, message="the callback has run")
        assert isinstance(outcome[0], WrongHub)
        assert conn.execute("select 2").fetchone() == (2,)
        assert conn.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE


def test_connecting_inside_a_callback_of_the_hub_is_an_error(dsn, backends):
    outcome = []

    def callback():
        with contextlib.ExitStack() as stack:
            try:
                outcome.append(stack.enter_context(geventpg.Connection.connect(dsn)))
            except BaseException as error:
                outcome.append(error)

    gevent.get_hub().loop.run_callback(callback)
    wait_until(lambda: outcome, message="the callback has run")
    assert isinstance(outcome[0], psycopg.Error)
    wait_until(lambda: not backends(), message="no backend is left")


def test_a_plain_greenlet_below_the_main_one_can_wait(conn):
    # greenlet.greenlet without gevent's Greenlet: its parent is not the hub.
    from greenlet import greenlet

    result = []
    plain = greenlet(lambda: result.append(conn.execute("select 3").fetchone()))
    plain.switch()
    wait_until(lambda: result, message="it has its result")
    assert result == [(3,)]
