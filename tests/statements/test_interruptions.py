"""A greenlet that is killed or times out abandons its answer, and no other greenlet notices."""

from __future__ import annotations

import time

import gevent
import psycopg
import pytest

import geventpg
from tests.chaos.switch_points import EXCEPTIONS, MOMENTS, ThrowAtSwitch
from tests.connection.helpers import Attempt, active
from tests.statements.helpers import INSERT, all_true, at_rest, echo, echoes, sleeping, stats
from tests.support import wait_until
from tests.support.pools import counts, terminate


def sleeper(pool, seconds=30, **options):
    """Have one greenlet wait for a statement that is slow."""
    return Attempt(lambda: pool.fetch_val("select pg_sleep(%s)::text", (seconds,), **options))


@pytest.mark.parametrize("error", EXCEPTIONS.values(), ids=EXCEPTIONS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_thrown_at_any_switch_the_others_get_their_own_answers(make_pool, moment, error):
    pool = make_pool(max_size=1)
    for point in range(1, 12):
        victims = [Attempt(echo, pool) for _ in range(4)]
        greenlets = {victim._greenlet for victim in victims}
        with ThrowAtSwitch(greenlets.__contains__, {point: error()}, moment) as thrower:
            others = echoes(pool, 4)
            for victim in victims:
                victim.join()
        assert all_true(others)
        hit = [victim for victim in victims if victim.error is not None]
        assert [victim.error for victim in hit] == thrower.delivered[: len(hit)]
        assert all(victim.result is True for victim in victims if victim not in hit)
        wait_until(lambda: at_rest(pool))
    assert echo(pool)


def test_a_killed_statement_that_was_not_sent_is_not_executed(pool, done):
    writers = [Attempt(pool.execute, INSERT, (number, "a")) for number in range(10)]
    gevent.sleep(0)  # they have asked; the turn of the hub is not over
    for writer in writers[::2]:
        writer._greenlet.kill(block=False)
    for writer in writers:
        writer.join()
    written = {number for number, writer in enumerate(writers) if writer.result is not None}
    assert {1, 3, 5, 7, 9} <= written <= set(range(10))
    assert written <= set(done("a"))


def test_an_abandoned_statement_is_cancelled_and_those_behind_it_are_executed(pool, admin, done):
    slow = sleeper(pool)
    behind = [Attempt(pool.execute, INSERT, (number, "a")) for number in range(20)]
    wait_until(lambda: stats(pool).outstanding == 21)
    started = time.monotonic()
    slow.throw(gevent.Timeout())
    for one in behind:
        assert one.join().error is None
    assert time.monotonic() - started < 20
    assert done("a") == list(range(20))
    wait_until(lambda: not sleeping(admin))
    wait_until(lambda: at_rest(pool))
    assert stats(pool).abandoned == 1


@pytest.mark.parametrize("close_returns", [False, True])
def test_an_abandoned_statement_that_cannot_be_cancelled_costs_its_connection(
    make_pool, proxy, dsn, admin, caplog, *, close_returns
):
    pool = make_pool(proxy.dsn(dsn), max_size=1, cancel_timeout=0.2, close_returns=close_returns)
    slow = sleeper(pool)
    wait_until(lambda: sleeping(admin))
    proxy.stall()
    slow.throw(gevent.Timeout())
    wait_until(lambda: stats(pool).connections == 0)
    assert pool.stats().evicted["broken"] == 1
    (closing,) = [r.getMessage() for r in caplog.records if "closing" in r.getMessage()]
    assert "cancelling its statement failed" in closing
    proxy.resume()
    terminate(admin, *sleeping(admin))
    assert echo(pool)


def test_a_cancel_request_that_hits_a_neighbour_is_not_noticed(pool, admin, done, monkeypatch):
    """The request is held back until the abandoned statement is over and another one runs."""
    original = geventpg.Connection.send_cancel

    def late(conn, deadline):
        wait_until(lambda: stats(pool).outstanding == 1)
        gevent.sleep(0.05)
        original(conn, deadline)

    monkeypatch.setattr(geventpg.Connection, "send_cancel", late)
    slow = sleeper(pool, 0.5)
    query = "insert into things select 7, 'a' || pg_sleep(0.5)::text"
    neighbour = Attempt(pool.execute, query)
    wait_until(lambda: sleeping(admin))
    slow.throw(gevent.Timeout())
    assert neighbour.join().error is None
    assert done("a") == [7]
    wait_until(lambda: at_rest(pool))
    assert stats(pool).moved >= 1  # it was hit, or this test proves nothing


@pytest.mark.parametrize("way", ["time-out of the call", "time-out of gevent"])
def test_a_statement_that_takes_too_long_ends_on_time_and_on_the_server(pool, backends, way):
    for _ in range(3):  # at first with others, then on a connection of its own: it is known then
        started = time.monotonic()
        if way == "time-out of the call":
            with pytest.raises(geventpg.StatementTimeout) as caught:
                pool.fetch_val("select pg_sleep(30)", timeout=0.2)
            assert isinstance(caught.value, psycopg.errors.QueryCanceled)
            assert isinstance(caught.value, geventpg.CommitUnknown)
            assert not geventpg.is_transient(caught.value)
        else:
            with pytest.raises(gevent.Timeout), gevent.Timeout(0.2):
                pool.fetch_val("select pg_sleep(30)")
        assert time.monotonic() - started < 15
        wait_until(lambda: not active(backends))
    wait_until(lambda: at_rest(pool))
    assert all_true(echoes(pool, 10, timeout=10))


def test_the_time_outs_of_many_are_each_their_own(pool):
    query = "select pg_sleep(%s)::text"
    attempts = [
        Attempt(lambda n=n: pool.fetch_val(query, (30,), timeout=0.1 + 0.02 * n)) for n in range(10)
    ]
    for attempt in attempts:
        # One that held up the others, was cancelled for that and is out of time then, is not
        # under way any more.
        error = attempt.join().error
        assert isinstance(error, (geventpg.StatementTimeout, geventpg.PoolTimeout))
        assert "after 0.00 sec" not in str(error)
    wait_until(lambda: at_rest(pool), timeout=15)


def test_a_wait_for_a_connection_ends_on_time_too(make_pool):
    pool = make_pool(max_size=1, timeout=0.3)
    with pool.connection():
        waiting = [Attempt(echo, pool) for _ in range(3)]
        waiting += [Attempt(lambda: echo(pool, timeout=0.1)) for _ in range(3)]
        for one in waiting:
            assert type(one.join().error) is geventpg.PoolTimeout
            assert "in_use=1" in str(one.error)
        assert stats(pool).waiting == 0
    assert all_true(echoes(pool, 5))
    assert pool.get_stats()["requests_errors"] >= 6


def test_who_is_killed_while_waiting_for_a_connection_leaves_the_line(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection():
        waiting = [Attempt(echo, pool) for _ in range(4)]
        wait_until(lambda: stats(pool).waiting == 4)
        for one in waiting[:3]:
            one.throw(gevent.GreenletExit())
            one.join()
        assert stats(pool).waiting == 1
    assert waiting[3].join().result is True


def test_a_killed_greenlet_with_an_unsettled_connection_leaves_no_statement_running(
    make_pool, backends
):
    pool = make_pool(max_size=2, cancel_timeout=2)
    victims = [sleeper(pool) for _ in range(10)]
    wait_until(lambda: active(backends))
    for victim in victims:
        victim.throw(gevent.GreenletExit())
    wait_until(lambda: not active(backends), timeout=15)
    wait_until(lambda: at_rest(pool), timeout=15)
    assert counts(pool).size <= 2
    assert echo(pool)


def test_a_dumper_or_loader_that_switches_mixes_up_no_answers(make_pool):
    class Slow(int):
        pass

    class SlowDumper(psycopg.adapt.Dumper):
        oid = psycopg.postgres.types["int8"].oid

        def dump(self, obj):
            gevent.sleep(0.001 * (int(obj) % 3))
            return str(int(obj)).encode()

    class SlowLoader(psycopg.adapt.Loader):
        def load(self, data):
            value = int(bytes(data))
            gevent.sleep(0.001 * (value % 3))
            return value

    def configure(conn):
        conn.adapters.register_dumper(Slow, SlowDumper)
        conn.adapters.register_loader("int8", SlowLoader)

    pool = make_pool(configure=configure)
    query = "select %s, %s + generate_series(0, 3)"

    def ask(number):
        expected = [(number, number + i) for i in range(4)]
        return pool.fetch_all(query, (Slow(number), Slow(number))) == expected

    for _ in range(3):
        assert all_true([gevent.spawn(ask, number) for number in range(40)])
    assert stats(pool).sent > 0
