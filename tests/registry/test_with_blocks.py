"""``with get_conn()``: one connection a greenlet, committed and released at the outermost end."""

from __future__ import annotations

import logging

import gevent
import psycopg
import pytest

import geventpg
from tests.support import wait_until


@pytest.fixture
def notes(admin, table):
    """Return a function that gives the committed notes."""
    query = f"select note from {table} order by note"
    return lambda: [note for (note,) in admin.execute(query)]


def insert(name, note):
    geventpg.get_conn(name).execute("insert into registry_notes values (%s)", [note])


def terminate(admin, conn):
    admin.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])


def in_use(name):
    stats = geventpg.get_pool(name).get_stats()
    return stats["pool_size"] - stats["pool_available"]


def test_every_call_in_a_greenlet_gives_the_same_connection(name):
    conn = geventpg.get_conn(name)
    assert isinstance(conn, geventpg.Connection)
    assert geventpg.get_conn(name) is conn
    with geventpg.get_conn(name) as inside:
        assert inside is conn
        assert geventpg.get_conn(name) is conn


def test_two_greenlets_have_two_connections(name):
    mine = geventpg.get_conn(name)
    theirs = gevent.spawn(lambda: geventpg.get_conn(name)).get()
    assert theirs is not mine


def test_the_end_of_the_block_commits_and_releases(name, notes):
    with geventpg.get_conn(name) as conn:
        insert(name, "kept")
        assert notes() == []
        assert in_use(name) == 1
    assert notes() == ["kept"]
    assert in_use(name) == 0
    assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("error", [ValueError, gevent.Timeout, gevent.GreenletExit])
def test_an_exception_rolls_back_releases_and_goes_on(name, notes, error):
    with pytest.raises(error), geventpg.get_conn(name):
        insert(name, "lost")
        raise error
    assert notes() == []
    wait_until(lambda: in_use(name) == 0)


def test_a_statement_that_fails_rolls_back(name, notes):
    with pytest.raises(psycopg.errors.DivisionByZero), geventpg.get_conn(name) as conn:
        insert(name, "lost")
        conn.execute("select 1/0")
    assert notes() == []


def test_an_inner_block_joins_the_outer_one(name, notes):
    with geventpg.get_conn(name) as outer:
        with geventpg.get_conn(name) as inner:
            assert inner is outer
            insert(name, "inner")
        assert notes() == []
        assert in_use(name) == 1
        insert(name, "outer")
    assert notes() == ["inner", "outer"]
    assert in_use(name) == 0


def test_what_an_inner_block_did_is_rolled_back_with_the_outer_one(name, notes):
    with pytest.raises(ValueError, match="outer"), geventpg.get_conn(name):
        with geventpg.get_conn(name):
            insert(name, "inner")
        raise ValueError("outer")
    assert notes() == []


def test_an_exception_that_ends_only_an_inner_block_is_the_outer_ones_to_judge(name, notes):
    with geventpg.get_conn(name):
        insert(name, "before")
        with pytest.raises(ValueError, match="inner"), geventpg.get_conn(name):
            insert(name, "inside")
            raise ValueError("inner")
        insert(name, "after")
    assert notes() == ["after", "before", "inside"]


def test_a_savepoint_inside_is_psycopgs_own(name, notes):
    with geventpg.get_conn(name) as conn:
        insert(name, "kept")
        with pytest.raises(ValueError, match="undo"), conn.transaction():
            insert(name, "undone")
            raise ValueError("undo")
    assert notes() == ["kept"]


def test_a_block_commits_what_the_greenlet_did_before_it(name, notes):
    insert(name, "before")
    with geventpg.get_conn(name):
        insert(name, "inside")
    assert notes() == ["before", "inside"]


def test_after_a_block_the_greenlet_starts_with_a_clean_connection(name):
    with geventpg.get_conn(name) as conn:
        conn.execute("create temporary table t (i int) on commit drop")
    with geventpg.get_conn(name) as again:
        assert again is conn  # the most recently used one
        assert again.execute("select to_regclass('t')").fetchone() == (None,)


def test_autocommit_is_left_alone(configure, notes):
    name = configure(kwargs={"autocommit": True})
    with pytest.raises(ValueError, match="x"), geventpg.get_conn(name):
        insert(name, "at once")
        raise ValueError("x")
    assert notes() == ["at once"]


def test_release_conn_rolls_back_what_is_open_and_logs_it(name, notes, caplog):
    insert(name, "lost")
    with caplog.at_level(logging.WARNING):
        geventpg.release_conn(name)
        wait_until(lambda: in_use(name) == 0)
    assert [r.getMessage() for r in caplog.records if "rolling back" in r.getMessage()]
    assert notes() == []


