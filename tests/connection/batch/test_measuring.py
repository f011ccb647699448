"""A batch is measured and told of as a whole, and without its parameters."""

from __future__ import annotations

from functools import partial

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.batch.helpers import INSERT, batch_of, inserts, numbers
from tests.connection.helpers import Attempt
from tests.statements.helpers import sleeping
from tests.support import wait_until

SLEEP = "select pg_sleep(60)"


@pytest.fixture
def measured(make_pool):
    """Return a pool and the list of the batches that it has told of."""
    pool, told = make_pool(min_size=2, max_size=2, timings=True), []
    pool.wait()
    before = pool.stats().statement.count
    pool.add_listener(told.append, "batch")
    yield pool, told
    assert pool.stats().statement.count - before == len(told)


@pytest.mark.parametrize("atomic", [True, False])
def test_each_is_measured_once(measured, atomic):
    pool, told = measured
    pool.send_batch(numbers(300), atomic=atomic)
    pool.send_batch(batch_of("select 1", "select pg_sleep(0.02)"), atomic=atomic)
    assert [len(event.statements) for event in told] == [300, 2]
    assert told[1].seconds >= 0.02
    assert [event.error for event in told] == [None, None]
    assert told[0].pid == told[0].connection.info.backend_pid


def test_with_timings_only_each_is_measured_too(make_pool):
    pool = make_pool(timings=True)
    pool.wait()
    before = pool.stats().statement.count
    pool.send_batch(numbers(300))
    assert pool.stats().statement.count - before == 1
    pool.timings = False
    pool.send_batch(numbers(300))
    assert pool.stats().statement.count - before == 1


def test_they_are_told_without_their_parameters(measured, done):
    pool, told = measured
    pool.send_batch(inserts("hunter2", 2))
    pool.send_batch(batch_of("select 1", ("select %s::text", ("hunter2",))))
    assert [event.statements for event in told] == [[INSERT] * 2, ["select 1", "select %s::text"]]
    assert [event.has_parameters for event in told] == [True, False]
    assert told[0].statement is None
    assert "hunter2" not in repr(told)
    assert done("hunter2") == [0, 1]


def test_those_that_fail_are_told_with_the_error(measured):
    pool, told = measured
    failing = batch_of("select 1", ("select 1 / %s", (0,)), "select 'a'::int")
    with pytest.raises(psycopg.errors.DivisionByZero) as raised:
        pool.send_batch(failing)
    results = pool.send_batch(failing, atomic=False)
    assert told[0].error is raised.value
    assert told[1].error is results[1].error
    assert isinstance(results[2].error, psycopg.errors.InvalidTextRepresentation)


@pytest.mark.parametrize("atomic", [True, False])
def test_those_that_are_killed_are_told_with_the_reason(measured, admin, atomic):
    pool, told = measured
    killed = Attempt(partial(pool.send_batch, atomic=atomic), batch_of("select 1", SLEEP))
    wait_until(lambda: sleeping(admin))
    killed.throw(gevent.GreenletExit())
    killed.join()
    assert isinstance(told[0].error, gevent.GreenletExit)


@pytest.mark.parametrize("atomic", [True, False])
def test_those_whose_connection_is_lost_are_told(measured, admin, atomic):
    pool, told = measured
    lost = Attempt(partial(pool.send_batch, atomic=atomic), batch_of("select 1", SLEEP))
    wait_until(lambda: sleeping(admin))
    admin.execute("select pg_terminate_backend(%s)", (sleeping(admin)[0],))
    lost.join()
    assert told[0].error is (lost.error if atomic else lost.result[1].error)


def test_what_was_not_sent_is_not_told(measured):
    pool, told = measured
    assert pool.send_batch(geventpg.Batch()) == []
    with pool.connection(), pool.connection(), gevent.Timeout(0.05, False):
        pool.send_batch(numbers(3))
    assert told == []


def test_one_that_is_sent_again_is_told_once(measured):
    pool, told = measured
    for _ in range(10):
        pool.send_batch(numbers(1))
    pool.send_batch(batch_of("do $$ begin execute 'deallocate all'; end $$"))
    pool.send_batch(numbers(1))
    assert len(told) == 12
    assert [event.error for event in told] == [None] * 12
    assert pool.get_stats()["statements_healed"] == 1
