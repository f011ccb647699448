"""What a server's ``pg_stat_activity`` shows of its clients."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

__all__ = ["Backend", "fetch_backends"]

_QUERY = """\
SELECT pid, datname AS database, usename AS "user", application_name, state,
       wait_event_type, wait_event, query, backend_start, xact_start, query_start
  FROM pg_stat_activity
 WHERE backend_type = 'client backend'
   AND pid <> pg_backend_pid()
   AND (%(name)s::text IS NULL OR application_name = %(name)s)
 ORDER BY backend_start, pid
"""


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
        return cursor.execute(_QUERY, {"name": application_name}).fetchall()
