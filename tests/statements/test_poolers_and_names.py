"""Behind PgBouncer, on named pools, and in processes without gevent."""

from __future__ import annotations

from functools import partial

import gevent
import psycopg
import pytest
from psycopg import pq

import geventpg
from tests.connection.helpers import Attempt
from tests.registry.test_without_gevent import START
from tests.statements.helpers import INSERT, all_true, at_rest, echo, echoes, sleeping, stats
from tests.support import wait_until
from tests.support.script import output_of


@pytest.fixture
def named(dsn):
    """Configure the default pool and another one; return their names."""
    geventpg.configure(dsn, min_size=1, max_size=3)
    geventpg.configure(dsn, name="other", min_size=1, max_size=1)
    yield ["default", "other"]
    geventpg.close_all()
    for name in ("default", "other"):
        geventpg.registry.pools.remove(name)


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"], indirect=True)
def test_behind_a_pooler_every_answer_is_right(make_pool, pooler, mode, done):
    size = 5 if mode == "session" else 10
    pool = make_pool(pooler.dsn, max_size=size, timeout=30, statement_connections=2)

    def work(number):
        for turn in range(10):
            value = number * 100 + turn
            assert pool.fetch_val("select %s::int", (value,)) == value
            assert pool.fetch_one("select %s::int, %s::text", (value, "x")) == (value, "x")
        pool.execute(INSERT, (number, "a"))
        with pytest.raises(psycopg.errors.DivisionByZero):
            pool.fetch_val("select 1/%s::int", (0,))

    gevent.joinall([gevent.spawn(work, number) for number in range(40)], raise_error=True)
    assert done("a") == list(range(40))


@pytest.mark.parametrize("prepare", ["auto", "never", "always"])
@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
def test_behind_a_pooler_no_two_statements_are_on_their_way_on_one_connection(
    make_pool, pooler, mode, prepare
):
    pool = make_pool(pooler.dsn, max_size=10, timeout=30, prepare=prepare)
    # PgBouncer may lose the answer of one that it has read a part of when the one before ends.
    assert all_true(echoes(pool, 100))
    assert stats(pool).sent == 0
    assert stats(pool).spilled == 100


@pytest.mark.parametrize("mode", ["transaction"], indirect=True)
def test_a_pooler_that_dies_loses_what_was_sent_and_nothing_else(make_pool, pooler, done, admin):
    pool = make_pool(pooler.dsn, max_size=2, timeout=30)
    assert echo(pool)
    slow = Attempt(pool.fetch_val, "select pg_sleep(0.2)")
    wait_until(lambda: sleeping(admin))
    work = [Attempt(pool.execute, INSERT, (number, "a")) for number in range(300)]
    pooler.kill()
    pooler.start()
    for one in [slow, *work]:
        assert one.join(30).error is None or isinstance(one.error, psycopg.OperationalError)
    was_done = done("a")
    assert len(was_done) == len(set(was_done))
    assert {n for n, one in enumerate(work) if one.error is None} <= set(was_done)
    wait_until(lambda: at_rest(pool))


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("lost", ["a result", "the end of an answer"])
def test_a_lost_answer_is_found_out_and_no_caller_gets_that_of_another(
    make_pool, monkeypatch, lost, idempotent
):
    pool = make_pool(max_size=2)
    assert echo(pool)
    everything = geventpg.statements.pipe.answers_of

    def all_but_one(pgconn, expected):
        answers = everything(pgconn, expected)
        if len(answers) > 10:
            is_sync = [answer[0].status == pq.ExecStatus.PIPELINE_SYNC for answer in answers]
            del answers[is_sync.index(lost == "the end of an answer", 4)]
            monkeypatch.undo()
        return answers

    monkeypatch.setattr(geventpg.statements.pipe, "answers_of", all_but_one)
    ask = partial(pool.fetch_val, "select %s::int", idempotent=idempotent)
    asking = [Attempt(ask, (n,)) for n in range(20)]
    for n, one in enumerate(asking):
        one.join(10)
        if one.error is None:
            assert one.result == n
        else:
            assert type(one.error) is geventpg.CommitUnknown
            assert "do not fit" in str(one.error)
    answered = sum(one.error is None for one in asking)
    assert answered == 20 if idempotent else answered < 18
    wait_until(lambda: at_rest(pool))


def test_the_functions_use_the_pool_of_that_name(named):
    for name in named:
        assert geventpg.fetch_val("select %s::int", (5,), name=name) == 5
        assert geventpg.fetch_one("select %s::int, 2", [5], name=name) == (5, 2)
        assert geventpg.fetch_all("select generate_series(1, 3)", name=name) == [(1,), (2,), (3,)]
        assert geventpg.execute("select 1 as a", name=name).description[0].name == "a"
    assert geventpg.get_pool("other").statement_stats().sent >= 1
    with pytest.raises(geventpg.NotConfigured):
        geventpg.fetch_val("select 1", name="unknown")


def test_a_statement_is_no_part_of_the_transaction_of_its_greenlet(named, done):
    with pytest.raises(RuntimeError), geventpg.get_conn() as conn:
        conn.execute("insert into things values (1, 'a')")
        geventpg.execute("insert into things values (2, 'a')")
        assert geventpg.fetch_val("select count(*) from things") == 1
        raise RuntimeError
    assert done("a") == [2]


def test_many_greenlets_share_the_connection_of_a_named_pool(named):
    pool = geventpg.get_pool("other")
    assert all_true(echoes(pool, 50))


WITHOUT_GEVENT = """
assert geventpg.fetch_val("select %s::int", (5,)) == 5
assert geventpg.fetch_one("select 1, %(a)s::text", {"a": "x"}) == (1, "x")
assert geventpg.fetch_all("select generate_series(1, 3)") == [(1,), (2,), (3,)]
assert geventpg.execute("create table if not exists alone (id int)").statusmessage
assert geventpg.execute("insert into alone values (1)").rowcount == 1
assert geventpg.execute("delete from alone").rowcount >= 1
geventpg.execute("vacuum alone")
geventpg.execute("drop table alone")
for query, error in {
    "begin": psycopg.ProgrammingError,
    "listen x": psycopg.ProgrammingError,
    "select 1/0": psycopg.errors.DivisionByZero,
    "insert into alone values (1)": psycopg.errors.UndefinedTable,
    "select pg_terminate_backend(pg_backend_pid())": geventpg.CommitUnknown,
}.items():
    try:
        geventpg.execute(query)
    except error:
        continue
    raise AssertionError(query)
started = time.monotonic()
try:
    geventpg.fetch_val("select pg_sleep(30)", timeout=0.2)
except geventpg.StatementTimeout:
    assert time.monotonic() - started < 20
else:
    raise AssertionError("no time-out")
assert in_thread(lambda: geventpg.fetch_val("select 7", timeout=20)) == 7
assert end_all_sessions()
assert geventpg.fetch_val("select 7") == 7
wait_until(all_back)
print("works")
"""


def test_without_gevent_each_has_a_connection_of_its_own(dsn):
    assert output_of(START + WITHOUT_GEVENT, dsn).strip() == "works"