def test_release_conn_of_an_idle_connection_logs_nothing(name, caplog):
    geventpg.get_conn(name).execute("select 1")
    geventpg.get_conn(name).commit()
    with caplog.at_level(logging.WARNING):
        geventpg.release_conn(name)
        geventpg.release_conn(name)
    assert in_use(name) == 0
    assert not caplog.records


def test_release_conn_without_a_connection_does_nothing_not_even_connect(name, backends):
    geventpg.release_conn(name)
    geventpg.release_conn("never configured")
    gevent.sleep(0.02)
    assert backends() == []


def test_release_conn_inside_a_block_is_an_error_and_changes_nothing(name, notes):
    with geventpg.get_conn(name) as conn:
        insert(name, "kept")
        with pytest.raises(psycopg.ProgrammingError, match=r"inside 'with get_conn\(\)'"):
            geventpg.release_conn(name)
        assert geventpg.get_conn(name) is conn
    assert notes() == ["kept"]


@pytest.fixture(params=["close", "putconn"])
def return_it(request, configure, name):
    """Return a function that gives a connection back in a way that is not `release_conn`."""
    if request.param == "putconn":
        return lambda conn: geventpg.get_pool(name).putconn(conn)
    configure(close_returns=True)
    return lambda conn: conn.close()


def test_a_connection_that_is_returned_by_other_means_is_the_greenlets_no_more(name, return_it):
    conn = geventpg.get_conn(name)
    return_it(conn)
    assert in_use(name) == 0
    theirs = gevent.spawn(geventpg.get_conn, name)
    taken = geventpg.get_pool(name).getconn()
    assert taken is conn
    assert geventpg.get_conn(name) is not conn
    geventpg.get_pool(name).putconn(taken)
    theirs.join()


def test_returning_by_other_means_inside_a_block_is_an_error_and_changes_nothing(
    name, return_it, notes
):
    with geventpg.get_conn(name) as conn:
        insert(name, "kept")
        with pytest.raises(psycopg.ProgrammingError, match=r"inside 'with get_conn\(\)'"):
            return_it(conn)
        assert geventpg.get_conn(name) is conn
    assert notes() == ["kept"]


def test_returning_by_other_means_rolls_back_what_is_open(name, return_it, notes):
    insert(name, "lost")
    return_it(geventpg.get_conn(name))
    wait_until(lambda: in_use(name) == 0)
    assert notes() == []


def test_a_greenlet_never_waits_for_itself(configure):
    name = configure(max_size=1)
    with gevent.Timeout(5):
        first = geventpg.get_conn(name)
        with geventpg.get_conn(name) as second, geventpg.get_conn(name) as third:
            assert first is second is third
            assert geventpg.get_conn(name).execute("select 1").fetchone() == (1,)
        assert geventpg.get_conn(name).execute("select 2").fetchone() == (2,)


def test_a_connection_lost_outside_a_block_is_replaced(name, admin):
    conn = geventpg.get_conn(name)
    terminate(admin, conn)
    with pytest.raises(psycopg.OperationalError):
        conn.execute("select 1")
    fresh = geventpg.get_conn(name)
    assert fresh is not conn
    assert fresh.execute("select 1").fetchone() == (1,)


def test_a_connection_lost_inside_a_block_is_not_replaced_before_its_end(name, admin, notes):
    with pytest.raises(psycopg.OperationalError), geventpg.get_conn(name) as conn:
        insert(name, "lost")
        terminate(admin, conn)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
        assert geventpg.get_conn(name) is conn
        insert(name, "half of a transaction")
    assert notes() == []
    with geventpg.get_conn(name) as fresh:
        assert fresh.execute("select 1").fetchone() == (1,)


def test_a_block_that_swallows_the_loss_of_its_connection_does_not_end_well(name, admin, notes):
    with pytest.raises(psycopg.OperationalError), geventpg.get_conn(name) as conn:
        insert(name, "lost")
        terminate(admin, conn)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    assert notes() == []


def test_a_connection_lost_unnoticed_inside_a_block_fails_its_commit(name, admin, notes):
    with pytest.raises(psycopg.OperationalError), geventpg.get_conn(name) as conn:
        insert(name, "lost")
        terminate(admin, conn)
    assert notes() == []
    wait_until(lambda: in_use(name) == 0)


def test_a_commit_that_fails_raises_and_gives_the_connection_back(name, admin, table):
    admin.execute(f"alter table {table} add unique (note) deferrable initially deferred")
    with pytest.raises(psycopg.errors.UniqueViolation), geventpg.get_conn(name):
        insert(name, "twice")
        insert(name, "twice")
    wait_until(lambda: in_use(name) == 0)
    with geventpg.get_conn(name) as conn:
        assert conn.execute(f"select count(*) from {table}").fetchone() == (0,)
