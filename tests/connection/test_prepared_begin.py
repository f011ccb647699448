"""BEGIN is prepared once per connection, and nobody can tell but pg_prepared_statements."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import IsolationLevel

import geventpg

IDLE = psycopg.pq.TransactionStatus.IDLE
INTRANS = psycopg.pq.TransactionStatus.INTRANS


@pytest.fixture
def conn(dsn):
    """Return a connection that knows that no pooler is in between."""
    with geventpg.Connection.connect(dsn) as conn:
        conn.execute("select 'known'", prepare=True)
        conn.commit()
        yield conn


def transaction(conn, query="select 1", params=None):
    row = conn.execute(query, params).fetchone()
    assert conn.info.transaction_status == INTRANS
    conn.commit()
    assert conn.info.transaction_status == IDLE
    return row


def prepared(conn):
    query = "select name, statement from pg_prepared_statements where name !~ '^_pg3' order by 1"
    rows = conn.execute(query).fetchall()
    conn.rollback()
    return rows


def test_begin_is_not_prepared_before_something_else_is(dsn):
    with geventpg.Connection.connect(dsn) as conn:
        for _ in range(3):
            transaction(conn)
        assert prepared(conn) == []


def test_begin_is_prepared_once(conn):
    for number in range(3):
        assert transaction(conn, "select %s::int", [number]) == (number,)
    assert prepared(conn) == [("_geventpg_begin", "BEGIN")]


@pytest.mark.parametrize("how", ["discard all", "deallocate all", "deallocate _geventpg_begin"])
def test_a_begin_that_was_discarded_is_sent_again_unnoticed(conn, dsn, how):
    transaction(conn)
    conn.autocommit = True
    # Sent past psycopg, which would notice.
    assert conn.pgconn.exec_(how.encode()).status == psycopg.pq.ExecStatus.COMMAND_OK
    conn.autocommit = False
    for number in range(3):
        assert transaction(conn, "select %s::int", [number]) == (number,)


def test_a_begin_that_somebody_else_prepared_is_not_in_the_way(conn):
    conn.autocommit = True
    conn.execute("prepare _geventpg_begin as select 1")
    conn.autocommit = False
    assert transaction(conn, "select 7") == (7,)
    assert transaction(conn, "select 8") == (8,)


def test_each_isolation_level_begins_with_its_own_statement(conn):
    level = "select current_setting('transaction_isolation')"
    assert transaction(conn, level) == ("read committed",)
    conn.isolation_level = IsolationLevel.SERIALIZABLE
    assert transaction(conn, level) == ("serializable",)
    conn.isolation_level = None
    assert transaction(conn, level) == ("read committed",)


def test_nothing_is_prepared_where_psycopg_may_not_prepare(dsn):
    with geventpg.Connection.connect(dsn, prepare_threshold=None) as conn:
        transaction(conn)
        transaction(conn)
        assert prepared(conn) == []


def test_begin_survives_the_deallocation_that_follows_a_rollback(conn):
    for number in range(10):
        assert conn.execute("select 1 where 1 = %s", [1]).fetchone() == (1,)
        assert conn.info.transaction_status == INTRANS, number
        conn.rollback()
    assert transaction(conn) == (1,)


def test_what_is_remembered_of_statements_does_not_grow_with_long_ones(conn):
    remembered = geventpg.connection.statement_cache._is_pipelinable.cache_info
    before = remembered().currsize
    for number in range(3):
        text = "x" * 5000
        assert transaction(conn, f"select '{text}', {number}") == (text, number)
    assert remembered().currsize == before
