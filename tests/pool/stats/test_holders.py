"""The holders, the waiters, and what runs: found out when the program asks."""

from __future__ import annotations

import time

import gevent
import pytest
from psycopg import sql

import geventpg
from geventpg.pool.work import doing
from tests.support.waiting import wait_until

SECRET = "hunter2"


def test_a_fresh_pool_has_no_holders(make_pool):
    pool = make_pool()
    assert pool.holders() == pool.waiters() == ()


def test_a_holder_is_told_with_its_backend_greenlet_and_age(make_pool):
    pool = make_pool()
    with pool.connection() as conn:
        before = time.time()
        (holder,) = pool.holders()
        assert holder.pid == conn.info.backend_pid
        assert holder.greenlet == "main"
        assert holder.seconds < 5
        assert abs(holder.since + holder.seconds - before) < 1
        assert (holder.task, holder.task_id, holder.statement) == (None, None, None)
        assert holder.transaction == "IDLE"
        conn.execute("select 1")
        assert pool.holders()[0].transaction == "INTRANS"
    assert pool.holders() == ()


def test_the_longest_holder_comes_first(make_pool):
    pool = make_pool(min_size=3)
    pool.wait()
    conns = [pool.getconn() for _ in range(3)]
    assert [h.pid for h in pool.holders()] == [c.info.backend_pid for c in conns]
    for conn in conns:
        pool.putconn(conn)


def execute(conn, query):
    conn.execute(query, [2])


def execute_with_a_cursor_of_another_class(conn, query):
    import psycopg

    psycopg.ClientCursor(conn).execute(query, [2])


def execute_many(conn, query):
    conn.cursor().executemany(query, [[2], [2]])


def execute_a_composed_one(conn, query):
    first, second = query.split("%s")
    conn.execute(sql.SQL(first + "{}" + second).format(sql.Literal(2)))


def execute_a_statement(conn, query):
    conn.execute(geventpg.Statement(query), [2])


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        (execute, "select pg_sleep(%s), 'x'"),
        (execute_with_a_cursor_of_another_class, "select pg_sleep(%s), 'x'"),
        (execute_many, "select pg_sleep(%s), 'x'"),
        (execute_a_composed_one, "select pg_sleep(?), 'x'"),
        (execute_a_statement, "select pg_sleep(%s), 'x'"),
    ],
)
def test_the_statement_that_runs_is_told_without_its_parameters(make_pool, run, shown):
    pool = make_pool()

    def work():
        with pool.connection() as conn:
            run(conn, "select pg_sleep(%s), 'x'")

    worker = gevent.spawn(work)
    wait_until(lambda: pool.holders() and pool.holders()[0].transaction == "ACTIVE")
    (holder,) = pool.holders()
    assert holder.statement == shown
    assert holder.greenlet.startswith("Greenlet-")
    assert holder.greenlet.endswith("work")
    worker.kill()


def test_the_commit_that_runs_is_told(make_pool, backends):
    pool = make_pool()
    with pool.connection() as conn:
        conn.execute(
            "create temporary table slow (id int);"
            " create function pg_temp.dawdle() returns trigger language plpgsql as"
            " 'begin perform pg_sleep(5); return null; end';"
            " create constraint trigger dawdle after insert on slow initially deferred"
            " for each row execute function pg_temp.dawdle();"
        )
        conn.commit()

        def work():
            conn.execute("insert into slow values (1)")
            conn.commit()

        worker = gevent.spawn(work)
        wait_until(lambda: pool.holders()[0].statement == "COMMIT")
        worker.kill()


def test_a_greenlets_arguments_are_not_shown(make_pool):
    pool = make_pool(max_size=1)

    def work(_password):
        with pool.connection() as conn:
            conn.execute("select pg_sleep(10)")

    holder, waiter = (gevent.spawn(work, SECRET) for _ in range(2))
    wait_until(lambda: pool.holders() and pool.waiters())
    assert SECRET not in repr((pool.holders(), pool.waiters(), pool.stats()))
    gevent.killall([holder, waiter])


def test_waiters_are_told_in_line_with_what_is_left_to_them(make_pool):
    pool = make_pool(max_size=1, timeout=30)

    def wait(name):
        with doing(name, f"id-{name}"), pool.connection():
            pass

    with pool.connection():
        waiting = [gevent.spawn(wait, name) for name in ("first", "second")]
        wait_until(lambda: len(pool.waiters()) == 2)
        first, second = pool.waiters()
        assert (first.task, first.task_id) == ("first", "id-first")
        assert (second.task, second.task_id) == ("second", "id-second")
        assert 0 < first.remaining <= 30
        assert first.seconds >= 0
        assert first.greenlet.startswith("Greenlet-")
    gevent.joinall(waiting, raise_error=True)
    assert pool.waiters() == ()


def test_a_connection_just_handed_over_is_not_its_last_holders_any_more(make_pool):
    pool = make_pool(max_size=1)
    seen = []

    def wait():
        with doing("next"), pool.connection():
            seen.append(pool.holders())

    with doing("last"):
        conn = pool.getconn()
        waiter = gevent.spawn(wait)
        wait_until(pool.waiters)
        pool.putconn(conn)
        # The next one has not run yet, but the connection is taken.
        (holder,) = pool.holders()
        assert holder.task is None
        waiter.join()
    assert seen[0][0].task == "next"


def test_what_a_greenlet_works_on_can_be_nested_and_ends_with_the_block(make_pool):
    pool = make_pool()
    with pool.connection():
        with doing("outer", "1"):
            with pytest.raises(gevent.Timeout), doing("inner"):
                assert pool.holders()[0].task == "inner"
                raise gevent.Timeout
            assert (pool.holders()[0].task, pool.holders()[0].task_id) == ("outer", "1")
        assert pool.holders()[0].task is None


@pytest.mark.parametrize("has_to_wait", [False, True])
def test_the_pool_does_not_keep_a_greenlet_that_holds_a_connection(make_pool, has_to_wait):
    """A raw greenlet without references ends, and gives back what it has."""
    import greenlet

    pool = make_pool(min_size=0 if has_to_wait else 1)
    pool.wait()

    def work():
        with pool.connection():
            gevent.getcurrent().parent.switch()

    raw = greenlet.greenlet(work)
    raw.switch()
    wait_until(lambda: pool.holders() and pool.holders()[0].greenlet.startswith("greenlet "))
    del raw
    wait_until(lambda: pool.holders() == ())


def test_holders_and_waiters_become_plain_dicts(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection():
        waiter = gevent.spawn(pool.getconn, 10)
        wait_until(pool.waiters)
        assert pool.holders()[0].as_dict()["transaction"] == "IDLE"
        assert pool.waiters()[0].as_dict()["greenlet"].startswith("Greenlet-")
        waiter.kill()
