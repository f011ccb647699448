"""Statements and the life of their pool: drained, shrunk, aged, closed, forked, failed over."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import gevent
import psycopg
import pytest

import geventpg
from tests.connection.helpers import Attempt, active
from tests.pool.test_threads_and_forks import in_thread, run_script
from tests.statements.helpers import INSERT, all_true, at_rest, echo, echoes, sleeping, stats
from tests.support import wait_until
from tests.support.pools import backend_pid, counts


class Busy:
    """Greenlets that send statements all the time, as long as the block lasts."""

    def __init__(self, pool, number=10):
        self._pool = pool
        self._number = number
        self.done = 0
        self.errors = []

    def __enter__(self):
        self._stop = False
        self._greenlets = [gevent.spawn(self._work) for _ in range(self._number)]
        self.progress()
        return self

    def __exit__(self, *_exc_info):
        self._stop = True
        gevent.joinall(self._greenlets, raise_error=True)

    def _work(self):
        while not self._stop:
            try:
                assert echo(self._pool)
                self.done += 1
            except psycopg.Error as error:
                self.errors.append(error)
                return

    def progress(self):
        """Wait until more is done."""
        before = self.done
        wait_until(lambda: self.done > before + 50 or self.errors)


def test_nothing_connects_before_the_first_statement(make_pool, backends):
    pool = make_pool(min_size=0)
    assert not backends()
    assert all_true(echoes(pool, 20))
    assert counts(pool).size == 1
    assert stats(pool).connections == 0


def test_idle_the_connection_is_the_pools_like_any_other(make_pool):
    pool = make_pool(max_size=1)
    for _ in range(3):
        assert all_true(echoes(pool, 20))
        with pool.connection(timeout=5) as conn:
            assert conn.execute("select 5").fetchone() == (5,)
            assert conn.pgconn.pipeline_status == 0
    assert counts(pool)[:3] == (1, 1, 0)


def test_the_sums_hold_at_every_moment_and_the_numbers_are_told(pool):
    with Busy(pool, 50) as busy:
        for _ in range(20):
            now, told = counts(pool), pool.get_stats()
            assert now.idle + now.in_use + now.connecting == now.size <= now.max_size
            assert told["pool_size"] == now.size
            busy.progress()
        told = pool.get_stats()
        assert told["statements_sent"] + told["statements_spilled"] >= busy.done
        assert told["statements_batch_max"] > 1
        assert told["statements_batches"] < told["statements_sent"]
    wait_until(lambda: at_rest(pool))
    assert pool.pop_stats()["statements_sent"] > 0
    assert pool.get_stats()["statements_sent"] == 0
    assert stats(pool).sent > 0  # those of `stats` run on
    names = {f"statements_{field.name}" for field in dataclasses.fields(stats(pool))}
    assert names <= pool.get_stats().keys()
    assert pool.stats().statements == stats(pool)


@pytest.mark.parametrize("how", ["drained", "aged"])
def test_a_busy_connection_is_replaced_without_a_word(make_pool, backends, how):
    options = {"max_lifetime": 0.3} if how == "aged" else {}
    pool = make_pool(min_size=1, max_size=3, **options)
    with Busy(pool) as busy:
        before = {backend.pid for backend in backends()}
        if how == "drained":
            pool.drain()
        wait_until(lambda: not before & {backend.pid for backend in backends()}, timeout=10)
        busy.progress()
    assert not busy.errors


def test_a_pool_that_shrinks_keeps_its_promise(make_pool):
    pool = make_pool(min_size=4, max_size=4, statement_connections=3)
    with Busy(pool, 60) as busy:
        pool.resize(1, 1)
        wait_until(lambda: counts(pool).size == 1)
        busy.progress()
    assert not busy.errors


def test_closed_it_answers_what_was_sent_and_refuses_the_rest(make_pool, done, backends):
    pool = make_pool(min_size=1, max_size=2)
    assert echo(pool)
    query = "insert into things select %s, 'a' || pg_sleep(0.03)::text"
    sent = [Attempt(pool.execute, query, (number,)) for number in range(3)]
    wait_until(lambda: stats(pool).outstanding == 3)
    pool.close()
    with pytest.raises(geventpg.PoolClosed):
        pool.fetch_val("select 1")
    for one in sent:
        # The one that holds up the others is not executed elsewhere: there is no elsewhere.
        assert one.join().error is None or isinstance(one.error, geventpg.PoolClosed)
    assert len(done("a")) == sum(one.error is None for one in sent)
    wait_until(lambda: not backends())


def test_waiters_of_a_closed_pool_are_told(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection():
        waiting = [Attempt(echo, pool) for _ in range(3)]
        wait_until(lambda: stats(pool).waiting == 3)
        pool.close()
        for one in waiting:
            assert type(one.join().error) is geventpg.PoolClosed


def test_after_an_abort_no_greenlet_waits_on_and_nothing_is_left_running(pool, backends, admin):
    slow = Attempt(pool.fetch_val, "select pg_sleep(60)")
    behind = [Attempt(echo, pool) for _ in range(5)]
    wait_until(lambda: sleeping(admin))
    pool.abort()
    for one in [slow, *behind]:
        assert isinstance(one.join().error, (geventpg.CommitUnknown, geventpg.PoolClosed))
    wait_until(lambda: not active(backends))


def test_a_server_that_refuses_says_so_at_once(pg, make_pool):
    pool = make_pool(psycopg.conninfo.make_conninfo(pg.dsn, dbname="nosuch"), timeout=30)
    for one in [Attempt(echo, pool) for _ in range(5)]:
        assert type(one.join(10).error) is geventpg.ConnectRejected
    pool.close()


def test_max_waiting_is_for_statements_too(make_pool):
    pool = make_pool(max_size=1, max_waiting=2)
    with pool.connection():
        waiting = [Attempt(echo, pool) for _ in range(3)]
        assert type(waiting[2].join().error) is geventpg.TooManyRequests
    assert all(one.join().result for one in waiting[:2])


def test_statements_of_another_thread_or_the_hub_are_a_clear_error(pool):
    assert isinstance(in_thread(lambda: pool.fetch_val("select 1")), geventpg.WrongHub)
    told = []

    def in_hub():
        try:
            pool.fetch_val("select 1")
        except geventpg.WrongHub as error:
            told.append(error)

    gevent.get_hub().loop.run_callback(in_hub)
    wait_until(lambda: told)


def test_greenlets_that_a_greenlet_leaves_behind_have_statements_of_their_own(pool, done):
    def parent():
        for number in range(10):
            gevent.spawn(pool.execute, INSERT, (number, "a"))

    gevent.spawn(parent).join()
    wait_until(lambda: done("a") == list(range(10)))


def test_a_raw_greenlet_may_ask_too(pool):
    import greenlet

    answers = []
    raw = greenlet.greenlet(lambda: answers.append(echo(pool)), gevent.get_hub())
    gevent.get_hub().loop.run_callback(raw.switch)
    wait_until(lambda: answers == [True])


def test_errors_that_end_raw_greenlets_disturb_no_other_greenlet(pool, capsys):
    import greenlet

    def fail():
        assert echo(pool)
        raise LookupError("of a raw greenlet")

    hub = gevent.get_hub()
    raw = [greenlet.greenlet(fail, hub) for _ in range(20)]
    for one in raw:
        hub.loop.run_callback(one.switch)
    assert all_true(echoes(pool, 20))
    wait_until(lambda: all(one.dead for one in raw))
    assert all_true(echoes(pool, 20))
    assert capsys.readouterr().err.count("LookupError: of a raw greenlet") == 20


def test_a_pool_that_is_not_closed_can_be_collected(dsn):
    pool = geventpg.Pool(dsn, min_size=1, max_size=2, open=True)
    assert all_true(echoes(pool, 5))
    reference = weakref.ref(pool)
    del pool

    def gone():
        gc.collect()
        return reference() is None

    wait_until(gone)


def test_after_a_fork_parent_and_child_send_statements_of_their_own(dsn, backends):
    body = """
        pool = Pool(dsn, min_size=1, max_size=2, open=True)
        pool.fetch_val("select 1")
        pid = pool.fetch_val("select pg_backend_pid()")
        others = [gevent.spawn(pool.fetch_val, "select pg_sleep(0.3)") for _ in range(3)]
        gevent.sleep(0.1)
        child = os.fork()
        if child == 0:
            assert "size=0" in repr(pool), pool
            asking = [gevent.spawn(pool.fetch_val, "select pg_backend_pid()") for _ in range(9)]
            gevent.joinall(asking, raise_error=True)
            assert pid not in {one.value for one in asking}
            assert pool.get_stats()["statements_outstanding"] == 0
            print("child works", flush=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        gevent.joinall(others, raise_error=True)
        assert pool.fetch_val("select 7") == 7
        pool.close()
    """
    run = run_script(body, dsn)
    assert (run.returncode, run.stderr) == (0, "")
    assert "child works" in run.stdout
    wait_until(lambda: not backends())


def test_a_server_that_takes_no_more_writes_is_left(make_pool, done):
    pool = make_pool(min_size=1, max_size=2, kwargs={"autocommit": True})
    assert echo(pool)
    with pool.connection() as conn:
        before = backend_pid(conn)
        conn.pgconn.exec_(b"set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        pool.execute(INSERT, (1, "a"))
    wait_until(lambda: pool.fetch_val("select pg_backend_pid()") != before)
    pool.execute(INSERT, (2, "a"))
    assert done("a") == [2]


def test_connections_that_the_pool_closes_are_freed_with_all_that_is_known_of_them(pool):
    with pool.connection() as conn:
        reference = weakref.ref(conn)
    del conn
    assert all_true(echoes(pool, 10))
    wait_until(lambda: at_rest(pool))
    gc.disable()
    try:
        pool.drain()
        wait_until(lambda: reference() is None)
    finally:
        gc.enable()


def test_a_greenlet_that_uses_a_shared_connection_directly_takes_turns_with_the_statements(pool):
    answers = []

    def secretive(cursor):
        def make(values):
            answers.append(cursor.connection.execute("select 9").fetchone())
            return values

        return make

    asking = [gevent.spawn(pool.fetch_one, "select 7", row_factory=secretive) for _ in range(5)]
    assert all_true(echoes(pool, 30))
    gevent.joinall(asking, raise_error=True)
    assert [one.value for one in asking] == [(7,)] * 5
    assert answers == [(9,)] * 5
    wait_until(lambda: at_rest(pool))


def test_what_waits_to_be_sent_when_the_process_forks_is_sent_by_the_parent_only(dsn, done):
    body = """
        pool = Pool(dsn, min_size=1, max_size=2, open=True)
        assert pool.fetch_val("select 1") == 1
        gevent.sleep(0.05)
        def write(number):
            pool.execute("insert into things values (%s, 'a')", (number,))
        def fork():
            child = os.fork()
            if child == 0:
                gevent.sleep(0.3)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        writers = [gevent.spawn(write, number) for number in range(5)]
        gevent.joinall([*writers, gevent.spawn(fork)], raise_error=True)
        pool.close()
    """
    run = run_script(body, dsn)
    assert (run.returncode, run.stderr) == (0, "")
    assert done("a") == list(range(5))
