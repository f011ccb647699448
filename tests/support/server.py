"""The servers that tests talk to."""

from __future__ import annotations

import contextlib
from typing import Any, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from geventpg.testing.postgres import Backend, fetch_backends


class Server(Protocol):
    """What every server offers, embedded or not."""

    @property
    def dsn(self) -> str: ...

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    def connect(self, **options: Any) -> psycopg.Connection[Any]: ...

    def create_database(self, name: str) -> str: ...

    def backends(self, application_name: str | None = None) -> list[Backend]: ...


class ExternalServer:
    """The server that ``GEVENTPG_TEST_DSN`` names; tests log in as its superuser."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        with self.connect() as conn:
            self.host = conn.info.host
            self.port = conn.info.port

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        options.setdefault("application_name", "geventpg-tests")
        return psycopg.connect(self.dsn, autocommit=True, **options)

    def create_database(self, name: str) -> str:
        with self.connect() as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(self.dsn, dbname=name)

    def backends(self, application_name: str | None = None) -> list[Backend]:
        with self.connect() as conn:
            return fetch_backends(conn, application_name)


def end_backends(server: Server, application_name: str) -> None:
    """End the backends of this name, whatever they do; a server that is down has none."""
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"
    with contextlib.suppress(psycopg.OperationalError), server.connect() as conn:
        conn.execute(query, (application_name,))
