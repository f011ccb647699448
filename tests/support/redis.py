"""A real Redis server, for Celery's broker and result backend."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from geventpg.testing.ports import free_port
from geventpg.testing.programs import require_program
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from typing_extensions import Self


class RedisServer:
    """redis-server on a free port, with nothing on disk; a context manager."""

    def __init__(self) -> None:
        self._program = require_program("redis-server")
        self.port = 0
        self._directory = tempfile.TemporaryDirectory(prefix="geventpg-redis-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._directory.cleanup()

    def start(self) -> None:
        self.port = self.port or free_port()
        log = Path(self._directory.name, "log")
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [self._program, *arguments, "--dir", self._directory.name, "--logfile", str(log)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

        def ready() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, f"redis-server ended: {log.read_text()}"
            return log.exists() and "Ready to accept connections" in log.read_text()

        wait_until(ready, timeout=10, message="redis-server is ready")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # nothing to save
            self._process.wait()
            self._process = None
