"""Behind a pooler, what would break silently is said once; elsewhere nothing is."""

from __future__ import annotations

import logging

import gevent
import psycopg
import pytest

import geventpg
from geventpg.connection import pooler as pooler_module
from tests.support import wait_until

IN_TRANSACTIONS = pytest.mark.parametrize("mode", ["transaction"], indirect=True)

BREAKING = {
    "SET": "set lock_timeout = '7s'",
    "set_config": "select set_config('app.secret', 's3cr3t', false)",
    "LISTEN": "listen jobs",
    "lock": "select pg_advisory_lock(42)",
    "temporary table": "create temp table scratch (a int)",
    "cursor": "declare held cursor with hold for select 1",
}


@pytest.fixture
def said(caplog):
    """Return a function that gives what was said of poolers so far."""
    caplog.set_level(logging.WARNING, "geventpg.pooler")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "geventpg.pooler"]


@pytest.fixture
def connect(monkeypatch):
    """Return a function that connects as if nothing had been said in this process yet."""
    monkeypatch.setattr(pooler_module.OF_ALL, "_said", set())
    opened = []

    def connect(dsn, **options):
        opened.append(geventpg.Connection.connect(dsn, **options))
        return opened[-1]

    yield connect
    for conn in opened:
        conn.close()


@IN_TRANSACTIONS
@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("statement", BREAKING.values(), ids=BREAKING)
def test_it_is_said_once_with_name_place_and_alternative(
    connect, pooler, said, statement, autocommit
):
    for _ in range(2):
        conn = connect(pooler.dsn, autocommit=autocommit)
        for _ in range(2):
            conn.execute(statement)
            conn.execute("discard temp; select pg_advisory_unlock_all(); close all")
            conn.rollback()
    (message,) = said()
    assert "unless the pooler is in session mode" in message
    assert f"{__file__}:" in message
    assert "s3cr3t" not in message
    assert "7s" not in message


@IN_TRANSACTIONS
def test_each_kind_is_said_by_each_pool(make_pool, pooler, said):
    pools = [make_pool(pooler.dsn, name=name) for name in ("orders", "reports")]
    for pool in pools:
        for _ in range(2):
            with pool.connection() as conn:
                conn.execute("set lock_timeout = 1")
                conn.execute("set work_mem = '5MB'")
                conn.execute("listen jobs")
    kinds = ("SET lock_timeout behind", "LISTEN jobs behind")
    expected = [f"pool '{name}': {kind}" for name in ("orders", "reports") for kind in kinds]
    assert [message[: len(start)] for message, start in zip(said(), expected, strict=True)] == (
        expected
    )


@IN_TRANSACTIONS
def test_a_configure_callback_is_told_too(make_pool, pooler, said):
    def configure(conn):
        conn.execute("set lock_timeout = 1")
        conn.commit()

    make_pool(pooler.dsn, min_size=3, configure=configure, name="orders").wait()
    (message,) = said()
    assert message.startswith("pool 'orders': SET lock_timeout")


@IN_TRANSACTIONS
@pytest.mark.parametrize("way", ["parameters", "executemany", "stream", "pipeline", "bytes"])
def test_whatever_way_it_is_executed(connect, pooler, said, way):
    conn = connect(pooler.dsn, autocommit=True)
    lock = "select pg_advisory_lock(%s)"
    if way == "parameters":
        conn.execute(lock, (1,))
    elif way == "executemany":
        conn.cursor().executemany(lock, [(1,), (2,)])
    elif way == "stream":
        list(conn.cursor().stream(lock, (1,)))
    elif way == "bytes":
        conn.execute(b"select pg_advisory_lock(1)")
    else:
        with conn.pipeline():
            conn.execute(lock, (1,))
    conn.execute("select pg_advisory_unlock_all()")
    assert len(said()) == 1


@IN_TRANSACTIONS
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_server_side_cursor_with_hold(connect, pooler, said, autocommit):
    conn = connect(pooler.dsn, autocommit=autocommit)
    with conn.cursor("held", withhold=True) as cur:
        cur.execute("select generate_series(1, %s)", (3,))
        assert cur.fetchall() == [(1,), (2,), (3,)]
    (message,) = said()
    assert 'DECLARE "held" CURSOR WITH HOLD' in message


