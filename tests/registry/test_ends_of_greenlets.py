"""A greenlet's connection goes back however the greenlet ends."""

from __future__ import annotations

import gc
import sys

import gevent
import gevent.event
import psycopg
import pytest

import geventpg
from tests.support import wait_until


def use(name):
    return geventpg.get_conn(name).execute("select 1").fetchone()


def test_a_greenlet_that_returns(name, all_given_back):
    gevent.spawn(use, name).get()
    all_given_back(name)


def test_a_greenlet_that_fails(name, all_given_back, monkeypatch):
    def fail():
        use(name)
        raise RuntimeError("on purpose")

    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *_args: None)
    greenlet = gevent.spawn(fail)
    greenlet.join()
    assert not greenlet.successful()
    all_given_back(name)


def test_a_greenlet_that_is_killed_before_it_starts(name, all_given_back):
    greenlet = gevent.spawn(use, name)
    greenlet.kill()
    all_given_back(name)


def test_a_greenlet_that_is_killed_while_it_waits(configure, all_given_back):
    name = configure(max_size=1)
    with geventpg.get_conn(name):
        greenlet = gevent.spawn(use, name)
        wait_until(lambda: geventpg.get_pool(name).get_stats()["requests_waiting"] == 1)
        greenlet.kill()
        assert geventpg.get_pool(name).get_stats()["requests_waiting"] == 0
    all_given_back(name)


def test_a_greenlet_that_is_killed_while_its_statement_runs(name, backends, all_given_back):
    greenlet = gevent.spawn(lambda: geventpg.get_conn(name).execute("select pg_sleep(60)"))
    wait_until(lambda: any(b.state == "active" for b in backends()))
    with gevent.Timeout(5):
        greenlet.kill()
    wait_until(lambda: not any(b.state == "active" for b in backends()), timeout=2)
    all_given_back(name)


def test_a_greenlet_that_is_killed_between_two_statements(name, all_given_back):
    started = gevent.event.Event()

    def user():
        use(name)
        started.set()
        gevent.sleep(60)

    greenlet = gevent.spawn(user)
    started.wait()
    greenlet.kill()
    all_given_back(name)


def test_a_greenlet_that_runs_into_its_timeout(name, backends, all_given_back):
    gevent.spawn(use, name).get()  # the time-out is to hit the statement, not the connecting

    def user():
        with gevent.Timeout(0.05, False):
            geventpg.get_conn(name).execute("select pg_sleep(60)")
        return use(name)  # the connection is usable again: the greenlet still holds it

    greenlet = gevent.spawn(user)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        greenlet.get()
    all_given_back(name)


@pytest.mark.parametrize("how", ["returns", "fails", "is killed"])
def test_a_raw_greenlet_that_ends_and_is_forgotten(name, all_given_back, how):
    ready = gevent.event.Event()

    def user():
        use(name)
        ready.set()
        if how == "fails":
            raise gevent.GreenletExit
        if how == "is killed":
            gevent.sleep(60)

    raw = gevent.spawn_raw(user)
    ready.wait()
    if how == "is killed":
        gevent.kill(raw)
    del raw
    gevent.sleep(0)
    all_given_back(name)


@pytest.mark.hang_limit(10)
def test_a_raw_greenlet_that_fails_leaves_a_connection_that_works(configure, monkeypatch):
    # Its exception passes through the connection's own watcher, which gevent would stop then.
    name = configure(max_size=1)
    shown = []
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: shown.append(args))

    def fail():
        with geventpg.get_conn(name) as conn:
            conn.execute("select 1")
            raise RuntimeError("on purpose")

    gevent.spawn_raw(fail)
    wait_until(lambda: shown)
    with gevent.Timeout(3):
        for _ in range(3):
            with geventpg.get_conn(name) as conn:
                assert conn.execute("select 1").fetchone() == (1,)


def test_an_ended_raw_greenlet_that_is_still_referred_to_gives_back_when_others_wait(
    configure, all_given_back
):
    name = configure(max_size=2, timeout=5)
    raw = [gevent.spawn_raw(use, name) for _ in range(2)]
    wait_until(lambda: all(greenlet.dead for greenlet in raw))
    users = [gevent.spawn(use, name) for _ in range(2)]
    with gevent.Timeout(2):
        assert [user.get() for user in users] == [(1,), (1,)]
    assert all(greenlet.dead for greenlet in raw)
    all_given_back(name)


