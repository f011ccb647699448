"""A primary and its standby fail over as in production."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors

from geventpg.testing import EmbeddedPostgres, PrimaryAndStandby, ServerError
from tests.support import wait_until
from tests.support.processes import exists


@pytest.fixture(scope="module")
def started() -> Iterator[PrimaryAndStandby]:
    with PrimaryAndStandby(settings={"max_connections": 50}, dbname="shop") as servers:
        with servers.primary.connect() as conn:
            conn.execute("CREATE TABLE orders (id int)")
        yield servers


@pytest.fixture
def pair(started: PrimaryAndStandby) -> PrimaryAndStandby:
    """Return a primary and a standby that follows it, whatever the test before has done."""
    if started.standby.running and not started.standby.in_recovery:
        started.rejoin()
    started.start()
    with started.primary.connect() as conn:
        conn.execute("TRUNCATE orders")
    started.wait_caught_up()
    return started


def orders(server: EmbeddedPostgres) -> list[int]:
    with server.connect() as conn:
        return [row[0] for row in conn.execute("SELECT id FROM orders ORDER BY id")]


def order(dsn: str, number: int) -> int:
    """Write through *dsn* and return the port of the server that took it."""
    with psycopg.connect(dsn, target_session_attrs="read-write") as conn:
        conn.execute("INSERT INTO orders VALUES (%s)", [number])
        return conn.info.port


def test_the_standby_follows_and_refuses_to_write(pair):
    assert order(pair.dsn, 1) == pair.primary.port
    pair.wait_caught_up()
    assert orders(pair.standby) == [1]
    assert (pair.primary.in_recovery, pair.standby.in_recovery) == (False, True)
    with psycopg.connect(pair.standby.dsn) as conn, pytest.raises(errors.ReadOnlySqlTransaction):
        conn.execute("INSERT INTO orders VALUES (2)")


def test_the_standby_has_the_primarys_settings_users_and_databases(pair):
    with psycopg.connect(pair.standby.dsn) as conn:
        assert conn.info.dbname == "shop"
        assert conn.pgconn.used_password
        assert conn.execute("SHOW max_connections").fetchone() == ("50",)


def test_the_dsn_names_both_and_the_session_decides(pair):
    for wanted, server in (("read-write", pair.primary), ("standby", pair.standby)):
        with psycopg.connect(pair.dsn, target_session_attrs=wanted) as conn:
            assert conn.info.port == server.port


def test_waiting_until_the_standby_has_caught_up_is_bounded(pair):
    with pair.standby.connect() as conn:
        conn.execute("SELECT pg_wal_replay_pause()")
        order(pair.dsn, 1)
        with pytest.raises(ServerError, match="not caught up"):
            pair.wait_caught_up(timeout=0.2)
        assert orders(pair.standby) == []
        conn.execute("SELECT pg_wal_replay_resume()")
    pair.wait_caught_up()
    assert orders(pair.standby) == [1]


def test_the_standby_follows_a_primary_that_comes_back(pair):
    pair.primary.kill()
    assert orders(pair.standby) == []
    pair.primary.start()
    order(pair.dsn, 1)
    pair.wait_caught_up()
    assert orders(pair.standby) == [1]


def test_a_standby_that_was_killed_catches_up(pair):
    pair.standby.kill()
    order(pair.dsn, 1)
    pair.start()
    pair.wait_caught_up()
    assert orders(pair.standby) == [1]


def test_a_killed_primary_is_replaced_and_rejoins_as_a_standby_on_its_port(pair):
    old, new = pair.primary, pair.standby
    ports = old.port, new.port
    order(pair.dsn, 1)
    pair.wait_caught_up()
    with new.connect() as staying:
        old.kill()
        pair.promote()
        assert staying.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
    assert order(pair.dsn, 2) == new.port
    with pytest.raises(ServerError, match=r"rejoin\(\) first"):
        old.start()
        pair.wait_caught_up()
    pair.rejoin()
    assert (pair.primary, pair.standby) == (new, old)
    assert (old.port, new.port) == ports
    pair.wait_caught_up()
    assert orders(old) == [1, 2]
    assert order(pair.dsn, 3) == new.port
    with psycopg.connect(old.dsn) as conn, pytest.raises(errors.ReadOnlySqlTransaction):
        conn.execute("INSERT INTO orders VALUES (4)")


def test_only_a_standby_can_be_promoted_and_only_an_old_primary_rejoins(pair):
    with pytest.raises(ServerError, match="only a standby"):
        pair.primary.promote()
    with pytest.raises(ServerError, match="not been promoted"):
        pair.rejoin()


def test_a_standby_of_a_server_that_is_down_is_an_error():
    with EmbeddedPostgres() as primary:
        primary.stop()
        standby = EmbeddedPostgres.standby_of(primary)
        with pytest.raises(ServerError, match="pg_basebackup failed"), standby:
            pass


def test_no_secret_is_in_its_repr(pair):
    assert pair.primary.password == pair.standby.password
    assert pair.primary.password not in repr(pair)


def test_closed_both_are_gone():
    with PrimaryAndStandby(version=18) as pair:
        servers = pair.primary, pair.standby
        pids = [server.pid for server in servers]
        directories = [server.directory for server in servers]
    pair.close()
    for pid in pids:
        wait_until(lambda pid=pid: not exists(pid))
    assert not any(directory.exists() for directory in directories)
