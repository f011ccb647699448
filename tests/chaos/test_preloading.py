"""A real gunicorn that preloads an application with a live pool, then forks its workers."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import gevent.pool
import pytest

from tests.support import wait_until
from tests.support.process_sockets import children_of, disjoint
from tests.support.script import ROOT, clean_environment

WORKERS = 2
REQUESTS = 200


class Gunicorn:
    """A gunicorn on a free port; its log is in *log_path*."""

    def __init__(self, dsn: str, log_path: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log_path = log_path
        arguments = [
            *(sys.executable, "-m", "gunicorn", "--preload", "-k", "gevent"),
            *("-w", str(WORKERS), "-b", f"127.0.0.1:{self.port}", "--graceful-timeout", "10"),
            *("-c", "python:tests.apps.preloaded", "tests.apps.preloaded:application"),
        ]
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(
                arguments, cwd=ROOT, env=clean_environment(CONNINFO=dsn), stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return str(self._log_path.read_text(errors="replace"))

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log
        try:
            return bool(self.get())
        except (urllib.error.URLError, ConnectionError):
            return False

    def get(self, _number: int = 0) -> dict[str, int]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=20) as response:
            answer: dict[str, int] = json.loads(response.read())
            return answer

    def load(self) -> list[dict[str, int]]:
        """Send many requests at once and return the answers."""
        return list(gevent.pool.Pool(50).map(self.get, range(REQUESTS)))


@pytest.fixture
def gunicorn(pg, dsn, admin, tmp_path) -> Iterator[Gunicorn]:
    """Return a running server whose master's pool is open."""
    pytest.importorskip("gunicorn")
    admin.execute("drop table if exists preloaded; create table preloaded (process int)")
    server = Gunicorn(dsn, tmp_path / "gunicorn.log")
    try:
        wait_until(server.answers, timeout=20, interval=0.05)
        yield server
    finally:
        if server.process.poll() is None:
            os.kill(server.process.pid, signal.SIGINT)
            server.process.wait(20)
        print(server.log)
        admin.execute("drop table preloaded")


@pytest.mark.hang_limit(90)
def test_gunicorn_forks_workers_with_a_live_pool_reloads_and_ends(gunicorn, pg, admin, backends):
    master = gunicorn.process.pid
    for reload in range(2):
        answers = gunicorn.load()
        workers = {answer["process"] for answer in answers}
        assert len(answers) == REQUESTS
        assert workers == children_of(master)
        assert len(workers) == WORKERS
        sessions = disjoint({master, *workers}, pg.port)
        # No worker uses the master's sessions, nor another worker's.
        used = {(answer["session"], answer["process"]) for answer in answers}
        assert len({session for session, _ in used}) == len(used)
        assert sessions <= 4 * (WORKERS + 1)
        print(f"{REQUESTS} requests to {WORKERS} workers, {sessions} sessions, none shared")
        if reload == 0:
            # The master still has the sessions that it had before it forked.
            os.kill(master, signal.SIGHUP)
            words = wait_until(
                lambda: [s for s in gunicorn.log.split("\n") if "the master has" in s]
            )
            now, *before = map(int, re.findall(r"\d+", words[0].partition("the master has")[2]))
            assert len(before) == 2
            assert now in before
            wait_until(lambda old=workers: not old & children_of(master), timeout=15)
            wait_until(gunicorn.answers, timeout=15, interval=0.05)
    rows = "select count(*) from preloaded where process <> %s"
    assert admin.execute(rows, [master]).fetchone()[0] >= 2 * REQUESTS
    since = time.monotonic()
    os.kill(master, signal.SIGTERM)
    assert gunicorn.process.wait(20) == 0
    print(f"ended in {time.monotonic() - since:.2f} s")
    wait_until(lambda: not backends())
    assert "Traceback" not in gunicorn.log
