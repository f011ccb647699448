"""What all servers of this package share: a directory, a port, a process, and leaving no trace."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from .accounts import Account, reachable_temp_dir, server_environment, unprivileged_account
from .errors import ServerError
from .keeper import Keeper
from .ports import reserve_port
from .started import Started

__all__ = ["ServerProcess"]

_HOST = "127.0.0.1"
_POLL_INTERVAL = 0.01
_PORT_ATTEMPTS = 5
_RESERVABLE = sys.platform == "linux"  # elsewhere a bound port cannot be bound again


class ServerProcess(Started):
    """A server in a process and a temporary directory of its own, on a TCP port that stays its own.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. The server is stopped and
    its directory removed by :meth:`close`, at interpreter exit, and also when this process is
    killed: a small shell process watches for that. A SIGINT to this process's group (Ctrl-C) does
    not reach the server. No other program gets its port while it is down (on Linux).

    Run by root, it runs as the unprivileged account that the wheel creates (``pgserver``), or as
    ``nobody`` where no account can be created.

    Not for several threads or greenlets at once: one owner starts and stops it. Methods wait
    cooperatively if gevent has patched ``time`` and ``subprocess``, else they block.
    """

    _name: ClassVar[str]  # for messages
    _pid_file: ClassVar[str]  # where the server writes its process id, below its directory
    _close_signal: ClassVar[signal.Signals]  # the quickest orderly end

    def __init__(self, start_timeout: float) -> None:
        self.start_timeout = start_timeout
        self._account: Account | None = None
        self._base: Path | None = None
        self._port: int | None = None
        self._reservation: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: Keeper | None = None
        self._owner_pid = os.getpid()

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self.running and self._process else "stopped"
        return f"<{self._title} on port {self._port} ({state})>"

    # -- where it is -----------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The address the server listens on."""
        return _HOST

    @property
    def port(self) -> int:
        """The TCP port; the same for the life of this object, restarts included."""
        if self._port is None:
            raise self._not_started()
        return self._port

    @property
    def directory(self) -> Path:
        """The temporary directory with everything the server writes."""
        if self._base is None:
            raise self._not_started()
        return self._base

    @property
    def pid(self) -> int:
        """Id of the server's (main) process; :exc:`ServerError` if it is not running."""
        if self._process is None or not self.running:
            raise ServerError(f"{self._name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server is alive (it may not be ready yet)."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the server has written to its log."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it accepts connections; nothing if it runs already.

        :raises ServerError: if it is not ready within ``start_timeout``.
        """
        if self.running:
            return
        deadline = time.monotonic() + self.start_timeout
        first = self._base is None
        if first:
            self._make_directory()
            self._prepare(deadline)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._port is None:
                self._choose_port()
            self._launch()
            try:
                self.wait_ready(deadline - time.monotonic())
                break
            except ServerError:
                self._reap(signal.SIGQUIT, 5.0)
                port_taken = "Address already in use" in self.log
                if not (first and port_taken and attempt < _PORT_ATTEMPTS):
                    raise
                self._release_port()
        if first:
            self._complete()

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until a connection succeeds.

        :raises ServerError: if the server dies meanwhile, or after *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            if not self.running:
                raise self._error(f"{self._name} ended while starting")
            try:
                self._probe()
                return
            except psycopg.OperationalError as exc:
                if time.monotonic() >= deadline:
                    raise self._error(f"{self._name} was not ready in {timeout:.1f} s") from exc
            time.sleep(_POLL_INTERVAL)

    def close(self) -> None:
        """Stop the server, remove its directory. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._owner_pid:
            return  # a forked child: the server belongs to the parent
        atexit.unregister(self.close)
        try:
            self._reap(self._close_signal, 5.0)
        finally:
            if self._base is not None:
                shutil.rmtree(self._base, ignore_errors=True)
                self._base = None
            self._release_port()
            if self._keeper is not None:
                self._keeper.dismiss()
                self._keeper = None

    def kill(self) -> None:
        """Kill the server with SIGKILL: its clients hear no goodbye from it."""
        if self._process is not None and self.running:
            self._process.kill()
            self._process.wait()
            self._forget_pid()

    # -- for the servers -------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        return type(self).__name__

    def _prepare(self, deadline: float) -> None:
        """Fill the fresh directory, before the first start."""
        raise NotImplementedError

    def _launch(self) -> None:
        """Call :meth:`_spawn` with what is to be run."""
        raise NotImplementedError

    def _probe(self) -> None:
        """Connect once; :exc:`psycopg.OperationalError` if that fails."""
        raise NotImplementedError

    def _complete(self) -> None:
        """Do what has to be done once, after the first start."""

    def _make_directory(self) -> None:
        self._account = unprivileged_account()
        self._base = Path(tempfile.mkdtemp(prefix="geventpg-", dir=reachable_temp_dir()))
        atexit.register(self.close)
        self._keeper = Keeper(self._base, self._pid_file)
        self._own(self._base)

    def _own(self, *paths: Path) -> None:
        """Make the account that runs the server the owner of *paths*."""
        if self._account is not None:
            self._account.own(*paths)

    def _write_private(self, name: str, text: str) -> Path:
        """Write a file that only the server can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        self._own(path)
        return path

    def _spawn(
        self, arguments: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._popen_options(environment or {}),
            )

    def _popen_options(self, environment: Mapping[str, str]) -> dict[str, Any]:
        options: dict[str, Any] = {
            "cwd": self.directory,
            "start_new_session": True,  # our group's SIGINT is not meant for the server
            "env": {**server_environment(), "LC_ALL": "C", **environment},
        }
        if self._account is not None:
            options |= self._account.popen_options
        return options

    def _reap(self, signum: signal.Signals, timeout: float) -> None:
        """Signal the server and wait for its end, with more force whenever *timeout* passes."""
        process = self._process
        if process is None:
            return
        for step in (signum, signal.SIGQUIT):
            if process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, step)
                # A stopped process (SIGSTOP) would not even notice.
                os.kill(process.pid, signal.SIGCONT)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                timeout = 5.0
        self.kill()
        self._forget_pid()

    def _forget_pid(self) -> None:
        """Remove the number of a dead server: the keeper must not signal its next process."""
        if self._base is not None:
            (self._base / self._pid_file).unlink(missing_ok=True)

    def _choose_port(self) -> None:
        reservation = reserve_port(_HOST)
        self._port = int(reservation.getsockname()[1])
        if _RESERVABLE:
            self._reservation = reservation
        else:
            reservation.close()

    def _release_port(self) -> None:
        self._port = None
        if self._reservation is not None:
            self._reservation.close()
            self._reservation = None

    def _not_started(self) -> ServerError:
        return ServerError(f"{self._name} has not been started")

    def _error(self, message: str) -> ServerError:
        tail = "\n".join(self.log.splitlines()[-20:])
        return ServerError(f"{message}; the end of its log:\n{tail}")
