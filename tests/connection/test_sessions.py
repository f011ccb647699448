"""Transactions, two-phase commit, notifications and notices on one session."""

from __future__ import annotations

import logging
import time

import gevent
import psycopg
import pytest
from psycopg.pq import TransactionStatus

from tests.connection.helpers import Attempt, Ticker


@pytest.fixture
def table(admin, application_name):
    name = f'"{application_name}"'
    admin.execute(f"create table {name} (note text)")
    yield name
    admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
        [application_name],
    )
    admin.execute(f"drop table {name}")


@pytest.fixture
def notes(admin, table):
    def read():
        return [row[0] for row in admin.execute(f"select note from {table} order by note")]

    return read


def test_a_with_block_commits_and_closes(connect, table, notes):
    with connect() as conn:
        conn.execute(f"insert into {table} values ('kept')")
    assert conn.closed
    assert notes() == ["kept"]


def test_a_with_block_rolls_back_on_an_exception(connect, table, notes):
    conn = connect()

    def work():
        with conn:
            conn.execute(f"insert into {table} values ('lost')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert conn.closed
    assert notes() == []


def _insert_and_fail(conn, table):
    with conn.transaction():
        conn.execute(f"insert into {table} values ('inner')")
        conn.execute("select 1/0")


def test_transaction_blocks_nest_with_savepoints(connect, table, notes):
    conn = connect(autocommit=True)
    with conn.transaction():
        conn.execute(f"insert into {table} values ('outer')")
        with pytest.raises(psycopg.errors.DivisionByZero):
            _insert_and_fail(conn, table)
        with conn.transaction("named"):
            conn.execute(f"insert into {table} values ('second')")
        with conn.transaction(force_rollback=True):
            conn.execute(f"insert into {table} values ('forced')")
    assert conn.info.transaction_status == TransactionStatus.IDLE
    assert notes() == ["outer", "second"]


def test_transaction_blocks_work_without_autocommit(connect, table, notes):
    conn = connect()
    with conn.transaction():
        conn.execute(f"insert into {table} values ('a')")
        assert notes() == []
    assert notes() == ["a"]
    conn.execute(f"insert into {table} values ('b')")
    with conn.transaction():  # joins the open one as a savepoint
        conn.execute(f"insert into {table} values ('c')")
    assert notes() == ["a"]
    conn.commit()
    assert notes() == ["a", "b", "c"]


def test_autocommit_is_switched_between_transactions_only(connect, table, notes):
    conn = connect()
    conn.execute(f"insert into {table} values ('first')")
    with pytest.raises(psycopg.ProgrammingError):
        conn.autocommit = True
    conn.commit()
    conn.autocommit = True
    conn.execute(f"insert into {table} values ('second')")
    assert conn.info.transaction_status == TransactionStatus.IDLE
    conn.autocommit = False
    conn.execute(f"insert into {table} values ('third')")
    assert conn.info.transaction_status == TransactionStatus.INTRANS
    conn.rollback()
    assert notes() == ["first", "second"]


def test_two_phase_commit_prepares_recovers_and_finishes(connect, table, notes, application_name):
    conn = connect()
    ours = application_name[:40]  # a gtrid is at most 64 characters long
    xids = [conn.xid(1, f"{ours} {number}", "branch") for number in range(3)]
    for xid in xids:
        conn.tpc_begin(xid)
        conn.execute(f"insert into {table} values (%s)", [xid.gtrid[-1]])
        conn.tpc_prepare()
        conn.close()  # what is prepared survives the session
        conn = connect()
    found = [xid for xid in conn.tpc_recover() if str(xid.gtrid).startswith(ours)]
    conn.rollback()
    assert len(found) == 3
    conn.tpc_commit(xids[0])
    conn.tpc_rollback(xids[1])
    conn.tpc_commit(xids[2])
    assert notes() == ["0", "2"]


def test_two_phase_commit_in_one_session(connect, table, notes, application_name):
    conn = connect()
    conn.tpc_begin(conn.xid(1, application_name, "one"))
    conn.execute(f"insert into {table} values ('two-phase')")
    with pytest.raises(psycopg.ProgrammingError):
        conn.commit()
    conn.tpc_prepare()
    conn.tpc_commit()
    assert notes() == ["two-phase"]
    assert conn.execute("select 1").fetchone() == (1,)


def test_a_serialization_failure_at_commit_is_raised(connect, table):
    one, two = connect(), connect()
    for conn in (one, two):
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.execute(f"select count(*) from {table}")
        conn.execute(f"insert into {table} values ('x')")
    one.commit()
    with pytest.raises(psycopg.errors.SerializationFailure):
        two.commit()
    assert two.execute("select 1").fetchone() == (1,)


def test_notifications_arrive_while_waiting(conn, connect):
    conn.execute("listen news")
    reader = Attempt(lambda: [n.payload for n in conn.notifies(timeout=5, stop_after=2)])
    other = connect(autocommit=True)
    for payload in ("one", "two"):
        gevent.sleep(0.02)
        other.execute("select pg_notify('news', %s)", [payload])
    assert reader.join().result == ["one", "two"]
    assert reader.took < 3


def test_waiting_for_notifications_ends_at_its_timeout(conn):
    conn.execute("listen news")
    with Ticker() as ticker:
        started = time.monotonic()
        assert list(conn.notifies(timeout=0.2)) == []
        assert 0.2 <= time.monotonic() - started < 1
    assert ticker.ticks >= 5


def test_a_timeout_of_zero_returns_the_notifications_that_are_there(conn, connect):
    conn.execute("listen news")
    assert list(conn.notifies(timeout=0)) == []
    connect(autocommit=True).execute("notify news, 'waiting'")
    gevent.sleep(0.05)
    assert [n.payload for n in conn.notifies(timeout=0)] == ["waiting"]
    assert list(conn.notifies(timeout=0)) == []


def test_notifications_that_came_with_a_statement_are_kept_for_later(conn, connect):
    conn.execute("listen news")
    connect(autocommit=True).execute("notify news, 'early'")
    gevent.sleep(0.02)
    conn.execute("select 1")
    assert [n.payload for n in conn.notifies(timeout=2, stop_after=1)] == ["early"]


def test_notify_handlers_hear_of_what_came_while_idle(conn, connect):
    heard = []
    conn.add_notify_handler(heard.append)
    conn.execute("listen news")
    connect(autocommit=True).execute("notify news, 'while idle'")
    gevent.sleep(0.05)
    conn.execute("select 1")
    assert [(n.channel, n.payload) for n in heard] == [("news", "while idle")]


@pytest.mark.parametrize("autocommit", [True, False])
def test_notice_handlers_hear_the_servers_notices(connect, autocommit):
    conn = connect(autocommit=autocommit)
    heard = []
    conn.add_notice_handler(lambda diagnostic: heard.append(diagnostic.message_primary))
    conn.execute("do $$ begin raise notice 'hello'; end $$")
    conn.execute("create temporary table if not exists t (i int)")
    conn.execute("create temporary table if not exists t (i int)")
    assert heard[0] == "hello"
    assert "already exists" in heard[1]


def test_a_failing_notice_handler_is_logged_and_the_statement_succeeds(conn, caplog):
    def fail(diagnostic):
        raise ZeroDivisionError

    conn.add_notice_handler(fail)
    with caplog.at_level(logging.ERROR, "psycopg"):
        conn.execute("do $$ begin raise notice 'hello'; end $$")
    assert "error processing notice callback" in caplog.text
    assert conn.execute("select 1").fetchone() == (1,)
