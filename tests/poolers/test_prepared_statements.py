"""Prepared statements and poolers: none behind one by default, and no error that tells of them."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg

GREENLETS = 50
STATEMENTS = 60


def modes(*names):
    return pytest.mark.parametrize("mode", names, indirect=True)


IN_TRANSACTIONS = modes("transaction")


def prepared(conn):
    return conn.execute("select statement from pg_prepared_statements").fetchall()


# In session mode a connection has one of the server's 5 for itself, until it is closed: others
# wait for that, so the pool has 5, or closes those that are idle.
POOLS = {
    "session": [{"max_size": 5}, {"max_size": 20, "min_size": 1, "max_idle": 0.2}],
    "transaction": [{"min_size": 20, "max_size": 20}],
    "statement": [{"min_size": 20, "max_size": 20}],
}


@pytest.mark.parametrize(
    ("mode", "options", "autocommit"),
    # Statement pooling has no transactions.
    [
        (mode, options, autocommit)
        for mode, pools in POOLS.items()
        for options in pools
        for autocommit in (True, False)
        if autocommit or mode != "statement"
    ],
    indirect=["mode"],
)
def test_many_greenlets_on_few_server_connections_get_only_right_results(
    make_pool, pooler, options, autocommit
):
    pool = make_pool(pooler.dsn, timeout=30, kwargs={"autocommit": autocommit}, **options)
    right = []

    def work(number):
        for i in range(STATEMENTS):
            with pool.connection() as conn:
                query = f"select %s::int + %s::int, {i % 7}"
                assert conn.execute(query, (number, i)).fetchone() == (number + i, i % 7)
                right.append(i)

    workers = [gevent.spawn(work, number) for number in range(GREENLETS)]
    gevent.joinall(workers, raise_error=True)
    assert len(right) == GREENLETS * STATEMENTS


def test_nothing_is_prepared_behind_a_pooler(pooler):
    with geventpg.Connection.connect(pooler.dsn, autocommit=True) as conn:
        for _ in range(10):
            conn.execute("select 1")
        assert prepared(conn) == []
        conn.execute("select 1", prepare=True)
        assert prepared(conn) == []


CURSORS = [psycopg.Cursor, psycopg.RawCursor, psycopg.ClientCursor]


@modes("transaction", "statement")
@pytest.mark.parametrize("cursor", CURSORS)
def test_cursor_classes_of_psycopgs_prepare_nothing_behind_a_pooler_either(pooler, cursor):
    connect = geventpg.Connection.connect
    conns = [connect(pooler.dsn, autocommit=True, cursor_factory=cursor) for _ in range(8)]
    for i in range(16):  # more than five times each
        for conn in conns:
            assert conn.execute(f"select {i % 2}").fetchone() == (i % 2,)
    assert prepared(conns[0]) == []
    for conn in conns:
        conn.close()


@pytest.mark.parametrize("cursor", CURSORS[:2])
@pytest.mark.parametrize("autocommit", [True, False])
def test_cursor_classes_of_psycopgs_prepare_as_psycopg_does_elsewhere(dsn, cursor, autocommit):
    def count(connection_class):
        with connection_class.connect(
            dsn, autocommit=autocommit, cursor_factory=cursor, prepare_threshold=3
        ) as conn:
            counts = []
            for _ in range(6):
                conn.execute("select 1")
                counts.append(len(prepared(conn)))
            return counts

    assert count(geventpg.Connection) == count(psycopg.Connection)


def test_direct_connections_keep_prepared_statements(dsn):
    with geventpg.Connection.connect(dsn, autocommit=True) as conn:
        for _ in range(10):
            conn.execute("select 1")
        assert prepared(conn) == [("select 1",)]


def test_whether_a_pooler_is_in_between_is_asked_once(proxy, dsn):
    with geventpg.Connection.connect(proxy.dsn(dsn), autocommit=True) as conn:

        def bytes_sent(query):
            before = proxy.forwarded("from_client")
            for _ in range(8):
                conn.execute(query)
            return proxy.forwarded("from_client") - before

        first, second = bytes_sent("select 1"), bytes_sent("select 2")
        assert first - second == len(b"Q0000SELECT pg_catalog.pg_backend_pid()0")


@modes("session", "transaction")
@pytest.mark.parametrize("many", ["executemany", "pipeline"])
def test_pipelines_prepare_nothing_behind_a_pooler(pooler, many):
    with geventpg.Connection.connect(pooler.dsn) as conn:
        for _ in range(3):
            if many == "executemany":
                conn.cursor().executemany("select %s::int", [(i,) for i in range(20)])
            else:
                with conn.pipeline():
                    for i in range(20):
                        conn.execute("select %s::int", (i,))
            conn.commit()
        assert [row for row in prepared(conn) if "select $1" in row[0]] == []


@IN_TRANSACTIONS
def test_prepare_always_prepares_behind_a_pooler_too(make_pool, pooler):
    pool = make_pool(pooler.dsn, prepare="always", max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        for _ in range(10):
            conn.execute("select 1")
        assert prepared(conn) == [("select 1",)]


def test_prepare_never_prepares_nothing_on_a_direct_connection(make_pool):
    pool = make_pool(prepare="never", max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        for _ in range(10):
            conn.execute("select 1")
        assert prepared(conn) == []


@IN_TRANSACTIONS
def test_statements_forced_upon_a_pooler_that_loses_them_are_executed_all_the_same(
    make_pool, pooler
):
    # PgBouncer before 1.21, and prepare="always": every kind of error is met, and healed.
    pool = make_pool(
        pooler.dsn,
        min_size=10,
        max_size=10,
        timeout=30,
        prepare="always",
        kwargs={"autocommit": True},
    )
    right = []

    def work(number):
        for i in range(30):
            with pool.connection() as conn:
                assert conn.execute("select %s::int", (number,)).fetchone() == (number,)
                right.append(i)

    gevent.joinall([gevent.spawn(work, number) for number in range(20)], raise_error=True)
    assert len(right) == 600


@modes("transaction", "statement")
def test_stock_psycopg_meets_the_errors_that_are_healed_here(pooler):
    """The same program on psycopg's own connections, so that it is known to be a test."""
    conns = [psycopg.connect(pooler.dsn, autocommit=True) for _ in range(8)]
    failures = 0
    try:
        for i in range(20):
            for conn in conns:
                try:
                    conn.execute("select %s::int", (i,))
                except (
                    psycopg.errors.InvalidSqlStatementName,
                    psycopg.errors.DuplicatePreparedStatement,
                ):
                    failures += 1
    finally:
        for conn in conns:
            conn.close()
    assert failures > 0
