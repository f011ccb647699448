"""Listeners: told of what they asked for, on the spot, and harmless when they fail."""

from __future__ import annotations

import logging

import gevent
import psycopg
import pytest

from geventpg import OptionError, PoolTimeout
from geventpg.pool.events import KINDS
from tests.support.waiting import wait_until


class Recorded(list):
    """A listener that remembers what it was told."""

    def __call__(self, event):
        self.append(event)

    def kinds(self):
        return [event.kind for event in self]


@pytest.fixture
def listen(make_pool):
    def start(*kinds, **options):
        pool, told = make_pool(**{"min_size": 0, **options}), Recorded()
        pool.add_listener(told, *kinds)
        return pool, told

    return start


def test_the_life_of_a_connection_is_told_in_order(listen):
    pool, told = listen()
    with pool.connection() as conn:
        pid = conn.info.backend_pid
        conn.execute("select 1")
    conn = pool.getconn()
    conn.close()
    pool.putconn(conn)
    # Told of when it is in the pool, which may be after it was handed to a waiter.
    assert [kind for kind in told.kinds() if kind != "connected"] == [
        *("waited", "checked_out", "statement", "returned"),
        *("checked_out", "retired", "returned"),
    ]
    assert told.kinds().count("connected") == 1
    assert {event.pid for event in told} == {pid}
    assert {event.pool for event in told} == {pool.name}
    assert all(event.seconds >= 0 for event in told if event.kind != "retired")
    (retired,) = [event for event in told if event.kind == "retired"]
    assert retired.cause == "closed_by_user"
    assert retired.connection is conn


def test_an_eviction_tells_its_cause_and_its_backend(listen, backends, pg):
    pool, told = listen("evicted", min_size=1)
    pool.wait()
    (backend,) = backends()
    with pg.connect() as admin:
        admin.execute("select pg_terminate_backend(%s)", [backend.pid])
    wait_until(lambda: told)
    assert (told[0].kind, told[0].cause, told[0].pid) == (
        "evicted",
        "closed_by_server",
        backend.pid,
    )


def test_healing_cancelling_and_leaks_are_told(listen):
    pool, told = listen(
        *("healed", "cancelled", "leaked"),
        kwargs={"autocommit": True, "prepare_threshold": 0},
        leak_threshold=0.05,
    )
    with pool.connection() as conn:
        conn.execute("select 1")
        conn.execute("do $$ begin execute 'deallocate all'; end $$")
        conn.execute("select 1")
        wait_until(lambda: len(told) == 2)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            conn.execute("select pg_sleep(10)")
    assert sorted(told.kinds()) == ["cancelled", "healed", "leaked"]
    (leaked,) = [event for event in told if event.kind == "leaked"]
    assert leaked.seconds >= 0.05


def test_a_wait_that_fails_is_told_with_its_error(listen):
    pool, told = listen("waited", max_size=1)
    with pool.connection():
        with pytest.raises(PoolTimeout):
            pool.getconn(0.02)
        killed = gevent.spawn(pool.getconn, 10)
        wait_until(pool.waiters)
        killed.kill()
    served, late, interrupted = told
    assert served.error is None
    assert isinstance(late.error, PoolTimeout)
    assert late.seconds >= 0.02
    assert isinstance(interrupted.error, gevent.GreenletExit)


def test_statements_are_told_without_their_parameters(listen):
    pool, told = listen("statement")
    with pool.connection() as conn:
        conn.execute("select %s", ["hunter2"])
        conn.execute("select 1")
        conn.cursor().executemany("select %s::int", [[1], [2]])
        with pytest.raises(psycopg.errors.DivisionByZero):
            psycopg.ClientCursor(conn).execute(b"select 1 / %s", [0])
    assert [event.statement for event in told] == [
        "select %s",
        "select 1",
        "select %s::int",
        "select 1 / %s",
    ]
    assert [event.has_parameters for event in told] == [True, False, True, True]
    assert isinstance(told[3].error, psycopg.errors.DivisionByZero)
    assert "hunter2" not in repr(told)


def test_only_what_was_asked_for_is_told(listen):
    pool, told = listen("returned")
    with pool.connection() as conn:
        conn.execute("select 1")
    assert told.kinds() == ["returned"]


def test_a_listener_can_be_removed(listen):
    pool, told = listen()
    with pool.connection():
        pass
    pool.remove_listener(told)
    pool.remove_listener(told)
    told.clear()
    with pool.connection() as conn:
        conn.execute("select 1")
    assert told == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_listener_that_fails_is_logged_once_and_disturbs_no_checkout(listen, kind, caplog):
    pool, told = listen()

    def fail(event):
        raise RuntimeError(f"on purpose: {event.kind}")

    pool.add_listener(fail, kind)
    with caplog.at_level(logging.ERROR, "geventpg"):
        for _ in range(2):
            with pool.connection() as conn:
                conn.execute("select 1")
            with pool.connection() as conn:
                conn.close()
    expected = 1 if kind in told.kinds() else 0
    assert caplog.text.count("RuntimeError: on purpose") == expected
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("kind", ["checked_out", "waited"])
def test_a_kill_while_a_listener_switches_loses_no_connection(listen, kind):
    pool, _ = listen("leaked", max_size=1)

    def dawdle(event):
        if event.error is None:
            gevent.sleep(30)

    pool.add_listener(dawdle, kind)
    taker = gevent.spawn(pool.getconn, 10)
    wait_until(lambda: pool.stats().in_use == 1)
    gevent.sleep(0.01)
    taker.kill()
    pool.remove_listener(dawdle)
    with pool.connection(timeout=5):
        pass


def test_a_wrong_listener_is_refused(listen):
    pool, _ = listen()
    with pytest.raises(OptionError, match="unknown kind of event 'returnd'"):
        pool.add_listener(print, "returnd")
    with pytest.raises(OptionError, match="must be callable"):
        pool.add_listener("print")
