"""Batches behind a real PgBouncer, which may die at any time."""

from __future__ import annotations

import itertools

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.batch.helpers import INSERT, batch_of, check_pool, inserts, rows
from tests.connection.helpers import Attempt, active
from tests.statements.helpers import sleeping
from tests.support import wait_until
from tests.support.pools import terminate

SIZE = 50
ALL = list(range(SIZE))


def modes(*names):
    return pytest.mark.parametrize("mode", names, indirect=True)


@modes("session", "transaction", "statement")
def test_many_greenlets_send_batches_through_few_server_connections(make_pool, pooler, mode):
    size = 5 if mode == "session" else 10
    pool = make_pool(pooler.dsn, max_size=size, timeout=30)
    both = (False,) if mode == "statement" else (True, False)

    def work(number):
        batch = batch_of(*[("select %s::int, %s::int", (number, i)) for i in range(40)])
        for atomic in both * 3:
            expected = [[(number, i)] for i in range(40)]
            assert rows(pool.send_batch(batch, atomic=atomic)) == expected

    gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)


@modes("statement")
def test_statement_pooling_refuses_all_or_nothing_and_says_why(make_pool, pooler, done):
    pool = make_pool(pooler.dsn, max_size=1)
    with pytest.raises(psycopg.OperationalError, match="transaction blocks not allowed"):
        pool.send_batch(inserts("lost"))
    assert done("lost") == []
    pool.send_batch(inserts("kept"), atomic=False)
    assert done("kept") == ALL


@modes("transaction")
@pytest.mark.parametrize("atomic", [True, False], ids=["all or nothing", "each"])
def test_a_pooler_killed_in_the_middle_of_a_batch(make_pool, pooler, done, admin, atomic):
    pool = make_pool(pooler.dsn, max_size=1, timeout=30)
    for slow in (0, 17, SIZE - 1):
        batch = geventpg.Batch()
        for number in ALL:
            batch.queue(INSERT, (number, str(slow)))
            if number == slow:
                batch.queue("select pg_sleep(0.2)")
        sending = Attempt(lambda: pool.send_batch(batch, atomic=atomic))  # noqa: B023
        wait_until(lambda: sleeping(admin), message="it is in the middle")
        pooler.kill()
        sending.join()
        pooler.start()
        # The server finds out when it has something to say.
        wait_until(lambda: not sleeping(admin), message="the server has given up")
        if atomic:
            assert isinstance(sending.error, psycopg.OperationalError)
            assert not isinstance(sending.error, geventpg.CommitUnknown)
            assert done(str(slow)) == []
        else:
            assert len(sending.result) == SIZE + 1
            executed = [result.rows for result in sending.result if result.error is None]
            assert [[(number,)] for number in done(str(slow))[: len(executed)]] == executed
            assert {type(result.error) for result in sending.result} <= {
                *(type(None), geventpg.CommitUnknown, geventpg.NotExecuted)
            }
        check_pool(pool)


@modes("transaction")
def test_a_statement_that_cannot_be_sent_does_not_hold_up_the_next(make_pool, pooler, done):
    pool = make_pool(pooler.dsn, max_size=1)
    batch = batch_of((INSERT, (1, "a")), ("select %s", (object(),)), (INSERT, (2, "a")))
    sending = Attempt(lambda: pool.send_batch(batch, atomic=False))
    first, second, third = sending.join(10).result
    assert first.error is None
    assert isinstance(second.error, psycopg.ProgrammingError)
    assert third.error is None
    assert done("a") == [1, 2]


@modes("transaction")
def test_a_server_connection_that_dies_behind_the_pooler(make_pool, pooler, done, admin):
    pool = make_pool(pooler.dsn, max_size=1)
    batch = batch_of((INSERT, (1, "a")), "select pg_sleep(5)", (INSERT, (2, "a")))
    for atomic in (True, False):
        sending = Attempt(lambda: pool.send_batch(batch, atomic=atomic))  # noqa: B023
        (pid,) = wait_until(lambda: sleeping(admin))
        admin.execute("select pg_terminate_backend(%s)", (pid,))
        sending.join()
        if atomic:
            assert isinstance(sending.error, psycopg.OperationalError)
            assert done("a") == []
        else:
            first, second, third = sending.result
            # One at a time: PgBouncer may mix up those it has read a part of.
            assert first.error is None
            assert type(second.error) is geventpg.CommitUnknown
            assert type(third.error) is geventpg.NotExecuted
            assert done("a") == [1]
        check_pool(pool)


# -- the server itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False], ids=["all or nothing", "each"])
def test_a_backend_that_is_terminated_says_so(make_pool, done, admin, backends, atomic):
    pool = make_pool(max_size=1)
    batch = batch_of((INSERT, (1, "a")), "select pg_sleep(5)", (INSERT, (2, "a")))
    sending = Attempt(lambda: pool.send_batch(batch, atomic=atomic))
    wait_until(lambda: sleeping(admin))
    admin.execute("select pg_terminate_backend(%s)", (active(backends)[0].pid,))
    sending.join()
    if atomic:
        assert isinstance(sending.error, psycopg.errors.AdminShutdown)
        assert sending.error.index in (0, 1)
        assert done("a") == []
    else:
        unknown = sending.result[1].error
        assert isinstance(unknown, geventpg.CommitUnknown)
        assert isinstance(unknown.__cause__, psycopg.errors.AdminShutdown)
        assert done("a") == [1]
    check_pool(pool)


def test_a_server_that_left_before_is_heard_even_if_nothing_can_be_written(dsn, admin):
    with geventpg.Connection.connect(dsn, autocommit=True, prepare_threshold=None) as conn:
        terminate(admin, conn.info.backend_pid)
        batch = batch_of(*[("select length(%s)", ("x" * 60_000,))] * 200)
        with pytest.raises(psycopg.errors.AdminShutdown):
            conn.send_batch(batch)


def test_batches_while_the_server_restarts_end_as_reported(make_pool, embedded_pg):
    pool = make_pool(embedded_pg.dsn, max_size=4, timeout=30)
    with embedded_pg.connect() as conn:
        conn.execute("create table things (id int, tag text)")
    reported, failed = set(), []
    stop = False

    def work(number):
        for turn in itertools.count():
            tag = f"{number}.{turn}"
            try:
                pool.send_batch(inserts(tag, 5))
            except psycopg.OperationalError as error:
                failed.append(error)
            else:
                reported.add(tag)
            if stop:
                return

    workers = [gevent.spawn(work, number) for number in range(8)]
    wait_until(lambda: len(reported) > 10)
    embedded_pg.restart("fast")
    before = len(reported)
    wait_until(lambda: len(reported) > before + 10, timeout=30)
    stop = True
    gevent.joinall(workers, raise_error=True)
    with embedded_pg.connect() as conn:
        counts = dict(conn.execute("select tag, count(*) from things group by tag"))
        conn.execute("drop table things")
    unknown = [error for error in failed if isinstance(error, geventpg.CommitUnknown)]
    assert set(counts.values()) == {5}
    assert reported <= counts.keys()
    assert len(counts.keys() - reported) <= len(unknown)
    check_pool(pool)
