"""A real Celery worker in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
How = Literal["warm", "cold", "kill"]
_SIGNALS = {"warm": signal.SIGTERM, "cold": signal.SIGQUIT, "kill": signal.SIGKILL}


class CeleryWorker:
    """``celery -A app worker -P pool -c concurrency``, its log, and ways to stop it.

    :param app: what ``-A`` gets, importable from the repository's root: ``tests.apps.simple``.
    :param env: added to the environment of this process.
    :param args: more arguments for the worker.
    """

    def __init__(
        self,
        app: str,
        log_path: Path,
        *,
        pool: str = "gevent",
        concurrency: int = 10,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
    ) -> None:
        self.name = f"worker-{uuid.uuid4().hex[:8]}"
        self.log_path = log_path
        self._arguments = [
            *(sys.executable, "-m", "celery", "-A", app, "worker"),
            *("-P", pool, "-c", str(concurrency), "-n", f"{self.name}@%h", "-l", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *args,
        ]
        # What a worker that is killed leaves behind goes when pytest tidies up.
        folders = {"TMPDIR": str(log_path.parent)}
        self._env = {**os.environ, **folders, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._env["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(ROOT), self._env.get("PYTHONPATH")])
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """Everything the worker has written so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def launched(self) -> bool:
        """Return whether there ever was a process."""
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the worker has not been launched"
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the worker's exit status, None while it runs."""
        assert self._process is not None, "the worker has not been launched"
        return self._process.poll()

    def launch(self) -> None:
        """Start the process and return at once; for workers that are expected to fail."""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=ROOT,
                start_new_session=True,
            )

    def start(self, timeout: float = 30.0) -> None:
        """Start the process and wait until it takes tasks."""
        self.launch()

        def ready() -> bool:
            assert self.returncode is None, f"the worker ended ({self.returncode}):\n{self.log}"
            return re.search(rf"{self.name}@\S+ ready\.", self.log) is not None

        try:
            wait_until(ready, timeout, interval=0.02, message="the worker is ready")
        except BaseException:
            print(self.log)
            self.stop("kill")
            raise

    def wait_for_log(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait until the log matches *pattern*, and return the match."""
        match = wait_until(
            lambda: re.search(pattern, self.log), timeout, 0.02, f"the log has {pattern!r}"
        )
        assert match is not None
        return match

    def signal(self, how: How) -> None:
        """Ask the worker to stop, and return at once."""
        os.kill(self.pid, _SIGNALS[how])

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the worker's own end and return its exit status."""
        assert self._process is not None, "the worker has not been launched"
        return self._process.wait(timeout)

    def stop(self, how: How = "warm", timeout: float = 20.0) -> int:
        """Stop the worker and return its exit status.

        ``"warm"`` (SIGTERM) lets running tasks end, ``"cold"`` (SIGQUIT) does not, ``"kill"`` is
        SIGKILL for the worker and its children. A worker that is still there after *timeout*
        seconds is killed and :exc:`subprocess.TimeoutExpired` raised.
        """
        process = self._process
        assert process is not None, "the worker has not been launched"
        try:
            if process.poll() is None:
                process.send_signal(_SIGNALS[how])
                process.wait(timeout)
        finally:
            # The worker leads its session: its prefork children go with it, whatever happened.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode
