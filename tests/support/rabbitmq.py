"""A real RabbitMQ server, for Celery's other broker."""

from __future__ import annotations

import os
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


class RabbitServer:
    """rabbitmq-server on free ports with a directory of its own; a context manager."""

    def __init__(self) -> None:
        self._program = require_program("rabbitmq-server")
        self._epmd = require_program("epmd")
        self.port = free_port()
        self._epmd_port = free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="geventpg-rabbit-")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def __enter__(self) -> Self:
        directory = Path(self._directory.name)
        (directory / "enabled_plugins").write_text("[].")
        (directory / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{self.port}\n")
        log = directory / "log"
        environment = {
            **os.environ,
            "HOME": str(directory),  # for the Erlang cookie
            "RABBITMQ_NODENAME": f"geventpg{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "ERL_EPMD_PORT": str(self._epmd_port),  # a daemon of its own, ended with it
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [self._program],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def ready() -> bool:
            assert self._process is not None
            text = log.read_text(errors="replace")
            assert self._process.poll() is None, f"rabbitmq-server ended:\n{text}"
            return "completed with" in text

        try:
            wait_until(ready, timeout=40, interval=0.05, message="rabbitmq-server is ready")
        except BaseException:
            print(log.read_text(errors="replace"))
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None
            self._end_epmd()
        self._directory.cleanup()

    def _end_epmd(self) -> None:
        # It detaches itself from the server, and refuses while it still knows a node.
        def ended() -> bool:
            done = subprocess.run(
                [self._epmd, "-port", str(self._epmd_port), "-kill"],
                capture_output=True,
                check=False,
            )
            return b"Killed" in done.stdout or b"Cannot connect" in done.stdout + done.stderr

        wait_until(ended, timeout=5, interval=0.05, message="epmd has ended")
