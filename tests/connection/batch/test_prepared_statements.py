"""Prepared statements of a batch: made, lost, stale, and what it takes for no caller to notice."""

from __future__ import annotations

import psycopg
import pytest

import geventpg
from tests.connection.batch.helpers import batch_of, check_pool, numbers, rows

SELECT = "select * from things where id = %s"
THEN = ("select count(*) from things",)


@pytest.fixture
def conn(make_pool, done):
    """Return the only connection of a pool, on which `SELECT` is prepared."""
    pool = make_pool(max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.execute(SELECT, (1,), prepare=True)
        assert names(conn) == {"select * from things where id = $1"}
        yield conn


def names(conn):
    query = "select statement from pg_prepared_statements where statement like '%things%'"
    return {row[0] for row in conn.execute(query, prepare=False)}


def damage(kind, conn, admin):
    if kind == "stale":
        admin.execute("alter table things add column more int default 7")
    else:
        conn.pgconn.exec_(b"DEALLOCATE ALL")  # behind psycopg's back
    if kind == "duplicate":
        conn._prepared._names.clear()
        conn._prepared._counts.clear()
        index = conn._prepared._prepared_idx
        conn.pgconn.exec_(f"PREPARE _pg3_{index} AS SELECT 1".encode())


KINDS = pytest.mark.parametrize("kind", ["lost", "stale", "duplicate"])


@KINDS
@pytest.mark.parametrize("atomic", [True, False])
def test_a_batch_is_sent_again_when_a_prepared_statement_is_of_no_use(conn, admin, kind, atomic):
    other = ("select count(*) + %s from things", (1,))
    conn.execute(*other)
    damage(kind, conn, admin)
    insert = ("insert into things (id, tag) values (%s, 'new')", (4711,))
    # Behind something that was done, and often enough to be prepared; so is another one.
    batch = batch_of(insert, *[(SELECT, (4711,))] * 8, THEN, *[other] * 8)
    results = conn.send_batch(batch, atomic=atomic)
    row = (4711, "new", 7) if kind == "stale" else (4711, "new")
    assert rows(results)[1:9] == [[row]] * 8
    assert results[9].rows == [(1,)]  # and it was done once
    with conn.transaction():
        conn.execute("select 1")  # so that nothing is healed any more
        assert conn.execute(*other).fetchone() == (2,)
    assert rows(conn.send_batch(numbers(9))) == [[(n,)] for n in range(9)]


def test_a_transactions_first_batch_is_sent_again(make_pool, done, admin):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        conn.execute(SELECT, (1,), prepare=True)
    with pool.connection() as conn:
        damage("stale", conn, admin)
        conn.send_batch(batch_of(("insert into things values (1, 'kept')"), (SELECT, (1,))))
        conn.execute("select 1")
    assert done("kept") == [1]


@KINDS
def test_inside_a_transaction_it_is_an_error_that_says_so(conn, admin, kind):
    with pytest.raises(geventpg.StaleStatement) as caught, conn.transaction():
        conn.execute("select 1")
        damage(kind, conn, admin)
        conn.send_batch(batch_of("select 1", *([(SELECT, (1,))] * 8)))
    assert 1 <= caught.value.index <= 6
    assert rows(conn.send_batch(batch_of((SELECT, (1,))))) == [[]]


def test_a_batch_that_failed_leaves_no_statement_that_is_not_there(conn):
    missing = ("select * from nowhere where id = %s", (1,))
    for _ in range(2):
        for batch in (batch_of(*[missing] * 8), batch_of("select 1/0", *[missing] * 8)):
            with pytest.raises(psycopg.Error):
                conn.send_batch(batch)
    conn.execute("create temporary table nowhere (id int)")
    with conn.transaction():
        conn.execute("select 1")
        assert rows(conn.send_batch(batch_of(*[missing] * 8))) == [[]] * 8


def test_ddl_in_a_batch_makes_no_statement_of_it_wrong(make_pool, done):
    pool = make_pool(max_size=1)
    # Large enough to have the answer to the DDL before the last of them is sent.
    slow = ("select repeat('x', 9000) from things where tag <> %s", ("y" * 60_000,))
    batch = batch_of(
        "insert into things values (1, 'a')",
        *[slow] * 8,
        "alter table things add column more int",
        *[slow] * 8,
        "alter table things drop column more",
        *[slow] * 200,
    )
    for _ in range(2):
        pool.send_batch(batch)
        with pool.connection() as conn:
            conn.execute("select 1")  # so that nothing is healed any more
            conn.send_batch(batch_of(*[slow] * 8))
    check_pool(pool)


def test_deallocating_in_a_batch_makes_no_statement_of_it_wrong(make_pool, done):
    pool = make_pool(max_size=1)
    batch = batch_of(*[(SELECT, (1,))] * 8, "deallocate all", *[(SELECT, (1,))] * 8)
    for _ in range(3):
        pool.send_batch(batch)
    check_pool(pool)


# -- psycopg's own pipelines ----------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("autocommit", [True, False])
def test_executemany_is_done_again_when_its_statement_is_of_no_use(
    make_pool, done, admin, kind, autocommit
):
    pool = make_pool(max_size=1, kwargs={"autocommit": autocommit})
    insert = "insert into things (id, tag) values (%s, 'many') returning *"
    with pool.connection() as conn:
        for _ in range(2):
            cur = conn.cursor()
            cur.executemany(insert, [(1,), (2,)], returning=True)
            conn.commit()
            damage(kind, conn, admin)
            admin.execute("alter table things drop column if exists more")
            cur.executemany(insert, [(3,), (4,)], returning=True)
            assert [one.fetchone()[0] for one in cur.results()] == [3, 4]
            conn.commit()
    assert done("many") == sorted([1, 2, 3, 4] * 2)


def test_executemany_inside_a_transaction_fails_with_it_and_says_so(conn, admin):
    with pytest.raises(geventpg.StaleStatement), conn.transaction():
        conn.execute("select 1")
        damage("stale", conn, admin)
        conn.cursor().executemany(SELECT, [(1,)])
    conn.cursor().executemany(SELECT, [(1,)])


def test_executemany_of_what_cannot_be_read_twice_is_not_done_again(conn):
    damage("lost", conn, None)
    with pytest.raises(geventpg.StaleStatement):
        conn.cursor().executemany(SELECT, iter([(1,)]))
    conn.cursor().executemany(SELECT, iter([(1,)]))


def test_executemany_that_failed_leaves_no_statement_that_is_not_there(conn):
    select, create = (
        "select * from fleeting where id = %s",
        "create temporary table fleeting (id int)",
    )
    conn.execute("deallocate all")
    conn.execute(create)
    conn.execute(select, (1,))
    conn.execute("drop table fleeting")
    with pytest.raises(psycopg.errors.UndefinedTable):
        conn.cursor().executemany(select, [(1,)])
    conn.execute(create)
    with conn.transaction():
        conn.execute("select 1")
        conn.execute(select, (1,))


@KINDS
def test_after_a_pipeline_that_met_such_a_statement_the_next_one_works(conn, admin, kind):
    damage(kind, conn, admin)
    for turn in range(3):
        try:
            with conn.pipeline():
                conn.execute(SELECT, (1,), prepare=True)
        except psycopg.Error:
            assert turn == 0
    assert conn.execute("select 1").fetchone() == (1,)
