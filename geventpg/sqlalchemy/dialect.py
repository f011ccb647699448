"""SQLAlchemy's psycopg dialect on connections that wait on the gevent hub.

The SQL, the types and the error handling are those of ``postgresql+psycopg``. Different are the
connections, the default pool, and the return of a connection by the garbage collector.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import psycopg
from sqlalchemy import URL
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.engine.interfaces import Dialect

from geventpg import hub
from geventpg.connection.base import BindableConnection
from geventpg.connection.connection import Connection

from .pool import GeventPool
from .record import Record

PROBE_TIMEOUT = 2.0
"""Seconds for `pool_pre_ping` on a connection that no `geventpg.Pool` holds."""


class GeventDialect(PGDialect_psycopg):
    """``postgresql+geventpg://``, for `create_engine`.

    Its connections are `geventpg.Connection`, also with ``poolclass=NullPool`` and the like;
    where gevent does not run, psycopg's own.
    """

    driver = "geventpg"
    supports_statement_cache = True
    poolclass = GeventPool

    @classmethod
    def import_dbapi(cls) -> ModuleType:
        """Return a copy of the module `psycopg`, by the same name, that has our `connect`."""
        module = ModuleType(psycopg.__name__, psycopg.__doc__)
        vars(module).update(vars(psycopg), connect=_connect)
        return module

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[Dialect]:  # noqa: ARG003
        """Return this dialect, not psycopg's asyncio one: `create_async_engine` refuses it."""
        return cls

    @classmethod
    def load_provisioning(cls) -> None:
        """Load what SQLAlchemy's own test-suite has for PostgreSQL."""
        PGDialect_psycopg.load_provisioning()  # type: ignore[no-untyped-call]

    def create_connect_args(self, url: URL) -> Any:
        """Do as psycopg's dialect; remember whether the URL names a server."""
        self.names_server = bool(url.query or url.translate_connect_args())
        return super().create_connect_args(url)  # type: ignore[no-untyped-call]

    def do_ping(self, dbapi_connection: Any) -> bool:
        """Make one round trip for ``pool_pre_ping``, within the pool's ``probe_timeout``."""
        if isinstance(dbapi_connection, Connection):
            pool = getattr(dbapi_connection, "pool", None)
            dbapi_connection.probe(getattr(pool, "probe_timeout", PROBE_TIMEOUT))
            return True
        return bool(super().do_ping(dbapi_connection))  # type: ignore[no-untyped-call]

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back; leave that to the pool if the garbage collector returns the connection.

        The collector may have interrupted any code, the hub for example, which must not wait.
        """
        record = getattr(dbapi_connection, "_connection_record", None)
        if not (isinstance(record, Record) and record.was_dropped):
            super().do_rollback(dbapi_connection)  # type: ignore[no-untyped-call]


def _connect(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
    """Open a connection that waits on the gevent hub; where gevent does not run, psycopg's."""
    cls: type[psycopg.Connection[Any]] = Connection if hub.in_use() else BindableConnection
    return cls.connect(*args, **kwargs)
