"""`geventpg top` on two real workers: their pools, and the holders of connections."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys

import pytest

from tests.celery_integration.conftest import lent
from tests.support import wait_until
from tests.support.script import ROOT, clean_environment

STATEMENT = "select pg_sleep(%s)"


@pytest.fixture
def two_workers(shared_workers):
    """Return a gevent and a prefork worker, each with a task that holds a connection."""
    with lent(shared_workers("gevent")) as first, lent(shared_workers("prefork")) as second:
        workers = first, second
        results = [worker.send("sleep", "top", 60) for worker in workers]
        for worker in workers:
            wait_until(lambda w=worker: w.running(), 10, 0.02, "the task's statement runs")
        yield list(zip(workers, results, strict=True))
        for worker in workers:
            worker.cancel_everything()


def start(redis_server, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "geventpg", "top", "-A", "tests.apps.work", *arguments],
        cwd=ROOT,
        env=clean_environment(BROKER_URL=redis_server.url, COLUMNS="200", LINES="50", TERM="xterm"),
        **options,
    )


def test_lines_show_the_pools_of_both_workers_and_the_holders_of_connections(
    two_workers, redis_server
):
    process = start(
        redis_server, "--count", "2", "--timeout", "15", "--interval", "0.1",
        *(part for worker, _ in two_workers for part in ("-d", worker.node)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    for worker, result in two_workers:
        pids = {backend.pid for backend in worker.running()}
        assert f" {worker.node} pid=" in out
        (backend,) = set(re.findall(rf"by sleep\[{result.id}\], backend (\d+), ACTIVE", out))
        assert int(backend) in pids
        assert re.search(rf"\[{result.id}\].*: {re.escape(STATEMENT)}$", out, re.MULTILINE)
    assert re.search(r"pool=default in_use=1/5 .*uses/s=", out)
    assert "\x1b" not in out


def test_on_a_terminal_it_is_a_live_picture_until_it_is_interrupted(two_workers, redis_server):
    terminal, inner = pty.openpty()
    process = start(redis_server, "--interval", "1", stdin=inner, stdout=inner, stderr=inner)
    os.close(inner)
    os.set_blocking(terminal, False)
    seen = b""

    def look():
        nonlocal seen
        with contextlib.suppress(BlockingIOError, OSError):  # OSError: the other end is closed
            seen += os.read(terminal, 65536)
        return seen

    wanted = [worker.node for worker, _ in two_workers] + [result.id for _, result in two_workers]
    try:
        # Cells may be cut off.
        wait_until(lambda: all(text[:10].encode() in look() for text in wanted), 30, 0.02, "both")
        os.kill(process.pid, signal.SIGINT)
        wait_until(lambda: look() and process.poll() is not None, 30, 0.02, "it has ended")
        assert process.returncode == 0, seen
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    # The alternate screen, and nothing that clears it between two pictures.
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert b"\x1b[2J" not in seen
    assert b"who holds connections" in seen


def test_an_app_that_is_not_there_is_said_in_a_line():
    done = subprocess.run(
        [sys.executable, "-m", "geventpg", "top", "-A", "tests.apps.no_such_app"],
        cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: the app 'tests.apps.no_such_app' cannot be loaded")
    assert "Traceback" not in done.stderr


def test_top_says_that_no_worker_answers_and_ends_with_status_1(redis_server):
    process = start(
        redis_server, "--count", "1", "--timeout", "0.2", "-d", "nobody@nowhere",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no worker answered" in out
    assert "no worker answered" in err
