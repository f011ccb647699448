"""What `ps` shows to other users of the machine: no secret in the processes that we start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.testing import EmbeddedPostgres, PgBouncer, PrimaryAndStandby, TcpProxy
from tests.support import wait_until
from tests.support.pools import sampling

SECRET = "0pen-sesame"

pytestmark = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")


def descendants() -> Iterator[Path]:
    """Yield ``/proc/<pid>`` of the processes that this one started, and they started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text()
        except OSError:
            continue  # gone
        parents[int(folder.name)] = int(status.rpartition(")")[2].split()[1])
    for pid in parents:
        ancestor = pid
        while (ancestor := parents.get(ancestor, 0)) > 1:
            if ancestor == os.getpid():
                yield Path("/proc", str(pid))
                break


class Watcher:
    """Reads what `ps` shows of our processes, again and again."""

    def __init__(self, *secrets: str) -> None:
        self._secrets = [secret.encode() for secret in secrets]
        self.programs: set[str] = set()

    def look(self) -> None:
        for folder in descendants():
            try:
                command = (folder / "cmdline").read_bytes()
                foreign = folder.stat().st_uid != os.geteuid()
                # A process of another account shows it its environment.
                environment = (folder / "environ").read_bytes() if foreign else b""
            except OSError:
                continue
            self.programs.add(Path(os.fsdecode(command.split(b"\0")[0])).name)
            for secret in self._secrets:
                assert secret not in command, command
                assert secret not in environment, command


def test_the_way_of_looking_sees_a_secret():
    watcher = Watcher(SECRET)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)", SECRET])
    try:
        with pytest.raises(AssertionError, match=SECRET):
            wait_until(watcher.look)
    finally:
        process.kill()
        process.wait()


def test_the_testing_kit_shows_no_password_and_hands_none_on(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "pg-password-of-mine")
    monkeypatch.setenv("GEVENTPG_CONNINFO", "password=conninfo-of-mine")
    monkeypatch.setenv("SOME_TOKEN", "token-of-mine")
    watcher = Watcher(SECRET, "pg-password-of-mine", "conninfo-of-mine", "token-of-mine")
    with sampling(watcher.look, 0.005), EmbeddedPostgres(password=SECRET) as server:
        server.create_database("other")
        with TcpProxy(server.host, server.port) as proxy:
            proxy.dsn(server.dsn)
        server.restart()
        assert SECRET not in server.log
    assert {"initdb", "postgres"} <= {name.partition(":")[0] for name in watcher.programs}


def test_a_standby_and_a_pooler_show_no_password(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "token-of-mine")
    watcher = Watcher(SECRET, "token-of-mine")
    with (
        sampling(watcher.look, 0.01),
        PrimaryAndStandby(password=SECRET) as pair,
        PgBouncer(pair.primary) as pooler,
    ):
        with psycopg.connect(pooler.dsn) as conn:
            assert conn.execute("select 1").fetchone() == (1,)
        pair.promote(timeout=20)
    assert {"pgbouncer", "pg_basebackup", "postgres"} <= {
        name.partition(":")[0] for name in watcher.programs
    }


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_a_celery_worker_shows_no_password(pool, celery_worker, redis_server, dsn):
    watcher = Watcher(str(conninfo_to_dict(dsn)["password"]), "sslpassword")
    with sampling(watcher.look, 0.02):
        worker = celery_worker(
            "tests.apps.work",
            pool=pool,
            concurrency=2,
            env={
                "BROKER_URL": redis_server.url,
                "GEVENTPG_CONNINFO": make_conninfo(dsn, sslpassword=SECRET),
            },
            args=("-l", "DEBUG"),
        )
        worker.stop("warm")
    assert any(name.startswith("python") for name in watcher.programs)
    assert str(conninfo_to_dict(dsn)["password"]) not in worker.log
    assert SECRET not in worker.log


def test_the_demo_hands_the_password_to_its_worker_in_the_environment(tmp_path, dsn):
    pytest.importorskip("celery")
    from examples.demo.worker_process import running_worker
    from examples.demo.worker_settings import WorkerSettings

    watcher = Watcher(SECRET)
    settings = WorkerSettings(
        way="geventpg",
        conninfo=make_conninfo(dsn, password=SECRET),
        results_file=str(tmp_path / "results"),
        queue="unused",
        broker_url="memory://",
        broker_options={},
    )
    with running_worker(settings, tmp_path / "log") as process:
        seen = f"/proc/{process.pid}/cmdline"
        wait_until(lambda: b"celery" in Path(seen).read_bytes())
        watcher.look()
        process.kill()
    assert SECRET not in (tmp_path / "log").read_text()
