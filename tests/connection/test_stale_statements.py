"""Prepared statements that are lost or go stale: executed again where nothing else is lost."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg

SELECT = "select * from stale order by 1"


@pytest.fixture
def table(admin):
    admin.execute("drop table if exists stale")
    admin.execute("create table stale (a int)")
    admin.execute("insert into stale values (1)")
    yield "stale"
    admin.execute("drop table stale")


@pytest.fixture(params=[True, False], ids=["autocommit", "transactions"])
def conn(request, dsn, table):
    with geventpg.Connection.connect(dsn, autocommit=request.param, prepare_threshold=0) as conn:
        assert conn.execute(SELECT).fetchall() == [(1,)]
        conn.commit()  # a rollback would make psycopg forget what is prepared
        yield conn


def past_psycopg(conn, command):
    """Execute a command that psycopg does not notice."""
    assert conn.pgconn.exec_(command.encode()).status == psycopg.pq.ExecStatus.COMMAND_OK


@pytest.mark.parametrize("command", ["deallocate all", "discard all"])
def test_a_lost_statement_is_executed_all_the_same(conn, command):
    past_psycopg(conn, command)
    assert conn.execute(SELECT).fetchall() == [(1,)]
    conn.rollback()
    assert conn.execute(SELECT).fetchall() == [(1,)]


def test_a_stale_statement_is_executed_with_its_new_columns(conn, admin):
    for number in range(3):
        admin.execute(f"alter table stale add column c{number} int")
        assert conn.execute(SELECT).fetchall() == [(1, *[None] * (number + 1))]
        conn.commit()
        assert conn.execute(SELECT).fetchall() == [(1, *[None] * (number + 1))]
        conn.commit()


def test_a_healed_first_statement_is_part_of_its_transaction(dsn, admin, table):
    with geventpg.Connection.connect(dsn, prepare_threshold=0) as conn:
        insert = "insert into stale values (%s) returning *"
        conn.execute(insert, (2,))
        conn.commit()
        admin.execute("alter table stale add column more int")
        assert conn.execute(insert, (3,)).fetchone() == (3, None)
        assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        conn.rollback()
        assert admin.execute("select a from stale order by 1").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("damage", ["alter table stale add column more int", "deallocate all"])
def test_inside_a_transaction_it_is_an_error_that_says_what_to_do(dsn, admin, table, damage):
    with geventpg.Connection.connect(dsn, prepare_threshold=0) as conn:
        conn.execute(SELECT)
        conn.commit()
        conn.execute("select 1")
        if damage.startswith("alter"):
            admin.execute(damage)
        else:
            past_psycopg(conn, damage)
        with pytest.raises(geventpg.StaleStatement, match="can be run again") as caught:
            conn.execute(SELECT)
        assert caught.value.__cause__.sqlstate in ("0A000", "26000")
        conn.rollback()
        assert conn.execute(SELECT).fetchone()[0] == 1
        conn.rollback()


def test_the_users_own_missing_statement_is_the_users_error(dsn):
    with (
        geventpg.Connection.connect(dsn, autocommit=True) as conn,
        pytest.raises(psycopg.errors.InvalidSqlStatementName, match="mine"),
    ):
        conn.execute("execute mine")


def test_one_discovery_spares_the_other_connections(dsn, admin, table):
    pool = geventpg.Pool(
        dsn, min_size=3, max_size=3, kwargs={"autocommit": True, "prepare_threshold": 0}, open=True
    )
    with pool:
        pool.wait()
        conns = [pool.getconn() for _ in range(3)]
        for conn in conns:
            conn.execute(SELECT)
        admin.execute("alter table stale add column more int")
        conns[0].execute(SELECT)
        # The others have forgotten theirs: what they prepare now is a new one.
        for conn in conns[1:]:
            before = set(conn._prepared._names.values())
            conn.execute(SELECT)
            assert before.isdisjoint(conn._prepared._names.values())
        for conn in conns:
            pool.putconn(conn)


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transactions"])
def test_a_table_that_changes_all_the_time_costs_no_user_an_error(dsn, admin, table, autocommit):
    kwargs = {"autocommit": autocommit, "prepare_threshold": 2}
    stop = False
    read = []

    def work():
        while not stop:
            with pool.connection() as conn:
                (row,) = conn.execute(SELECT).fetchall()
                assert row[0] == 1
                read.append(len(row))

    with geventpg.Pool(dsn, min_size=4, max_size=4, kwargs=kwargs, open=True) as pool:
        workers = [gevent.spawn(work) for _ in range(12)]
        for number in range(15):
            before = len(read)
            admin.execute(f"alter table stale add column c{number} int")
            with pool.connection() as conn:
                conn.pgconn.exec_(b"deallocate all")
            with gevent.Timeout(5):
                while len(read) < before + 50:
                    gevent.sleep(0.001)
        stop = True
        gevent.joinall(workers, raise_error=True)
    assert max(read) == 16
