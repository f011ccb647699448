"""A PgBouncer in front of a server, for the tests of programs that have one in production."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from .errors import ServerError
from .postgres import EmbeddedPostgres
from .programs import require_program
from .server_process import ServerProcess

__all__ = ["PgBouncer", "PoolMode"]

PoolMode = Literal["session", "transaction", "statement"]

_POOL_MODES: tuple[PoolMode, ...] = ("session", "transaction", "statement")
_ADMIN_DATABASE = "pgbouncer"


class PgBouncer(ServerProcess):
    """A real PgBouncer on a free TCP port, leading to all databases of one server.

    Use it as a context manager, or call :meth:`start` and :meth:`close`. Like
    :class:`~geventpg.testing.EmbeddedPostgres` it leaves nothing behind, keeps its port while it is
    down, is not root's, and belongs to one thread or greenlet at a time.

    Clients log in as the user of *target*, with its password (SCRAM). The program comes from the
    system: ``apt-get install pgbouncer``.

    :param target: the server: an :class:`~geventpg.testing.EmbeddedPostgres`, running when
        this is started, or a conninfo string with host, user and password, for example
        ``proxy.dsn(server.dsn)``.
    :param pool_mode: ``"session"``, ``"transaction"`` or ``"statement"``.
    :param pool_size: server connections for each database and user, ``default_pool_size``.
    :param settings: further settings of the section ``[pgbouncer]``, or other values for ours.
    :param start_timeout: seconds that :meth:`start` may take.
    :raises ServerError: if PgBouncer is not installed.
    """

    _name = "PgBouncer"
    _pid_file = "pgbouncer.pid"
    _close_signal = signal.SIGKILL  # it has nothing to save

    def __init__(
        self,
        target: EmbeddedPostgres | str,
        pool_mode: PoolMode = "transaction",
        pool_size: int = 5,
        settings: Mapping[str, object] | None = None,
        *,
        start_timeout: float = 10.0,
    ) -> None:
        super().__init__(start_timeout)
        if pool_mode not in _POOL_MODES:
            raise ValueError(f"pool_mode must be one of {', '.join(_POOL_MODES)}, not {pool_mode}")
        self._program = require_program("pgbouncer")
        self._target = target
        self.pool_mode = pool_mode
        self.pool_size = pool_size
        self.settings: dict[str, object] = dict(settings or {})

    # -- where it is -----------------------------------------------------------------------------

    @property
    def dsn(self) -> str:
        """Conninfo string of the target's database through PgBouncer, password included."""
        return self.dsn_for(str(self._login()["dbname"]))

    def dsn_for(self, dbname: str) -> str:
        """Return the conninfo string of another database of the target through PgBouncer."""
        return make_conninfo(
            "", **{**self._login(), "dbname": dbname, "host": self.host, "port": self.port}
        )

    def admin(self, command: str) -> list[dict[str, Any]]:
        """Run *command* (``SHOW POOLS``, ``PAUSE``, …) on the admin console; return its rows.

        :raises psycopg.Error: if PgBouncer refuses it or cannot be reached in 2 seconds.
        """
        dsn = make_conninfo(self.dsn_for(_ADMIN_DATABASE), connect_timeout=2)
        with psycopg.connect(dsn, autocommit=True) as conn:
            cursor = conn.cursor(row_factory=dict_row)
            cursor.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    # -- life ------------------------------------------------------------------------------------

    def stop(self, timeout: float = 5.0) -> None:
        """Shut down at once, dropping all connections; the hard way after *timeout* seconds.

        :meth:`start` starts it again on the same port. Nothing happens if it is not running.
        """
        if self._process is not None and self.running:
            self.resume()
            # The connection that asks for it is dropped as well.
            with contextlib.suppress(psycopg.Error):
                self.admin("SHUTDOWN")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def restart(self, timeout: float = 5.0) -> None:
        """Stop as :meth:`stop` does, and start again on the same port."""
        self.stop(timeout)
        self.start()

    def pause(self) -> None:
        """Suspend the process (SIGSTOP): it accepts connections, by its kernel, and says nothing.

        ``admin("PAUSE")`` is something else: PgBouncer's own, orderly pause.
        """
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after :meth:`pause`."""
        os.kill(self.pid, signal.SIGCONT)

    # -- inside ----------------------------------------------------------------------------------

    def _login(self) -> dict[str, Any]:
        """Return the target's conninfo without what says where it is."""
        login = conninfo_to_dict(self._target_dsn())
        for name in ("host", "hostaddr", "port"):
            login.pop(name, None)
        login.setdefault("dbname", login.get("user"))
        return login

    def _target_dsn(self) -> str:
        return self._target if isinstance(self._target, str) else self._target.dsn

    def _prepare(self, deadline: float) -> None:  # noqa: ARG002 - takes no time
        target = conninfo_to_dict(self._target_dsn())
        user, password = str(target.get("user", "")), str(target.get("password", ""))
        if not user:
            raise ServerError("PgBouncer's target must name a user")
        self._write_private("users", f"{_quoted(user)} {_quoted(password)}\n")

    def _launch(self) -> None:
        target = conninfo_to_dict(self._target_dsn())
        host = target.get("hostaddr") or target.get("host") or "127.0.0.1"
        settings: dict[str, object] = {
            "auth_type": "scram-sha-256",
            "auth_file": self.directory / "users",
            "admin_users": target["user"],
            "pool_mode": self.pool_mode,
            "default_pool_size": self.pool_size,
            "max_client_conn": 1000,
            **self.settings,
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "pidfile": self.directory / self._pid_file,
        }
        lines = [
            "[databases]",
            f"* = host={host} port={target.get('port') or 5432}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        if any("\n" in line for line in lines):
            raise ValueError("a setting of PgBouncer must be one line")
        config = self._write_private("pgbouncer.ini", "\n".join([*lines, ""]))
        self._spawn([self._program, config])

    def _probe(self) -> None:
        self.admin("SHOW VERSION")


def _quoted(text: str) -> str:
    """Return *text* as the file of users has it."""
    return '"' + text.replace('"', '""') + '"'
