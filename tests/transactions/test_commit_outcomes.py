"""A connection that is cut around COMMIT: what is reported is what happened, and happens once."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg
from geventpg.connection.commit import Mark, Outcome, look_up
from tests.support import wait_until

INSERT = "insert into notes values (%s)"
DIRECTIONS = ["from_server", "from_client"]


@pytest.fixture
def name(configure, proxy, dsn):
    """Return the name of a pool behind the proxy."""
    return configure(proxy.dsn(dsn), max_size=2)


def bytes_to_the_end(proxy, name, statement):
    """Return what a transaction hears from the server after its only statement."""
    with geventpg.transaction(name) as conn:
        conn.execute(statement)
        before = proxy.forwarded("from_server")
    return proxy.forwarded("from_server") - before


# A transaction of this size says less than 100 bytes, and hears less, from here to its end.
OFFSETS = range(0, 100, 3)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_transaction_cut_anywhere_around_its_commit_ends_as_reported(
    name, proxy, notes, direction
):
    reported = []
    for offset in OFFSETS:
        note = f"{offset:03}"
        try:
            with geventpg.transaction(name) as conn:
                conn.execute(INSERT, (note,))
                proxy.cut_next(offset, direction)
        except geventpg.CommitUnknown:
            pytest.fail("this server could be asked")
        except psycopg.OperationalError:
            continue
        reported.append(note)
    assert notes() == reported
    # Both ends are met: cut before COMMIT took effect, and behind it.
    assert 0 < len(reported) < len(OFFSETS)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_repeated_transaction_cut_anywhere_around_its_commit_happens_exactly_once(
    name, proxy, notes, direction
):
    attempts = []

    def work(conn, offset):
        conn.execute(INSERT, (f"{offset:03}",))
        if not attempts:
            proxy.cut_next(offset, direction)
        attempts.append(offset)

    repeated = 0
    for offset in OFFSETS:
        attempts.clear()
        geventpg.run_in_transaction(work, offset, pool=name)
        repeated += len(attempts) - 1
    assert notes() == [f"{offset:03}" for offset in OFFSETS]
    assert 0 < repeated < len(OFFSETS)


def test_a_commit_cut_off_while_the_server_is_still_at_it_is_waited_for(
    name, proxy, notes, admin, backends
):
    # A deferred trigger makes COMMIT last until the test lets it go on.
    admin.execute(
        "create function hold() returns trigger language plpgsql as"
        " $$ begin perform pg_advisory_xact_lock(4711); return null; end $$"
    )
    admin.execute(
        "create constraint trigger hold after insert on notes deferrable initially deferred"
        " for each row execute function hold()"
    )
    admin.execute("select pg_advisory_lock(4711)")
    try:

        def work():
            with geventpg.transaction(name) as conn:
                conn.execute(INSERT, ("kept",))

        worker = gevent.spawn(work)
        wait_until(lambda: any(backend.query == "COMMIT" for backend in backends()))
        proxy.drop_connections()
        gevent.sleep(0.2)  # it looks, and finds the transaction in progress
        assert not worker.ready()
    finally:
        admin.execute("select pg_advisory_unlock(4711)")
    worker.get(timeout=5)
    assert notes() == ["kept"]
    admin.execute("drop function hold cascade")


def test_a_commit_whose_outcome_cannot_be_looked_up_is_unknown_and_not_repeated(
    name, proxy, notes, monkeypatch
):
    monkeypatch.setattr(look_up, "__defaults__", (0.3,))
    length = bytes_to_the_end(proxy, name, "delete from notes")
    attempts = []

    def work(conn):
        attempts.append(conn)
        conn.execute(INSERT, ("perhaps",))
        proxy.cut_after(0)  # the proxy lets no more connections through
        proxy.cut_next(length - 1, "from_server")

    with pytest.raises(geventpg.CommitUnknown, match="committed or not") as caught:
        geventpg.run_in_transaction(work, pool=name)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert len(attempts) == 1
    proxy.cut_after(None)


def test_an_idempotent_transaction_is_repeated_when_its_outcome_is_unknown(
    name, proxy, notes, monkeypatch
):
    monkeypatch.setattr("geventpg.connection.commit.look_up", lambda *_args: Outcome.UNKNOWN)
    length = bytes_to_the_end(proxy, name, "delete from notes")
    attempts = []

    def work(conn):
        attempts.append(conn)
        conn.execute("delete from notes")
        conn.execute(INSERT, ("kept",))
        if len(attempts) == 1:
            proxy.cut_next(length - 1, "from_server")

    geventpg.run_in_transaction(work, pool=name, idempotent=True)
    assert len(attempts) == 2
    assert notes() == ["kept"]


def test_another_servers_number_says_nothing(name):
    pool = geventpg.get_pool(name)
    elsewhere = Mark(3, (b"1", b"00000001"))
    assert look_up(elsewhere, pool.connection, 5.0) is Outcome.UNKNOWN


def test_a_transaction_that_wrote_nothing_is_not_committed_and_can_be_repeated(name, proxy):
    length = bytes_to_the_end(proxy, name, "select 1")
    pids = []

    def work(conn):
        pids.append(conn.info.backend_pid)
        conn.execute("select 1")
        if len(pids) == 1:
            proxy.cut_next(length - 1, "from_server")
        return "read"

    assert geventpg.run_in_transaction(work, pool=name) == "read"
    assert len(pids) == 2


def test_a_read_only_transaction_is_not_asked_for_its_number(name, proxy):
    def bytes_of_a_transaction(read_only):
        with geventpg.transaction(name, read_only=read_only) as conn:
            conn.execute("select 1")
            before = proxy.forwarded("from_client")
        return proxy.forwarded("from_client") - before

    bytes_of_a_transaction(False)
    assert bytes_of_a_transaction(True) == len(b"Q0000COMMIT0")
    assert bytes_of_a_transaction(False) > 40
