"""psycopg's server-side cursor, which warns if a pooler takes it away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.abc import Query
from psycopg.rows import Row

from geventpg.sql.reading import read

from .pooler import mind

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery

    from .connection import Connection


class ServerCursor(psycopg.ServerCursor[Row]):
    """A server-side cursor. One ``withhold`` does not outlive its transaction behind a pooler."""

    __slots__ = ()

    _conn: Connection[Any]

    def _convert_query(self, query: Query, params: Any = None) -> PostgresQuery:
        pgq = super()._convert_query(query, params)
        effects = read(pgq.query).effects
        if effects:
            mind(self._conn, effects)
        return pgq
