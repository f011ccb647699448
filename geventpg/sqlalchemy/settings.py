"""The settings that an engine and `get_conn()` have different on connections of one named pool.

Isolation level, adapters and factories are in the client's memory. So it costs no round trip to
exchange them while no transaction is open.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import tuple_row

from geventpg.connection.adapters import ConnectionAdapters
from geventpg.connection.base import BindableConnection
from geventpg.connection.connection import Connection
from geventpg.connection.cursor import USUAL_CURSOR
from geventpg.connection.psycopg_internals import exchange_transaction_settings

Settings = tuple[Any, ...]


def exchange(conn: BindableConnection[Any], settings: Settings) -> Settings:
    """Give *conn* these settings, return the ones that it had."""
    transactions, adapters, row_factory, cursor_factory, server_cursor_factory = settings
    previous = conn.own_adapters, conn.row_factory, conn.cursor_factory, conn.server_cursor_factory
    conn.own_adapters, conn.row_factory = adapters, row_factory
    conn.cursor_factory, conn.server_cursor_factory = cursor_factory, server_cursor_factory
    return exchange_transaction_settings(conn, transactions), *previous


def pristine(conn: BindableConnection[Any], adapters: AdaptersMap | None) -> Settings:
    """Return the settings of a new connection whose adapters are a copy of *adapters*."""
    return (
        (False, None, None, None),
        None if adapters is None else ConnectionAdapters(adapters),
        tuple_row,
        USUAL_CURSOR if isinstance(conn, Connection) else psycopg.Cursor,
        psycopg.ServerCursor,
    )
