"""A slow statement delays those that were sent behind it, and no others."""

from __future__ import annotations

import time

import gevent
import pytest

from tests.connection.helpers import Attempt
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
from tests.support.pools import counts


def test_fast_statements_go_elsewhere_while_a_slow_one_is_at_the_head(pool, admin):
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    wait_until(lambda: sleeping(admin))
    gevent.sleep(0.01)
    for _ in range(5):
        assert all_true(echoes(pool, 20))
    assert not slow.over
    assert stats(pool).connections <= 2
    cancel(admin, slow)
    assert slow.error.sqlstate == "57014"  # it was asked for: it is no neighbour's
    wait_until(lambda: at_rest(pool))


def test_a_statement_known_to_be_slow_takes_a_connection_of_its_own(pool, admin):
    pool.fetch_val("select pg_sleep(%s)::text", (0.1,))
    assert stats(pool).spilled == 0
    slow = Attempt(pool.fetch_val, "select pg_sleep(%s)::text", (60,))
    fast = echoes(pool, 50)
    wait_until(lambda: sleeping(admin))
    assert all_true(fast)
    assert stats(pool).spilled == 1
    assert stats(pool).moved == 0
    cancel(admin, slow)


def test_a_slow_statement_is_known_by_its_text_whatever_the_comments_around_it(pool):
    query = "/* trace=%d */ select pg_sleep(%%s)::text -- trace=%d"
    pool.fetch_val(query % (0, 0), (0.1,))
    for number in range(1, 4):
        pool.fetch_val(query % (number, number), (0.0,))
        assert stats(pool).spilled == number


def test_a_statement_that_was_slow_once_is_forgiven(pool):
    query = "select pg_sleep(%s)::text"
    pool.fetch_val(query, (0.1,))
    for _ in range(300):
        before = stats(pool).spilled
        pool.fetch_val(query, (0,))
        if stats(pool).spilled == before:
            return
    raise AssertionError("it still takes a connection of its own")


def test_those_behind_a_slow_statement_are_not_held_up_for_long(make_pool, admin):
    pool = make_pool(max_size=3, min_size=3)
    wait_until(lambda: counts(pool).idle == 3)
    assert echo(pool)
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    fast = [Attempt(echo, pool) for _ in range(500)]
    wait_until(lambda: sleeping(admin))
    wait_until(lambda: sum(one.over for one in fast) >= 300)
    for one in fast:
        one.join()
    assert all(one.result is True for one in fast)
    # It goes on where it delays no other statement.
    assert not slow.over
    wait_until(lambda: sleeping(admin))
    wait_until(lambda: stats(pool).spilled == 1)
    wait_until(lambda: stats(pool).connections == 0)
    cancel(admin, slow)


def test_what_waits_for_company_does_not_wait_for_a_slow_statement(make_pool, admin):
    pool = make_pool(max_size=3, min_size=3)
    wait_until(lambda: counts(pool).idle == 3)
    assert echo(pool)
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    behind = echoes(pool, 40)
    wait_until(lambda: stats(pool).outstanding == 41)
    late = Attempt(echo, pool)
    assert late.join().result is True
    assert not slow.over
    assert all_true(behind)
    cancel(admin, slow)
    wait_until(lambda: at_rest(pool))


def test_statements_leave_in_portions_while_the_server_has_enough_to_do(pool):
    def work():
        return all(echo(pool) for _ in range(50))

    assert all_true([gevent.spawn(work) for _ in range(100)])
    assert stats(pool).sent / stats(pool).batches >= 28


def test_a_statement_that_holds_up_others_is_executed_once_and_so_are_they(pool, admin, done):
    """It waits for a lock; cancelled and executed again, it finds its way where others do not."""
    pool.execute(INSERT, (1, "a"))
    with pool.connection() as conn:
        conn.execute("select * from things for update")
        held_up = Attempt(pool.execute, "update things set tag = 'b' where id = 1")
        behind = [Attempt(pool.execute, INSERT, (number, "c")) for number in range(10, 60)]
        for one in behind:
            assert one.join().error is None
        assert not held_up.over
        conn.rollback()
    assert held_up.join().result.rowcount == 1
    assert done("b") == [1]
    assert done("c") == list(range(10, 60))


