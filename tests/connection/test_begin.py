"""BEGIN leaves together with the first statement of a transaction."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import IsolationLevel

import geventpg
from geventpg.sql import reading

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
    before = len(reading._readings)
    for number in range(3):
        text = "x" * 5000
        assert transaction(conn, f"select '{text}', {number}") == (text, number)
    assert len(reading._readings) == before


@pytest.mark.parametrize(
    "query",
    [
        "/* by: me */ select %s::int",
        "-- by: me\nselect %s::int",
        "/* trace=%(number)032x */ select %%s::int",
        "select %%s::int /*traceparent='00-%(number)032x-01'*/",
        "/* a /* nested */ one */ ( select %s::int )",
    ],
)
def test_a_comment_costs_no_round_trip(conn, monkeypatch, query):
    begun = []
    start = geventpg.Connection._start_query
    monkeypatch.setattr(
        geventpg.Connection, "_start_query", lambda self: begun.append(self) or start(self)
    )
    for number in range(10):
        text = query % {"number": number} if "number" in query else query
        assert transaction(conn, text, [number]) == (number,)
        text = text.replace("%s", "7")
        assert transaction(conn, text) == (7,)
    # One is for the statement that is being prepared, after five times. It is alone on its way.
    assert len(begun) <= (0 if "number" in query else 2)
