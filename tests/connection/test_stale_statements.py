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


INSERT = "insert into stale values (%s) returning *"
ROWS = [(2,), (3,)]


def damage(conn, admin, how):
    """Make the prepared statements of *conn* unusable, unnoticed by psycopg."""
    if how == "stale":
        admin.execute("alter table stale add column more int")
    else:
        past_psycopg(conn, "deallocate all")


@pytest.mark.parametrize("how", ["lost", "stale"])
@pytest.mark.parametrize("returning", [True, False])
def test_executemany_is_executed_again_as_a_whole(conn, admin, how, returning):
    plain = how == "stale" and not returning  # no result that could change
    query = "update stale set a = a where a = %s" if plain else INSERT
    cur = conn.cursor()
    for _ in range(2):
        cur.executemany(query, ROWS, returning=returning)
        conn.commit()
        before = conn.execute("select count(*) from stale").fetchone()
        conn.commit()
        damage(conn, admin, how)
        cur.executemany(query, ROWS, returning=returning)
        if returning:
            assert [result.fetchone()[0] for result in cur.results()] == [2, 3]
        conn.commit()
        (added,) = conn.execute("select count(*) - %s from stale", before).fetchone()
        conn.commit()
        assert added == (2 if query is INSERT else 0)
        admin.execute("alter table stale drop column if exists more")


def test_executemany_of_an_iterator_is_an_error_once(conn, admin):
    cur = conn.cursor()
    cur.executemany(INSERT, ROWS)
    conn.commit()
    past_psycopg(conn, "deallocate all")
    with pytest.raises(geventpg.StaleStatement, match="can be run again"):
        cur.executemany(INSERT, iter(ROWS))
    conn.rollback()
    assert admin.execute("select count(*) from stale").fetchone() == (3,)  # nothing twice
    cur.executemany(INSERT, iter(ROWS))
    conn.commit()
    assert admin.execute("select count(*) from stale").fetchone() == (5,)


def test_executemany_inside_a_transaction_is_an_error_that_says_what_to_do(dsn, admin, table):
    with geventpg.Connection.connect(dsn) as conn:
        cur = conn.cursor()
        cur.executemany(INSERT, ROWS)
        conn.commit()
        conn.execute("select 1")
        past_psycopg(conn, "deallocate all")
        with pytest.raises(geventpg.StaleStatement) as caught:
            cur.executemany(INSERT, ROWS)
        assert isinstance(caught.value.__cause__, psycopg.errors.InvalidSqlStatementName)
        conn.rollback()
        cur.executemany(INSERT, ROWS)


@pytest.mark.parametrize("how", ["lost", "stale"])
def test_a_pipeline_meets_the_error_once(conn, admin, how):
    def read():
        with conn.pipeline():
            return conn.execute(SELECT).fetchall()

    read()
    conn.commit()
    damage(conn, admin, how)
    with pytest.raises(
        (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported)
    ):
        read()
    if not conn.autocommit:
        # A rollback forgets everything; what is to be seen is that the error does, too.
        past_psycopg(conn, "rollback")
    assert read()[0][0] == 1


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_pool_counts_what_was_healed_and_what_was_not(dsn, admin, table, autocommit):
    kwargs = {"autocommit": autocommit, "prepare_threshold": 0}
    with geventpg.Pool(dsn, min_size=1, max_size=1, kwargs=kwargs, open=True) as pool:

        def counted():
            stats = pool.get_stats()
            return stats["statements_healed"], stats["statements_lost"]

        assert counted() == (0, 0)
        with pool.connection() as conn:
            conn.execute(SELECT)
        for expected in (1, 2):
            with pool.connection() as conn:
                past_psycopg(conn, "deallocate all")
                conn.execute(SELECT)
            assert counted() == (expected, 0)
            with pool.connection() as conn:
                conn.execute(SELECT)  # healed, it was not prepared
        with (
            pytest.raises(geventpg.StaleStatement),
            pool.connection() as conn,
            conn.transaction(),
        ):
            past_psycopg(conn, "deallocate all")
            conn.execute(SELECT)
        assert counted() == (2, 1)
        assert pool.pop_stats()["statements_healed"] == 2
        assert counted() == (0, 0)


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


def by_execute(pool, _number):
    with pool.connection() as conn:
        return conn.execute(SELECT).fetchall()


def by_statement(pool, _number, statement=geventpg.Statement(SELECT)):  # noqa: B008
    with pool.connection() as conn:
        return conn.execute(statement).fetchall()


def by_executemany(pool, number):
    with pool.connection() as conn:
        cur = conn.cursor()
        cur.executemany("update counted set n = n + 1 where id = %s returning *", [(number,)] * 2)
    with pool.connection() as conn:
        cur = conn.cursor()
        cur.executemany(SELECT, [()], returning=True)
        return cur.fetchall()


def by_run_in_transaction(pool, number):
    def work(conn):
        conn.execute("update counted set n = n + 1 where id = %s", (number,))
        rows = conn.execute(SELECT).fetchall()
        conn.execute("update counted set n = n + 1 where id = %s", (number,))
        return rows

    return geventpg.run_in_transaction(work, pool=pool, max_attempts=20)


@pytest.mark.parametrize("autocommit", [True, False], ids=["autocommit", "transactions"])
@pytest.mark.parametrize("way", [by_execute, by_statement, by_executemany, by_run_in_transaction])
def test_a_database_that_changes_all_the_time_costs_no_user_an_error(
    dsn, admin, table, autocommit, way
):
    """DEALLOCATE ALL, DISCARD ALL and ALTER TABLE in a loop under load."""
    admin.execute("drop table if exists counted")
    admin.execute("create table counted as select id, 0 as n from generate_series(0, 11) as id")
    kwargs = {"autocommit": autocommit, "prepare_threshold": 2}
    begun = done = 0  # changes of the table
    stop = False
    calls = [0] * 12

    def work(number):
        while not stop:
            done_before = done
            (row,) = way(pool, number)
            assert done_before <= len(row) - 1 <= begun
            assert row == (1, *range(len(row) - 1))
            calls[number] += 1

    with geventpg.Pool(dsn, min_size=4, max_size=4, kwargs=kwargs, open=True) as pool:
        workers = [gevent.spawn(work, number) for number in range(12)]
        for number in range(8):
            before = sum(calls)
            begun = number + 1
            admin.execute(f"alter table stale add column c{number} int default {number}")
            admin.execute("alter table counted add column more int")
            admin.execute("alter table counted drop column more")
            done = number + 1
            with pool.connection() as conn:
                conn.rollback()
                past_psycopg(conn, "discard all" if number % 2 else "deallocate all")
            with gevent.Timeout(10):
                while sum(calls) < before + 30:
                    gevent.sleep(0.001)
                    assert not any(worker.ready() for worker in workers)
        stop = True
        gevent.joinall(workers, raise_error=True)
        assert pool.get_stats()["statements_healed"] + pool.get_stats()["statements_lost"] > 0
    if way in (by_executemany, by_run_in_transaction):
        # Each was executed as often as was reported: nothing twice, nothing never.
        counted = admin.execute("select n from counted order by id").fetchall()
        assert [n for (n,) in counted] == [2 * n for n in calls]
    admin.execute("drop table counted")
