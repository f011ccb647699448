"""`Statement`: prepared once by the program, by each connection when it executes it first."""

from __future__ import annotations

import gevent
import psycopg
import pytest
from psycopg import sql

import geventpg
from geventpg.connection.base import BindableConnection

SUM = "select %s::int + %s::int"


def prepared(conn):
    query = "select statement from pg_prepared_statements where statement <> 'BEGIN' order by 1"
    return [text for (text,) in conn.execute(query, prepare=False)]


def modes(*names):
    return pytest.mark.parametrize("mode", names, indirect=True)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(
    "query",
    [SUM, SUM.encode(), sql.SQL(SUM), sql.SQL("select {} + {}").format(*[sql.SQL("%s::int")] * 2)],
    ids=["str", "bytes", "SQL", "Composed"],
)
def test_it_is_prepared_when_it_is_executed_first(make_pool, query, autocommit):
    pool = make_pool(max_size=1, kwargs={"autocommit": autocommit})
    statement = pool.prepare(query)
    with pool.connection() as conn:
        for i in range(3):
            assert conn.execute(statement, (i, 1)).fetchone() == (i + 1,)
            assert prepared(conn) == ["select $1::int + $2::int"]


def test_any_connection_executes_it(make_pool):
    pool = make_pool(min_size=4, max_size=4, kwargs={"autocommit": True})
    statement = pool.prepare(SUM)
    conns = [pool.getconn() for _ in range(4)]
    for i, conn in enumerate(conns):
        assert conn.execute(statement, [i, 1]).fetchone() == (i + 1,)
        assert prepared(conn) == ["select $1::int + $2::int"]
        pool.putconn(conn)


def test_names_as_placeholders_and_no_parameters_at_all(make_pool):
    pool = make_pool(max_size=1, kwargs={"autocommit": True})
    named, bare = pool.prepare("select %(a)s::int"), pool.prepare("select 10 % 4")
    with pool.connection() as conn:
        assert conn.execute(named, {"a": 5}).fetchone() == (5,)
        assert conn.execute(bare).fetchone() == (2,)
        assert prepared(conn) == ["select $1::int", "select 10 % 4"]


@pytest.mark.parametrize("way", ["executemany", "stream", "pipeline", "server-side cursor", "copy"])
def test_whatever_takes_a_text_takes_it(make_pool, way):
    pool = make_pool(max_size=1)
    statement = pool.prepare("select generate_series(1, %s::int)")
    rows = [(1,), (2,)]
    with pool.connection() as conn:
        cur = conn.cursor()
        if way == "executemany":
            cur.executemany(statement, [(2,)], returning=True)
            assert cur.fetchall() == rows
        elif way == "stream":
            assert list(cur.stream(statement, (2,))) == rows
        elif way == "pipeline":
            with conn.pipeline():
                cur.execute(statement, (2,))
            assert cur.fetchall() == rows
        elif way == "copy":
            with cur.copy(pool.prepare("copy (values (1), (2)) to stdout")) as copy:
                assert list(copy.rows()) == [("1",), ("2",)]
        else:
            with conn.cursor("named") as named:
                assert named.execute(statement, (2,)).fetchall() == rows


def test_unless_told_otherwise(make_pool):
    pool = make_pool(prepare="never", max_size=1, kwargs={"autocommit": True})
    statement = pool.prepare(SUM)
    with pool.connection() as conn:
        assert conn.execute(statement, (1, 2)).fetchone() == (3,)
        assert prepared(conn) == []
    with make_pool(max_size=1, kwargs={"autocommit": True}).connection() as conn:
        assert conn.execute(statement, (1, 2), prepare=False).fetchone() == (3,)
        assert prepared(conn) == []


@modes("session", "transaction", "statement")
def test_behind_a_pooler_it_is_executed_unprepared(make_pool, pooler, mode):
    size = 5 if mode == "session" else 20
    pool = make_pool(pooler.dsn, min_size=size, max_size=size, kwargs={"autocommit": True})
    statement = pool.prepare(SUM)

    def work(number):
        for i in range(20):
            with pool.connection() as conn:
                assert conn.execute(statement, (number, i)).fetchone() == (number + i,)

    gevent.joinall([gevent.spawn(work, number) for number in range(40)], raise_error=True)
    with pool.connection() as conn:
        assert prepared(conn) == []


@pytest.mark.parametrize("autocommit", [True, False])
def test_one_that_is_lost_or_stale_is_prepared_anew(make_pool, admin, autocommit):
    pool = make_pool(max_size=1, kwargs={"autocommit": autocommit})
    admin.execute("drop table if exists stale; create table stale (a int)")
    admin.execute("insert into stale values (1)")
    statement = pool.prepare("select * from stale")
    try:
        for number in range(3):
            with pool.connection() as conn:
                assert conn.execute(statement).fetchone() == (1, *[None] * number)
                conn.commit()
                conn.pgconn.exec_(b"discard all")
                assert conn.execute(statement).fetchone() == (1, *[None] * number)
                conn.commit()
                assert conn.execute(statement).fetchone() == (1, *[None] * number)
                assert prepared(conn) == ["select * from stale"]
            admin.execute(f"alter table stale add column c{number} int")
        assert pool.get_stats()["statements_healed"] == 3  # one lost, two stale
        assert pool.get_stats()["statements_lost"] == 0
    finally:
        admin.execute("drop table stale")


@pytest.mark.parametrize("prepare", [None, True])
def test_on_a_connection_of_psycopgs_it_is_what_its_text_is(dsn, prepare):
    statement = geventpg.Statement(SUM)
    for cls in (psycopg.Connection, BindableConnection):
        with cls.connect(dsn, autocommit=True) as conn:
            for i in range(7):
                assert conn.execute(statement, (i, 1), prepare=prepare).fetchone() == (i + 1,)
                wanted = prepare or i >= 5
                assert prepared(conn) == ["select $1::int + $2::int"] * wanted


def test_it_shows_its_text_and_is_equal_to_itself_written_again():
    one, other = geventpg.Statement("select 1"), geventpg.Statement("select 1")
    assert one == other
    assert "select 1" in repr(one)
    assert one.as_string() == "select 1"


@pytest.mark.parametrize("query", [None, 5, object(), ["select 1"]])
def test_what_is_no_statement_is_refused_at_once(make_pool, query):
    with pytest.raises(TypeError, match="a statement is"):
        make_pool().prepare(query)