def test_with_one_connection_in_all_every_statement_gets_through(make_pool):
    pool = make_pool(max_size=1)

    def checkout(number):
        with pool.connection() as conn:
            return conn.execute("select %s::int", (number,)).fetchone() == (number,)

    def slow(_number):
        return pool.fetch_val("select pg_sleep(0.03) is not null")

    def fast(_number):
        return all(echo(pool) for _ in range(20))

    work = [checkout, fast, slow, fast]
    greenlets = [gevent.spawn(work[number % 4], number) for number in range(40)]
    assert all_true(greenlets)


def test_waiters_get_the_connection_that_statements_keep_busy(make_pool):
    pool = make_pool(max_size=1)
    stop = False

    def busy():
        while not stop:  # one after the other, so that there is always one under way
            assert pool.fetch_val("select pg_sleep(0.001) is not null")

    greenlets = [gevent.spawn(busy) for _ in range(20)]
    for _ in range(5):
        with pool.connection(timeout=10) as conn:
            assert conn.execute("select 5").fetchone() == (5,)
    stop = True
    gevent.joinall(greenlets, raise_error=True)


@pytest.mark.parametrize("number", [1, 3])
def test_no_more_connections_than_the_option_says_carry_statements(make_pool, number):
    pool = make_pool(min_size=4, max_size=4, statement_connections=number)
    wait_until(lambda: counts(pool).idle == 4)
    most = 0

    def ask():
        nonlocal most
        for _ in range(20):
            assert echo(pool)
            most = max(most, stats(pool).connections)
        return True

    assert all_true([gevent.spawn(ask) for _ in range(60)])
    assert most >= number  # more only while one of them is held up


def test_large_parameters_and_results_delay_no_other_statement_and_end_well(pool):
    text = "äx" * 500_000

    def large(number):
        sent = pool.fetch_val("select %s::text", (f"{number}{text}",))
        back = pool.fetch_val("select repeat(%s, 300000)", (f"{number}",))
        many = pool.fetch_all("select g, %s::text from generate_series(1, 5000) g", ("x" * 20,))
        return sent == f"{number}{text}" and back == f"{number}" * 300_000 and len(many) == 5000

    def medium(number):
        value = f"{number}" * 12_000
        return all(pool.fetch_val("select %s::text", (value,)) == value for _ in range(20))

    greenlets = [gevent.spawn(large, number) for number in range(6)]
    greenlets += [gevent.spawn(medium, number) for number in range(30)]
    greenlets += echoes(pool, 100)
    assert all_true(greenlets)
    wait_until(lambda: at_rest(pool))


def test_a_server_that_reads_nothing_and_one_that_is_not_read_do_not_wait_for_each_other(
    make_pool, proxy, dsn
):
    pool = make_pool(proxy.dsn(dsn), min_size=1, max_size=1, keepalive_interval=0)
    assert echo(pool)
    value = "x" * 60_000
    proxy.stall()
    work = [
        Attempt(lambda: pool.fetch_val("select %s || %s", (value, "y")) == value + "y")
        for _ in range(100)
    ]
    wait_until(lambda: stats(pool).outstanding > 1)
    gevent.sleep(0.05)
    # Bounded in bytes: the rest is not in anybody's memory twice.
    assert stats(pool).outstanding < 20
    assert stats(pool).waiting > 80
    proxy.resume()
    assert all(one.join().result for one in work)


def test_statements_sent_together_are_executed_in_the_order_of_the_calls(pool, done):
    for number in range(50):
        gevent.spawn(pool.execute, INSERT, (number, "a"))
    wait_until(lambda: len(done("a")) == 50)
    assert pool.fetch_all("select id from things where tag = 'a' order by ctid") == [
        (number,) for number in range(50)
    ]
    assert stats(pool).batch_max >= 32


def test_costly_statements_do_not_take_turns_though_the_hub_is_busy(make_pool):
    """The hub is late to look for each answer: that is not to be taken for the server's haste."""
    pool = make_pool(min_size=10, max_size=10)
    warm_up(pool)
    before = stats(pool)

    def compute():
        while True:
            until = time.monotonic() + 0.006
            while time.monotonic() < until:
                pass
            gevent.sleep(0.001)

    def work():
        for _ in range(20):
            pool.fetch_val("select pg_sleep(%s)::text", (0.005,))

    busy = gevent.spawn(compute)
    gevent.joinall([gevent.spawn(work) for _ in range(50)], raise_error=True)
    busy.kill()
    now = stats(pool)
    assert now.spilled - before.spilled > 2 * (now.sent - before.sent)
