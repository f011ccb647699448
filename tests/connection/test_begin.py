"""BEGIN leaves together with the first statement of a transaction."""

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


def test_each_isolation_level_begins_with_its_own_statement(conn):
    level = "select current_setting('transaction_isolation')"
    assert transaction(conn, level) == ("read committed",)
    conn.isolation_level = IsolationLevel.SERIALIZABLE
    assert transaction(conn, level) == ("serializable",)
    conn.isolation_level = None
    assert transaction(conn, level) == ("read committed",)


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
