"""A Python program in a process of its own, told what to do line by line; base of the proxies."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

from .ports import free_port
from .started import Started

__all__ = ["HelperProcess", "ProxyError"]

_HOST = "127.0.0.1"
_PORT_ATTEMPTS = 5


class ProxyError(RuntimeError):
    """The proxy process refused a command or is gone."""


class HelperProcess(Started):
    """A process that listens on a port, answers each line with ``ok …`` or ``error …``.

    It ends with this process, as its standard input does. A forked child cannot end it.
    """

    _program: ClassVar[Path]  # needs nothing but the standard library

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._port: int | None = None
        self._lock = threading.Lock()  # a command and its answer belong together
        self._owner_pid = os.getpid()

    @property
    def host(self) -> str:
        """The address the proxy listens on."""
        return _HOST

    @property
    def port(self) -> int:
        """The port the proxy listens on."""
        if self._port is None:
            raise ProxyError("the proxy has not been started")
        return self._port

    def start(self) -> None:
        """Start the process; nothing if it runs already."""
        if self._process is None:
            self._launch()

    def close(self) -> None:
        """End the proxy process. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._owner_pid:
            return  # a forked child: the proxy belongs to the parent
        process, self._process, self._port = self._process, None, None
        if process is None:
            return
        process.kill()  # nothing to save
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _arguments(self) -> list[str | Path]:
        """Return the program's arguments but the last one, its port."""
        raise NotImplementedError

    def _launch(self) -> None:
        error: ProxyError | None = None
        for _ in range(_PORT_ATTEMPTS):
            port = free_port(_HOST)
            self._process = subprocess.Popen(
                # By path and isolated, not with -m: it needs nothing of ours, so it starts faster.
                [sys.executable, "-I", self._program, *self._arguments(), str(port)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # our group's SIGINT is not meant for it
            )
            try:
                self._read_answer()
            except ProxyError as exc:
                self.close()
                error = exc
            else:
                self._port = port
                return
        raise ProxyError(f"the proxy process does not start: {error}") from error

    def _command(self, command: str) -> str:
        with self._lock:
            if self._process is None or self._process.stdin is None:
                raise ProxyError("the proxy has not been started")
            try:
                self._process.stdin.write(command.encode() + b"\n")
            except OSError as exc:
                raise ProxyError(f"the proxy process is gone: {exc}") from exc
            return self._read_answer()

    def _read_answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().decode().strip()
        status, _, value = answer.partition(" ")
        if status != "ok":
            raise ProxyError(value or "the proxy process is gone")
        return value
