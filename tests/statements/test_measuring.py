"""Single statements are measured and told of like those of a checkout."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.helpers import Attempt, active
from tests.statements.helpers import INSERT, all_true, cancel, echoes, sleeping, warm_up
from tests.support import wait_until


@pytest.fixture
def measured(make_pool):
    """Return a pool and the list of the statements that it has told of."""
    pool, told = make_pool(min_size=2, timings=True), []
    warm_up(pool)
    before = pool.stats().statement.count
    pool.add_listener(told.append, "statement")
    yield pool, told
    assert pool.stats().statement.count - before == len(told)


def test_each_is_measured_once(measured):
    pool, told = measured
    assert all_true(echoes(pool, 50))
    assert len(told) == 50
    pool.execute("select pg_sleep(0.02)")
    assert told[-1].seconds >= 0.02
    assert told[-1].pid == told[0].pid


def test_with_timings_only_each_is_measured_too(make_pool):
    pool = make_pool(timings=True)
    warm_up(pool)
    before = pool.stats().statement.count
    assert all_true(echoes(pool, 50))
    assert pool.stats().statement.count - before == 50
    pool.timings = False
    assert all_true(echoes(pool, 50))
    assert pool.stats().statement.count - before == 50


def test_they_are_told_without_their_parameters(measured, done):
    pool, told = measured
    pool.execute(INSERT, (1, "hunter2"))
    pool.fetch_all("select 1")
    pool.fetch_val(psycopg.sql.SQL("select {}::int").format(psycopg.sql.Placeholder()), (1,))
    with pytest.raises(psycopg.errors.DivisionByZero):
        pool.execute("select 1 / %s", (0,))
    texts = [INSERT, "select 1", "select %s::int", "select 1 / %s"]
    assert [event.statement for event in told] == texts
    assert [event.has_parameters for event in told] == [True, False, True, True]
    assert isinstance(told[-1].error, psycopg.errors.DivisionByZero)
    assert [event.error for event in told[:-1]] == [None] * 3
    assert "hunter2" not in repr(told)
    assert done("hunter2") == [1]


def test_statements_whose_caller_is_gone_are_told_with_the_reason(measured, admin):
    pool, told = measured
    killed = Attempt(pool.fetch_val, "select pg_sleep(60)")
    wait_until(lambda: sleeping(admin))
    killed.throw(gevent.GreenletExit())
    killed.join()
    with pytest.raises(geventpg.StatementTimeout):
        pool.fetch_val("select pg_sleep(60), 1", timeout=0.5)
    assert [type(event.error) for event in told] == [gevent.GreenletExit, geventpg.StatementTimeout]
    assert told[1].seconds >= 0.4


@pytest.mark.usefixtures("no_rescue")
def test_those_whose_connection_is_lost_are_told(measured, backends, admin):
    pool, told = measured
    sent = [Attempt(pool.fetch_val, f"select pg_sleep(60), {number}") for number in range(3)]
    wait_until(lambda: sleeping(admin))
    admin.execute("select pg_terminate_backend(%s)", (active(backends)[0].pid,))
    for one in sent:
        assert type(one.join().error) is geventpg.CommitUnknown
    assert [event.error for event in told] == [one.error for one in sent]


def test_what_was_not_sent_is_not_told(measured):
    pool, told = measured
    held = [pool.getconn() for _ in range(pool.max_size)]
    with pytest.raises(geventpg.PoolTimeout):
        pool.fetch_val("select 1", timeout=0.02)
    waiting = Attempt(pool.fetch_val, "select 1")
    wait_until(lambda: pool.statement_stats().waiting == 1)
    waiting.throw(gevent.GreenletExit())
    waiting.join()
    for conn in held:
        pool.putconn(conn)
    with pytest.raises(psycopg.ProgrammingError, match="adapt"):
        pool.fetch_val("select %s", (object(),))
    assert told == []


def test_one_that_is_taken_elsewhere_is_told_once(measured, admin):
    pool, told = measured
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    behind = echoes(pool, 40)
    assert all_true(behind)
    assert pool.statement_stats().moved > 0
    cancel(admin, slow)
    assert len(told) == 41
    assert [event.statement for event in told].count("select pg_sleep(60)") == 1


def test_one_whose_prepared_form_is_gone_is_told_once(measured):
    pool, told = measured
    for _ in range(10):
        assert pool.fetch_val("select %s::int", (1,)) == 1
    pool.execute("do $$ begin execute 'deallocate all'; end $$")
    assert pool.fetch_val("select %s::int", (1,)) == 1
    assert len(told) == 12
    assert not any(event.error for event in told)