def test_a_raw_greenlet_that_ends_while_another_waits_gives_back(configure, all_given_back):
    name = configure(max_size=1, timeout=10)
    go = gevent.event.Event()
    holding = gevent.event.Event()

    def user():
        use(name)
        holding.set()
        go.wait()

    raw = gevent.spawn_raw(user)
    holding.wait()
    waiter = gevent.spawn(use, name)
    wait_until(lambda: geventpg.get_pool(name).get_stats()["requests_waiting"] == 1)
    go.set()
    with gevent.Timeout(2):
        assert waiter.get() == (1,)
    assert raw.dead
    all_given_back(name)


def test_the_main_greenlet_keeps_its_connection_until_it_releases_it(name, all_given_back):
    conn = geventpg.get_conn(name)
    conn.execute("select 1")
    gevent.sleep(0.01)
    assert geventpg.get_conn(name) is conn
    geventpg.release_conn(name)
    all_given_back(name)


def test_greenlets_of_greenlets_have_connections_of_their_own(name, all_given_back):
    def grandchild():
        return geventpg.get_conn(name)

    def child():
        mine = geventpg.get_conn(name)
        return mine, gevent.spawn(grandchild).get()

    mine = geventpg.get_conn(name)
    conns = {mine, *gevent.spawn(child).get()}
    assert len(conns) == 3
    geventpg.release_conn(name)
    all_given_back(name)


def test_a_child_outlives_its_parent_with_its_own_connection(name, all_given_back):
    go = gevent.event.Event()

    def child():
        with geventpg.get_conn(name) as conn:
            conn.execute("select 1")
            go.wait()
            return conn.execute("select 2").fetchone()

    def parent():
        use(name)
        return gevent.spawn(child)

    orphan = gevent.spawn(parent).get()
    go.set()
    assert orphan.get() == (2,)
    all_given_back(name)


def test_a_connection_kept_in_a_global_is_taken_back(name, all_given_back):
    kept = []

    def user():
        kept.append(geventpg.get_conn(name))
        kept[0].execute("select 1")

    gevent.spawn(user).get()
    all_given_back(name)


def test_a_traceback_that_is_kept_does_not_keep_the_connection(name, all_given_back):
    kept = []

    def user():
        try:
            conn = geventpg.get_conn(name)
            conn.execute("select 1/0")
        except Exception:
            kept.append(sys.exc_info())

    gevent.spawn(user).get()
    gevent.spawn_raw(user)
    wait_until(lambda: len(kept) == 2)
    all_given_back(name)


def test_an_open_transaction_of_a_greenlet_that_ends_is_rolled_back_and_logged(
    name, table, admin, caplog, all_given_back
):
    def user():
        geventpg.get_conn(name).execute(f"insert into {table} values ('lost')")

    gevent.spawn(user).get()
    all_given_back(name)
    assert admin.execute(f"select count(*) from {table}").fetchone() == (0,)
    assert any("rolling back" in record.getMessage() for record in caplog.records)


@pytest.mark.hang_limit(90)
def test_two_thousand_greenlets_of_all_kinds_leave_every_connection_in_the_pool(
    configure, backends, all_given_back, rng, monkeypatch
):
    name = configure(max_size=8, timeout=60)
    most = 0

    def plain():
        use(name)

    def block():
        with geventpg.get_conn(name) as conn:
            conn.execute("select 1")

    def failing():
        with geventpg.get_conn(name) as conn:
            conn.execute("select 1/0")

    def timed_out():
        with gevent.Timeout(rng.random() * 0.2, False):
            geventpg.get_conn(name).execute("select pg_sleep(0.2)")

    def released():
        use(name)
        geventpg.release_conn(name)

    def with_a_child():
        use(name)
        geventpg.release_conn(name)
        gevent.spawn(use, name).join()

    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *_args: None)
    raw_ended = 0

    def counted(kind):
        nonlocal raw_ended
        try:
            kind()
        finally:
            raw_ended += 1

    kinds = [plain, block, failing, timed_out, released, with_a_child]
    greenlets, raw, kept = [], 0, []
    for number in range(2000):
        kind = rng.choice(kinds)
        if number % 10 == 0:
            raw += 1
            greenlet = gevent.spawn_raw(counted, kind)
            if number % 400 == 0:
                kept.append(greenlet)  # ended, and still referred to
            continue
        greenlet = gevent.spawn(kind)
        greenlets.append(greenlet)
        if number % 7 == 0:
            gevent.spawn_later(rng.random(), greenlet.kill, block=False)
    while raw_ended < raw or not all(greenlet.dead for greenlet in greenlets):
        most = max(most, len(backends()))
        gevent.sleep(0.05)
    assert 1 <= most <= 8
    kept.clear()
    gc.collect()
    all_given_back(name)
