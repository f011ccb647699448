"""The server under test and the table in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from benchmarks.workload import ROWS, TABLE


@contextmanager
def server(dsn: str | None) -> Iterator[str]:
    """The given server's connection string, or an embedded PostgreSQL's for as long as it lives."""
    if dsn is not None:
        yield dsn
        return
    from geventpg.testing.postgres import EmbeddedPostgres

    with EmbeddedPostgres() as embedded:
        yield embedded.dsn


@contextmanager
def table(conninfo: str) -> Iterator[dict[str, str]]:
    """Facts about the server that has the table now; the table goes when the block ends."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        conn.execute(f"DROP TABLE IF EXISTS {TABLE}")
        conn.execute(f"CREATE TABLE {TABLE} (id integer PRIMARY KEY, payload text NOT NULL)")
        conn.execute(
            f"INSERT INTO {TABLE} SELECT n, 'row ' || n FROM generate_series(1, {ROWS}) AS n"
        )
        conn.execute(f"VACUUM ANALYZE {TABLE}")
        facts = {
            "version": conn.info.parameter_status("server_version") or "unknown",
            "reached_through": "Unix socket" if conn.info.host.startswith("/") else "TCP",
            "max_connections": _setting(conn, "max_connections"),
        }
    try:
        yield facts
    finally:
        with psycopg.connect(conninfo, autocommit=True) as conn:
            conn.execute(f"DROP TABLE IF EXISTS {TABLE}")


def _setting(conn: psycopg.Connection[tuple[str]], name: str) -> str:
    row = conn.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return row[0]
