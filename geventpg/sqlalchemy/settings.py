"""The settings that an engine and `get_conn()` have different on connections of one named pool.

Isolation level, adapters and factories are in the client's memory. So it costs no round trip to
exchange them while no transaction is open.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row

from geventpg.connection.connection import Connection
from geventpg.connection.cursor import Cursor

Settings = tuple[Any, ...]

_FIELDS = (
    "_autocommit",
    "_isolation_level",
    "_read_only",
    "_deferrable",
    "_begin_statement",
    "_adapters",
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
)


def exchange(conn: psycopg.Connection[Any], settings: Settings) -> Settings:
    """Give *conn* these settings; return the ones that it had."""
    previous = tuple([getattr(conn, field) for field in _FIELDS])
    for field, value in zip(_FIELDS, settings, strict=True):
        setattr(conn, field, value)
    return previous


def pristine(conn: psycopg.Connection[Any], adapters: AdaptersMap | None) -> Settings:
    """Return the settings of a new connection whose adapters are a copy of *adapters*."""
    return (
        *(False, None, None, None, b""),
        None if adapters is None else AdaptersMap(adapters),
        tuple_row,
        Cursor if isinstance(conn, Connection) else psycopg.Cursor,
        psycopg.ServerCursor,
    )
