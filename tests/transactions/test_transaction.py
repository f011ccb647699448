"""`geventpg.transaction()`: one block, one transaction, one truth about its end."""

from __future__ import annotations

import time

import gevent
import psycopg
import pytest
from psycopg import IsolationLevel

import geventpg
from geventpg.registry.scope import Scope
from tests.support.pools import terminate

INSERT = "insert into notes values (%s)"


def test_a_block_is_committed_at_its_end(name, notes):
    with geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("kept",))
        assert notes() == []
    assert notes() == ["kept"]


@pytest.mark.parametrize("autocommit", [False, True], ids=["transactions", "autocommit"])
def test_an_exception_rolls_the_block_back(configure, notes, autocommit):
    name = configure(kwargs={"autocommit": autocommit})
    with pytest.raises(ZeroDivisionError), geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("lost",))
        raise ZeroDivisionError
    with geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("kept",))
    assert notes() == ["kept"]


def test_a_timeout_rolls_the_block_back_and_loses_no_connection(name, notes, backends):
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1), geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("lost",))
        conn.execute("select pg_sleep(60)")
    assert notes() == []
    assert [backend.state for backend in backends()] == ["idle"]


def test_psycopgs_rollback_ends_the_block_quietly(name, notes):
    with geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("lost",))
        raise psycopg.Rollback
    assert notes() == []


def test_get_conn_inside_is_the_same_connection_and_it_is_released_afterwards(name, notes):
    with geventpg.transaction(name) as conn:
        assert geventpg.get_conn(name) is conn
        with geventpg.get_conn(name) as inner:
            inner.execute(INSERT, ("kept",))
        assert notes() == []
    assert notes() == ["kept"]
    assert geventpg.get_pool(name).get_stats()["pool_available"] == 1


def test_a_block_inside_a_block_is_a_savepoint(name, notes):
    with geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("outer",))
        with pytest.raises(ZeroDivisionError), geventpg.transaction(name) as inner:
            assert inner is conn
            inner.execute(INSERT, ("inner",))
            raise ZeroDivisionError
        with geventpg.transaction(name) as inner:
            inner.execute(INSERT, ("second",))
    assert notes() == ["outer", "second"]


def test_options_inside_another_transaction_are_refused(name):
    with (
        geventpg.transaction(name),
        pytest.raises(psycopg.ProgrammingError, match="outer one"),
        geventpg.transaction(name, read_only=True),
    ):
        pass


def test_commit_inside_is_refused(name, notes):
    with (
        pytest.raises(psycopg.ProgrammingError, match="forbidden"),
        geventpg.transaction(name) as conn,
    ):
        conn.execute(INSERT, ("lost",))
        conn.commit()
    assert notes() == []


def test_options_hold_for_the_block_and_not_for_the_next_user(name):
    with geventpg.transaction(
        name, isolation_level=IsolationLevel.SERIALIZABLE, read_only=True, deferrable=True
    ) as conn:
        shown = conn.execute(
            "select current_setting('transaction_isolation'),"
            " current_setting('transaction_read_only'), current_setting('transaction_deferrable')"
        ).fetchone()
        assert shown == ("serializable", "on", "on")
    with geventpg.get_conn(name) as again:
        assert again is conn
        shown = again.execute(
            "select current_setting('transaction_isolation'),"
            " current_setting('transaction_read_only'), current_setting('transaction_deferrable')"
        ).fetchone()
        assert shown == ("read committed", "off", "off")


def test_a_statement_timeout_bounds_statements_of_the_block_only(name):
    with (
        pytest.raises(psycopg.errors.QueryCanceled),
        geventpg.transaction(name, statement_timeout=0.05) as conn,
    ):
        conn.execute("select pg_sleep(60)")
    with geventpg.get_conn(name) as conn:
        assert conn.execute("show statement_timeout").fetchone() == ("0",)


def shown_timeout(conn):
    """Return the statement_timeout (s) that the server goes by."""
    (shown,) = conn.execute(
        "select setting::int from pg_settings where name = 'statement_timeout'"
    ).fetchone()
    return shown / 1000