@IN_TRANSACTIONS
def test_what_ends_with_its_transaction_is_not_worth_a_word(connect, pooler, said):
    conn = connect(pooler.dsn)
    with conn.transaction():
        conn.execute("set local lock_timeout = 1")
        conn.execute("select pg_advisory_xact_lock(1)")
        conn.execute("create temp table scratch (a int) on commit drop")
        with conn.cursor("mine") as cur:
            cur.execute("select 1")
            assert cur.fetchall() == [(1,)]
    assert said() == []


@IN_TRANSACTIONS
@pytest.mark.parametrize("prepare", ["always", "never"])
def test_whether_statements_are_prepared_makes_no_difference(make_pool, pooler, said, prepare):
    pool = make_pool(pooler.dsn, prepare=prepare, max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.execute("listen jobs")
        conn.execute("unlisten jobs")
        for _ in range(8):
            conn.execute("select 1")
        prepared = conn.execute("select statement from pg_prepared_statements").fetchall()
    assert len(said()) == 1
    assert prepared == ([("select 1",)] if prepare == "always" else [])


@pytest.mark.parametrize("statement", BREAKING.values(), ids=BREAKING)
def test_on_a_direct_connection_nothing_is_said(connect, dsn, said, statement):
    conn = connect(dsn)
    conn.execute(statement)
    conn.rollback()
    assert said() == []


def test_a_direct_connection_asks_once_and_only_for_such_statements(connect, proxy, dsn):
    conn = connect(proxy.dsn(dsn), autocommit=True)

    def bytes_sent(query):
        before = proxy.forwarded("from_client")
        conn.execute(query)
        return proxy.forwarded("from_client") - before

    assert bytes_sent("select 1") == len(b"Q0000select 1") + 1
    question = len(b"Q0000SELECT pg_catalog.pg_backend_pid()") + 1
    assert bytes_sent("set lock_timeout = 1") == question + len(b"Q0000set lock_timeout = 1") + 1
    assert bytes_sent("set lock_timeout = 2") == len(b"Q0000set lock_timeout = 2") + 1


@IN_TRANSACTIONS
def test_a_kill_while_it_finds_out_leaves_the_connection_usable(connect, pooler, embedded_pg):
    conn = connect(pooler.dsn, autocommit=True)
    pooler.admin("PAUSE")
    killed = gevent.spawn(conn.execute, "listen jobs")
    wait_until(lambda: conn.info.transaction_status == psycopg.pq.TransactionStatus.ACTIVE)
    killed.kill(block=False)
    pooler.admin("RESUME")
    killed.join(10)
    assert killed.ready()
    assert conn.closed or conn.execute("select 1").fetchone() == (1,)


@IN_TRANSACTIONS
def test_in_a_failed_transaction_the_servers_error_is_what_the_user_gets(connect, pooler, said):
    conn = connect(pooler.dsn)
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("select 1/0")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        conn.execute("set lock_timeout = 1")
    assert said() == []


@IN_TRANSACTIONS
def test_what_the_warnings_say_is_true(pooler):
    """With psycopg's own connections, one after the other on the same server connection."""
    with (
        psycopg.connect(pooler.dsn, autocommit=True) as one,
        psycopg.connect(pooler.dsn, autocommit=True) as other,
    ):
        one.execute("set lock_timeout = '7s'")
        assert other.execute("show lock_timeout").fetchone() == ("7s",)  # a stranger's
        one.execute("create temp table scratch (a int)")
        with pytest.raises(psycopg.errors.DuplicateTable):
            other.execute("create temp table scratch (a int)")
        one.execute("select pg_advisory_lock(43)")
        assert other.execute("select pg_try_advisory_lock(43)").fetchone() == (True,)
        one.execute("declare held cursor with hold for select 1")
        with one.transaction(), pytest.raises(psycopg.errors.InvalidCursorName):
            one.execute("select 1")
            with psycopg.connect(pooler.dsn, autocommit=True) as third:
                third.execute("fetch held")
        # Settings that the server reports are the client's own.
        one.execute("set timezone = 'Asia/Tokyo'")
        assert other.execute("show timezone").fetchone() != ("Asia/Tokyo",)
        assert one.execute("show timezone").fetchone() == ("Asia/Tokyo",)
