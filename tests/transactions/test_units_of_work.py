"""`unit_of_work`, in which a Celery task with a retry policy runs: the truth about its end."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import psycopg
import pytest

import geventpg
from geventpg.connection.commit import Outcome
from geventpg.transactions.unit_of_work import unit_of_work
from tests.support.pools import terminate

INSERT = "insert into notes values (%s)"
OFFSETS = range(0, 100, 4)


@pytest.fixture
def name(configure, proxy, dsn):
    """Return the name of a pool behind the proxy."""
    return configure(proxy.dsn(dsn), max_size=1)


def know_the_server(name):
    """Let the connection be asked what server it is at, which is done once."""
    for _ in range(2):  # the first may meet a cut that the last unit did not get to
        with suppress(psycopg.OperationalError), unit_of_work():
            geventpg.get_conn(name).execute("select 1")


@pytest.mark.parametrize("direction", ["from_server", "from_client"])
def test_a_unit_cut_anywhere_around_its_commit_ends_as_reported(name, proxy, notes, direction):
    reported, repeatable = [], []
    for offset in OFFSETS:
        note = f"{offset:03}"
        know_the_server(name)
        try:
            with unit_of_work():
                geventpg.get_conn(name).execute(INSERT, (note,))
                proxy.cut_next(offset, direction)
        except psycopg.OperationalError as error:
            if geventpg.is_transient(error):
                repeatable.append(note)
            continue
        reported.append(note)
    assert notes() == reported
    assert len(reported) + len(repeatable) == len(OFFSETS)
    # Both ends are met: cut before COMMIT took effect, and behind it.
    assert reported
    assert repeatable


def test_a_unit_whose_outcome_cannot_be_looked_up_is_unknown(name, notes, proxy, monkeypatch):
    monkeypatch.setattr("geventpg.connection.commit.look_up", lambda *_args: Outcome.UNKNOWN)
    know_the_server(name)
    with pytest.raises(geventpg.CommitUnknown) as caught, unit_of_work():
        geventpg.get_conn(name).execute(INSERT, ("perhaps",))
        proxy.cut_next(60, "from_client")  # in the middle of COMMIT
    assert not geventpg.is_transient(caught.value)
    assert notes() in ([], ["perhaps"])


def test_a_transaction_goes_on_where_the_server_must_not_say_which_it_is(configure, notes, admin):
    admin.execute("create role limited login")
    admin.execute("grant all on notes to limited")
    admin.execute("revoke execute on function pg_control_system() from public")
    try:
        name = configure(psycopg.conninfo.make_conninfo(admin.info.dsn, user="limited"))
        with unit_of_work():
            geventpg.get_conn(name).execute(INSERT, ("kept",))
        assert notes() == ["kept"]
    finally:
        geventpg.close_all()
        admin.execute("grant execute on function pg_control_system() to public")
        admin.execute("drop owned by limited")
        admin.execute("drop role limited")


@pytest.mark.parametrize("first", [INSERT, "select %s"], ids=["wrote", "only read"])
def test_a_unit_of_two_pools_is_repeatable_if_nothing_is_committed_yet(
    configure, dsn, notes, admin, first
):
    name = configure()
    geventpg.configure(dsn, name="second", min_size=1)
    with pytest.raises(psycopg.OperationalError) as caught, unit_of_work():
        geventpg.get_conn(name).execute(first, ("first",))
        second = geventpg.get_conn("second")
        second.execute(INSERT, ("second",))
        terminate(admin, second.info.backend_pid)
    wrote = first == INSERT
    assert notes() == (["first"] if wrote else [])
    assert geventpg.is_transient(caught.value) is not wrote


@pytest.mark.parametrize("autocommit", [False, True], ids=["in a transaction", "autocommit"])
@pytest.mark.parametrize("in_pipeline", [False, True], ids=["plain", "in a pipeline"])
def test_a_lost_connection_tells_whether_its_work_is_rolled_back(
    configure, notes, autocommit, in_pipeline
):
    name = configure(kwargs={"autocommit": autocommit})
    with (
        pytest.raises(psycopg.OperationalError) as caught,
        geventpg.get_pool(name).connection() as conn,
        ExitStack() as stack,
    ):
        if in_pipeline:
            stack.enter_context(conn.pipeline())
        conn.execute(INSERT, ("note",))
        conn.execute("select pg_terminate_backend(pg_backend_pid())").fetchall()
    # What a pipeline holds may be a COMMIT.
    assert geventpg.is_transient(caught.value) is not (autocommit or in_pipeline)


def test_what_follows_an_unknown_commit_on_its_connection_is_not_repeatable(name, proxy, notes):
    conn = geventpg.get_conn(name)
    conn.execute(INSERT, ("perhaps",))
    proxy.cut_next(3, "from_client")
    with pytest.raises(geventpg.CommitUnknown) as caught:
        conn.commit()
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    with pytest.raises(psycopg.OperationalError) as caught:
        conn.execute("select 1")
    assert not geventpg.is_transient(caught.value)


def test_a_block_of_psycopgs_whose_connection_is_lost_does_not_end_quietly(name, notes, admin):
    with (
        pytest.raises(psycopg.OperationalError, match="lost") as caught,
        geventpg.get_pool(name).connection() as conn,
        conn.transaction(),
    ):
        conn.execute(INSERT, ("lost",))
        terminate(admin, conn.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("select 1")
    assert geventpg.is_transient(caught.value)
    assert notes() == []