@pytest.mark.parametrize("autocommit", [False, True], ids=["transactions", "autocommit"])
def test_a_statement_timeout_goes_with_the_options_of_begin(configure, autocommit):
    name = configure(kwargs={"autocommit": autocommit})
    serializable = IsolationLevel.SERIALIZABLE
    with geventpg.transaction(name, isolation_level=serializable, statement_timeout=7) as conn:
        assert shown_timeout(conn) == 7
        assert conn.execute("show transaction_isolation").fetchone() == ("serializable",)
    with geventpg.transaction(name) as conn:
        assert shown_timeout(conn) == 0
        assert conn.execute("show transaction_isolation").fetchone() == ("read committed",)


def test_a_statement_timeout_costs_no_round_trip(name, tmp_path):
    with geventpg.get_conn(name) as conn, (tmp_path / "trace").open("w+") as trace:
        conn.pgconn.trace(trace.fileno())
        with geventpg.transaction(name, statement_timeout=5, read_only=True):
            pass
        conn.pgconn.untrace()
        trace.seek(0)
        sent = [line.split("\t")[-1] for line in trace if "\tF\t" in line]
    assert [message.strip() for message in sent] == [
        '"BEGIN READ ONLY; SET LOCAL statement_timeout = 5000"',
        '"COMMIT"',
    ]


def test_the_remaining_time_is_that_of_the_unit_of_work(name):
    with Scope(deadline=time.monotonic() + 20):
        with geventpg.transaction(name, statement_timeout="remaining") as conn:
            assert 10 < shown_timeout(conn) <= 20
        for inner, least, most in [(1_000, 10, 20), (5, 0, 5)]:
            with (
                Scope(deadline=time.monotonic() + inner),
                geventpg.transaction(name, statement_timeout="remaining") as conn,
            ):
                assert least < shown_timeout(conn) <= most
        with geventpg.transaction(name, statement_timeout="remaining") as conn:
            assert 10 < shown_timeout(conn) <= 20
    with geventpg.transaction(name, statement_timeout="remaining") as conn:
        assert shown_timeout(conn) == 0


def test_a_unit_of_work_whose_time_is_up_gets_no_statement_through(name):
    with (
        Scope(deadline=time.monotonic() - 1),
        pytest.raises(psycopg.errors.QueryCanceled),
        geventpg.transaction(name, statement_timeout="remaining") as conn,
    ):
        conn.execute("select pg_sleep(60)")


@pytest.mark.parametrize("bound", ["forever", 0, -1, 3e6])
def test_an_impossible_statement_timeout_is_refused(name, bound):
    with (
        pytest.raises(ValueError, match="statement_timeout must be"),
        geventpg.transaction(name, statement_timeout=bound),
    ):
        pass


def test_a_timeout_during_begin_goes_through_and_the_connection_is_as_before(configure, proxy, dsn):
    name = configure(proxy.dsn(dsn), max_size=1)
    with geventpg.transaction(name) as first:
        first.execute("select 1")
    proxy.delay(0.15)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1), geventpg.transaction(name):
        pass
    proxy.delay(0)
    with geventpg.get_conn(name) as conn:  # psycopg would refuse to commit inside a block
        conn.execute("select 1")
    assert conn is first


def test_a_failed_statement_whose_error_was_swallowed_fails_the_block(name, notes):
    with (
        pytest.raises(psycopg.errors.InFailedSqlTransaction, match="cannot be committed"),
        geventpg.transaction(name) as conn,
    ):
        conn.execute(INSERT, ("lost",))
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1/0")
    assert notes() == []


def test_a_connection_lost_inside_is_an_error_at_the_end_though_nothing_was_executed_since(
    name, notes, admin
):
    # psycopg's own block would end here as if the transaction were committed.
    with pytest.raises(psycopg.OperationalError) as caught, geventpg.transaction(name) as conn:
        conn.execute(INSERT, ("lost",))
        terminate(admin, conn.info.backend_pid)
    assert not isinstance(caught.value, geventpg.CommitUnknown)
    assert notes() == []


def test_a_deferred_constraint_that_fails_at_commit_is_the_servers_error(name, notes, admin):
    admin.execute(
        "alter table notes add constraint once unique (note) deferrable initially deferred"
    )
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        geventpg.transaction(name) as conn,
    ):
        conn.execute(INSERT, ("same",))
        conn.execute(INSERT, ("same",))
    assert notes() == []


def test_what_a_task_did_before_a_transaction_of_its_own_is_kept(name, notes):
    with Scope():
        geventpg.get_conn(name).execute("insert into notes values ('before')")
        with geventpg.transaction(name) as conn:
            conn.execute("insert into notes values ('inside')")
    assert notes() == ["before", "inside"]
