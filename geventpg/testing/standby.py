"""A primary and its hot standby, for the tests of failovers."""

from __future__ import annotations

import time
from collections.abc import Mapping

from psycopg.conninfo import make_conninfo

from .errors import ServerError
from .postgres import EmbeddedPostgres
from .started import Started

__all__ = ["PrimaryAndStandby"]

_POLL_INTERVAL = 0.01


class PrimaryAndStandby(Started):
    """Two real PostgreSQL servers, the second a copy of the first that follows it by streaming.

    Use it as a context manager, or call :meth:`start` and :meth:`close`; up in about three seconds.
    Both are :class:`~geventpg.testing.EmbeddedPostgres`: stop, restart and kill them as needed.
    Replication is asynchronous, so what was committed last can be lost in a failover, unless
    :meth:`wait_caught_up` was called.

    The parameters are those of :class:`~geventpg.testing.EmbeddedPostgres`, for both servers.
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
        #: The server that accepts writes; the same object until :meth:`rejoin`.
        self.primary = EmbeddedPostgres(
            version,
            settings,
            user=user,
            password=password,
            dbname=dbname,
            start_timeout=start_timeout,
        )
        #: The one that follows it, read-only until :meth:`promote`.
        self.standby = EmbeddedPostgres.standby_of(self.primary)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.primary!r} {self.standby!r}>"

    @property
    def dsn(self) -> str:
        """Conninfo string that names both servers, the one that was the primary first.

        Which of them a connection leads to is for ``target_session_attrs`` to say; it is not set.
        """
        servers = (self.primary, self.standby)
        return make_conninfo(
            self.primary.dsn,
            host=",".join(server.host for server in servers),
            port=",".join(str(server.port) for server in servers),
        )

    def start(self) -> None:
        """Start the servers that do not run, the primary first.

        :raises ServerError: if one is not ready within its ``start_timeout``.
        """
        self.primary.start()
        self.standby.start()

    def close(self) -> None:
        """Stop both servers, remove their directories. Harmless when repeated."""
        try:
            self.standby.close()
        finally:
            self.primary.close()

    def wait_caught_up(self, timeout: float = 10.0) -> None:
        """Wait until the standby shows everything that is committed on the primary now.

        :raises ServerError: after *timeout* seconds, or if either is not what its name says.
        """
        deadline = time.monotonic() + timeout
        if self.primary.in_recovery or not self.standby.in_recovery:
            raise ServerError("there is no primary with a standby to wait for: rejoin() first")
        with self.primary.connect() as primary, self.standby.connect() as standby:
            # Commits may be asynchronous: one that is not takes all before it to the disk.
            primary.execute("SET synchronous_commit = local")
            primary.execute("SELECT pg_logical_emit_message(true, 'geventpg.testing', '')")
            position = primary.execute("SELECT pg_current_wal_flush_lsn()").fetchone()
            assert position is not None
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
            while standby.execute(query, position).fetchone() != (True,):
                if time.monotonic() >= deadline:
                    raise ServerError(f"the standby has not caught up in {timeout:.1f} s")
                time.sleep(_POLL_INTERVAL)

    def promote(self, timeout: float = 10.0) -> None:
        """Make the standby a primary that accepts writes; see :meth:`EmbeddedPostgres.promote`.

        :attr:`primary` and :attr:`standby` go on naming the same servers.
        """
        self.standby.promote(timeout)

    def rejoin(self) -> None:
        """Make the old primary a standby of the new one, on its own port, after :meth:`promote`.

        From then on the attributes name them by their new roles. Clients that still go to the old
        address find a server that refuses to write.
        """
        if self.standby.in_recovery:
            raise ServerError("the standby has not been promoted")
        self.primary.follow(self.standby)
        self.primary, self.standby = self.standby, self.primary
