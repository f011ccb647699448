"""A real `celery -P gevent` worker, from start to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .plan import CONCURRENCY
from .worker_settings import WorkerSettings

STOP_SECONDS = 8.0  # Celery needs about 4 when nothing holds it up
COMMAND = (
    *(sys.executable, "-m", "celery", "--app", "examples.demo.app", "worker"),
    *("--pool", "gevent", "--concurrency", str(CONCURRENCY), "--loglevel", "WARNING"),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
)


@contextmanager
def running_worker(settings: WorkerSettings, log_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker has a session of its own, so that Ctrl-C reaches the demo only."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            COMMAND,
            env=settings.to_environ(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
