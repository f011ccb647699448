"""The PgBouncer of the fault kit is a real one, in every pool mode and through every fault."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.testing import EmbeddedPostgres, PgBouncer, ServerError, TcpProxy
from geventpg.testing.programs import HIDING, require_program
from tests.support import wait_until
from tests.support.processes import exists
from tests.support.script import run_script

Conn = psycopg.Connection[Any]


@pytest.fixture(autouse=True)
def _pgbouncer() -> None:
    require_program("pgbouncer")


@pytest.fixture
def bouncer(embedded_pg: EmbeddedPostgres) -> Iterator[PgBouncer]:
    with PgBouncer(embedded_pg) as running:
        yield running


def connect(bouncer: PgBouncer, **options: Any) -> Conn:
    return psycopg.connect(bouncer.dsn, autocommit=True, prepare_threshold=None, **options)


def backend_pid(conn: Conn) -> int:
    row = conn.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    pid: int = row[0]
    return pid


def somebody_waits(bouncer: PgBouncer) -> bool:
    return any(pool["cl_waiting"] for pool in bouncer.admin("SHOW POOLS"))


# -- pool modes ----------------------------------------------------------------------------------


def test_in_session_mode_a_client_keeps_its_server_until_it_leaves(embedded_pg):
    with (
        PgBouncer(embedded_pg, "session", pool_size=1) as bouncer,
        connect(bouncer) as first,
        connect(bouncer) as second,
    ):
        server = backend_pid(first)
        waiter = gevent.spawn(backend_pid, second)
        wait_until(lambda: somebody_waits(bouncer))
        assert not waiter.ready()
        first.close()
        assert waiter.get(timeout=5) == server


def test_in_transaction_mode_a_client_keeps_its_server_until_it_commits(embedded_pg):
    with (
        PgBouncer(embedded_pg, pool_size=1) as bouncer,
        connect(bouncer) as first,
        connect(bouncer) as second,
    ):
        server = backend_pid(first)
        assert backend_pid(second) == server
        first.execute("BEGIN")
        waiter = gevent.spawn(backend_pid, second)
        wait_until(lambda: somebody_waits(bouncer))
        assert not waiter.ready()
        first.execute("COMMIT")
        assert waiter.get(timeout=5) == server


def test_in_statement_mode_there_are_no_transactions(embedded_pg):
    with (
        PgBouncer(embedded_pg, "statement", pool_size=1) as bouncer,
        connect(bouncer) as first,
        connect(bouncer) as second,
    ):
        assert backend_pid(first) == backend_pid(second)
        with pytest.raises(psycopg.OperationalError, match="not allowed in statement"):
            first.execute("BEGIN")


def test_an_unknown_pool_mode_is_refused(embedded_pg):
    with pytest.raises(ValueError, match="session, transaction, statement"):
        PgBouncer(embedded_pg, "greenlet")  # type: ignore[arg-type]


# -- settings and addresses ----------------------------------------------------------------------


def test_its_dsn_leads_to_the_targets_database_and_another(embedded_pg, bouncer):
    assert conninfo_to_dict(bouncer.dsn)["port"] == str(bouncer.port) != str(embedded_pg.port)
    dsn = bouncer.dsn_for(conninfo_to_dict(embedded_pg.create_database("behind"))["dbname"])
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT current_database()").fetchone() == ("behind",)
    bouncer.admin("KILL behind")
    with embedded_pg.connect() as admin:
        admin.execute("DROP DATABASE behind WITH (FORCE)")


def test_settings_reach_it(embedded_pg):
    settings = {"default_pool_size": 3, "query_wait_timeout": 77}
    with PgBouncer(embedded_pg, settings=settings) as bouncer:
        config = {row["key"]: row["value"] for row in bouncer.admin("SHOW CONFIG")}
    assert (config["default_pool_size"], config["query_wait_timeout"]) == ("3", "77")
    assert (config["pool_mode"], config["unix_socket_dir"]) == ("transaction", "")


@pytest.mark.parametrize("setting", ["no_such_setting", "a\nline"])
def test_a_bad_setting_is_an_error_and_leaves_nothing_behind(embedded_pg, setting):
    bouncer = PgBouncer(embedded_pg, settings={setting: 1})
    with pytest.raises((ServerError, ValueError), match=r"no_such_setting|one line"), bouncer:
        pass
    with pytest.raises(ServerError, match="not been started"):
        _ = bouncer.directory


def test_a_user_and_password_with_odd_characters_can_log_in(embedded_pg):
    user, password = "odd \"user'", "p\"a's\\s wörd"
    with embedded_pg.connect() as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                sql.Identifier(user), sql.Literal(password)
            )
        )
    dsn = make_conninfo(embedded_pg.dsn, user=user, password=password)
    with PgBouncer(dsn) as bouncer:
        assert bouncer.admin("SHOW VERSION")
        with connect(bouncer) as conn:
            assert conn.execute("SELECT current_user").fetchone() == (user,)
    with embedded_pg.connect() as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))


def test_a_wrong_password_is_refused(bouncer):
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        connect(bouncer, password="wrong")


def test_a_target_without_a_user_is_refused():
    with pytest.raises(ServerError, match="name a user"), PgBouncer("host=127.0.0.1"):
        pass


def test_what_is_secret_is_in_no_repr_and_no_readable_file(embedded_pg, bouncer):
    assert embedded_pg.password not in repr(bouncer)
    for path in bouncer.directory.iterdir():
        if embedded_pg.password in path.read_text():
            assert path.stat().st_mode & 0o077 == 0


def test_without_the_program_it_says_which_package_it_lacks(embedded_pg, monkeypatch):
    monkeypatch.setenv(HIDING, "pgbouncer")
    with pytest.raises(ServerError, match="apt-get install pgbouncer"):
        PgBouncer(embedded_pg)


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_stopped_or_killed_it_drops_refuses_and_starts_again_on_its_port(bouncer, how):
    before = bouncer.dsn, bouncer.pid
    with connect(bouncer) as conn:
        backend_pid(conn)
        getattr(bouncer, how)()
        getattr(bouncer, how)()
        assert not bouncer.running
        assert "stopped" in repr(bouncer)
        with pytest.raises(psycopg.OperationalError):
            backend_pid(conn)
    with pytest.raises(psycopg.OperationalError, match="refused"):
        connect(bouncer)
    bouncer.start()
    assert bouncer.dsn == before[0]
    assert bouncer.pid != before[1]
    with connect(bouncer) as conn:
        backend_pid(conn)


def test_restarted_it_is_another_process(bouncer):
    before = bouncer.pid
    bouncer.restart()
    assert bouncer.pid != before
    assert not exists(before)


def test_paused_it_says_nothing_until_resumed(bouncer):
    with connect(bouncer) as conn:
        backend_pid(conn)
        bouncer.pause()
        asking = gevent.spawn(backend_pid, conn)
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            connect(bouncer, connect_timeout=2)
        assert not asking.ready()
        bouncer.resume()
        assert asking.get(timeout=5)


def test_paused_it_can_be_stopped(bouncer):
    bouncer.pause()
    bouncer.stop()
    assert not bouncer.running
    with pytest.raises(ServerError, match="not running"):
        bouncer.pause()


def test_its_own_pause_makes_clients_wait(bouncer):
    with connect(bouncer) as conn:
        backend_pid(conn)
        assert bouncer.admin("PAUSE") == []
        asking = gevent.spawn(backend_pid, conn)
        wait_until(lambda: somebody_waits(bouncer))
        assert not asking.ready()
        bouncer.admin("RESUME")
        assert asking.get(timeout=5)


def test_the_network_behind_it_can_fail(pg, dsn):
    with (
        TcpProxy(pg.host, pg.port) as proxy,
        PgBouncer(proxy.dsn(dsn)) as bouncer,
        connect(bouncer) as conn,
    ):
        first = backend_pid(conn)
        proxy.drop_connections(reset=True)
        wait_until(lambda: not any(row["sv_idle"] for row in bouncer.admin("SHOW POOLS")))
        assert backend_pid(conn) != first


OWNER = """
    import os, signal, sys
    if {patched}:
        from gevent import monkey; monkey.patch_all()
    from geventpg.testing import PgBouncer
    bouncer = PgBouncer(sys.argv[1])
    bouncer.start()
    print(bouncer.pid, bouncer.directory, flush=True)
    {ending}
"""


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])
@pytest.mark.parametrize(
    ("ending", "status"),
    [
        pytest.param("pass", 0, id="returns"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, id="is-killed"),
        pytest.param(
            "bouncer.pause(); os.kill(os.getpid(), signal.SIGKILL)",
            -signal.SIGKILL,
            id="is-killed-while-it-is-paused",
        ),
        pytest.param(
            "pid = os.fork(); pid or sys.exit(); os.waitpid(pid, 0); bouncer.admin('SHOW POOLS')",
            0,
            id="forks",
        ),
    ],
)
def test_it_ends_with_a_process_that(pg, patched, ending, status):
    done = run_script(OWNER.format(patched=patched, ending=ending), pg.dsn)
    assert done.returncode == status, done.stderr
    pid, directory = done.stdout.split()
    wait_until(lambda: not Path(directory).exists(), timeout=10)
    wait_until(lambda: not exists(int(pid)), timeout=10)
