"""Connections that are lost: what was not sent goes elsewhere, of the rest nothing is claimed."""

from __future__ import annotations

import itertools

import gevent
import psycopg
import pytest

import geventpg
from tests.chaos.form import pick
from tests.connection.helpers import Attempt, active
from tests.statements.helpers import (
    INSERT,
    all_true,
    at_rest,
    cancel,
    echo,
    echoes,
    sleeping,
    stats,
    warm_up,
)
from tests.support import wait_until
from tests.support.pools import settled

NEVER = 2**40
SIZE = 20


@pytest.mark.usefixtures("no_rescue")
def test_a_terminated_backend_says_what_is_known(pool, backends, admin, done):
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    sent = [Attempt(pool.execute, INSERT, (number, "a")) for number in range(5)]
    safe = [Attempt(lambda: echo(pool, idempotent=True)) for _ in range(5)]
    wait_until(lambda: sleeping(admin))
    admin.execute("select pg_terminate_backend(%s)", (active(backends)[0].pid,))
    for one in [slow, *sent]:
        assert type(one.join().error) is geventpg.CommitUnknown
        assert isinstance(one.error.__cause__, psycopg.errors.AdminShutdown)
        assert not geventpg.is_transient(one.error)
    assert all(one.join().result is True for one in safe)
    assert done("a") == []
    wait_until(lambda: at_rest(pool))


def test_idle_connections_that_end_fail_no_statement(pool, admin, backends):
    ended = 0
    for _ in range(3):
        assert all_true(echoes(pool, 10))
        wait_until(lambda: at_rest(pool))
        pids = [backend.pid for backend in backends()]
        admin.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) pid", (pids,))
        ended += len(pids)
        wait_until(lambda number=ended: pool.get_stats()["connections_lost"] == number)
        assert echo(pool)


def test_a_connection_closed_between_two_statements_of_a_greenlet_costs_neither(make_pool):
    pool = make_pool(min_size=1, max_size=1)
    warm_up(pool)
    with pool.connection() as conn:
        pass

    def work():
        assert echo(pool)
        conn.close()
        return echo(pool)

    assert all_true([gevent.spawn(work)])
    assert conn.closed
    wait_until(lambda: at_rest(pool))


def test_a_connection_that_statements_share_cannot_be_returned_by_a_greenlet(make_pool, admin):
    pool = make_pool(min_size=1, max_size=1)
    warm_up(pool)
    with pool.connection() as conn:
        pass
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)::text")
    wait_until(lambda: sleeping(admin))
    with pytest.raises(ValueError, match="twice"):
        pool.putconn(conn)
    assert stats(pool).outstanding == 1
    cancel(admin, slow)


def test_a_statement_that_ends_its_own_session_is_not_repeated_for_ever(pool):
    query = "select pg_terminate_backend(pg_backend_pid())"
    for idempotent in (False, True):
        with pytest.raises(geventpg.CommitUnknown):
            pool.fetch_val(query, idempotent=idempotent)
    assert echo(pool)


@pytest.fixture
def pool_behind_proxy(make_pool, proxy, dsn):
    return make_pool(proxy.dsn(dsn), max_size=1, keepalive_interval=0)


@pytest.mark.parametrize("direction", ["from_server", "from_client"])
def test_cut_at_any_byte_every_statement_is_done_or_not_as_reported(
    pool_behind_proxy, proxy, rng, done, direction
):
    pool = pool_behind_proxy

    def run(tag):
        pool.drain()
        wait_until(lambda: settled(pool, 1))
        assert echo(pool)
        return lambda: [Attempt(pool.execute, INSERT, (number, tag)) for number in range(SIZE)]

    for one in run("measured")():
        one.join()
    start = run("measured")
    before = proxy.forwarded(direction)
    for one in start():
        one.join()
    end = proxy.forwarded(direction) - before
    seen = set()
    sample = sorted({end - 2, *rng.sample(range(end), 8)})
    for offset in pick(short=sample, long=list(range(end))):
        tag = f"{offset:08}"
        start = run(tag)
        proxy.cut_next(offset, direction)
        attempts = [one.join() for one in start()]
        proxy.cut_next(NEVER, direction)
        was_done = done(tag)
        assert len(was_done) == len(set(was_done)), "one was executed twice"
        for number, one in enumerate(attempts):
            seen.add(type(one.error))
            if one.error is None:
                assert one.result.rows == [(number,)]
                assert number in was_done
            else:
                assert type(one.error) is geventpg.CommitUnknown
    assert geventpg.CommitUnknown in seen
    if direction == "from_server":
        assert type(None) in seen  # those before the cut; a client says everything at once
    assert echo(pool)


