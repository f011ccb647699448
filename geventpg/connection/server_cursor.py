"""psycopg's server-side cursor, which warns if a pooler takes it away."""

from __future__ import annotations

from typing import Any

from psycopg.rows import Row

from geventpg.sql.reading import read

from .abc import Link
from .pooler import mind
from .psycopg_internals import OpenServerCursor


class ServerCursor(OpenServerCursor[Row]):
    """A server-side cursor. One ``withhold`` does not outlive its transaction behind a pooler."""

    __slots__ = ()

    def before_sending(self, query: bytes) -> None:
        """Warn of what it leaves in its session."""
        effects = read(query).effects
        if effects:
            conn: Any = self.connection
            link: Link = conn
            mind(link, effects)