def test_what_was_not_sent_moves_and_is_executed_once(make_pool, proxy, dsn, done):
    pool = make_pool(proxy.dsn(dsn), max_size=2, keepalive_interval=0)
    assert echo(pool)
    value = "late" * 10_000
    query = "insert into things select %s, left(%s, 4)"
    proxy.stall()
    work = [Attempt(pool.execute, query, (number, value)) for number in range(40)]
    wait_until(lambda: stats(pool).outstanding)
    gevent.sleep(0.05)
    assert stats(pool).waiting > 20
    proxy.resume()
    proxy.drop_connections()
    for one in work:
        one.join()
    was_done = done("late")
    assert len(was_done) == len(set(was_done))
    failed = {number for number, one in enumerate(work) if one.error is not None}
    assert {type(work[number].error) for number in failed} <= {geventpg.CommitUnknown}
    assert set(range(40)) - failed <= set(was_done)
    assert len(failed) < 20
    assert stats(pool).moved > 0


def test_a_connection_that_ends_takes_nothing_along_that_was_not_sent(
    pool_behind_proxy, proxy, done
):
    pool = pool_behind_proxy
    assert echo(pool)
    proxy.cut_next(100, "from_client")
    work = [Attempt(pool.execute, INSERT, (number, "a")) for number in range(400)]
    for one in work:
        assert one.join().error is None or type(one.error) is geventpg.CommitUnknown
    failed = sum(one.error is not None for one in work)
    assert 1 <= failed <= 128
    assert len(done("a")) >= 400 - failed


@pytest.mark.parametrize("prepare", [True], ids=["prepared"])
def test_statements_while_the_server_restarts_end_as_reported(
    make_pool, embedded_pg, embedded_dsn, prepare
):
    pool = make_pool(embedded_dsn, max_size=3, timeout=30)
    with embedded_pg.connect() as conn:
        conn.execute("drop table if exists things")
        conn.execute("create table things (id int, tag text)")
    taken, failed = [], []
    numbers = itertools.count()
    stop = False

    def write():
        while not stop:
            number = next(numbers)
            try:
                pool.execute(INSERT, (number, "a"), prepare=prepare)
            except psycopg.OperationalError as error:
                failed.append((number, error))
            else:
                taken.append(number)

    def read():
        while not stop:
            assert echo(pool, idempotent=True)

    greenlets = [gevent.spawn(write) for _ in range(8)] + [gevent.spawn(read) for _ in range(8)]
    wait_until(lambda: len(taken) > 50)
    embedded_pg.restart("fast")
    before = len(taken)
    wait_until(lambda: len(taken) > before + 50, timeout=30)
    stop = True
    gevent.joinall(greenlets, raise_error=True)
    with embedded_pg.connect() as conn:
        rows = [number for (number,) in conn.execute("select id from things")]
        conn.execute("drop table things")
    assert len(rows) == len(set(rows))
    assert set(taken) <= set(rows)
    assert {type(error) for _, error in failed} <= {geventpg.CommitUnknown}
    assert set(rows) - set(taken) <= {number for number, _ in failed}


@pytest.mark.parametrize(
    "harm",
    ["deallocate all", "discard all", "alter table stale add column b int"],
)
def test_prepared_statements_that_are_gone_or_stale_are_healed(make_pool, admin, harm):
    admin.execute("drop table if exists stale; create table stale (a int)")
    admin.execute("insert into stale values (1)")
    pool = make_pool(max_size=1)
    query = "select * from stale where a = %s"
    for _ in range(8):
        assert pool.fetch_one(query, (1,)) == (1,)
    with pool.connection() as conn:
        conn.autocommit = True
        conn.pgconn.exec_(harm.encode())  # behind psycopg's back
    expected = pool.fetch_one(query, (1,), prepare=False)
    asking = [gevent.spawn(pool.fetch_one, query, (1,)) for _ in range(10)]
    gevent.joinall(asking, raise_error=True)
    assert [one.value for one in asking] == [expected] * 10
    assert pool.get_stats()["statements_healed"] >= 1
    assert pool.fetch_one(query, (1,)) == expected
    admin.execute("drop table stale")
