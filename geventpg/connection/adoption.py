"""Any psycopg connection class, with the hub's waiting."""

from __future__ import annotations

from typing import Any, cast

import psycopg

from .connection import Connection

_cooperative: dict[type[psycopg.Connection[Any]], type[Connection[Any]]] = {}


def cooperative(cls: type[psycopg.Connection[Any]]) -> type[Connection[Any]]:
    """Return *cls* with the hub's waiting: itself, or a subclass made on the fly.

    Methods that *cls* overrides keep precedence over `Connection`'s.
    """
    origin: type[psycopg.Connection[Any]] = getattr(cls, "__origin__", cls)
    if issubclass(origin, Connection):
        return origin
    if origin is psycopg.Connection:
        return Connection
    if origin not in _cooperative:
        _cooperative[origin] = type(
            origin.__name__,
            (origin, Connection),
            {"__module__": origin.__module__, "__qualname__": origin.__qualname__},
        )
    return _cooperative[origin]


def adopt(conn: psycopg.Connection[Any]) -> Connection[Any]:
    """Give an open connection the hub's waiting, whatever class made it. Does not block."""
    if isinstance(conn, Connection):
        return conn
    conn.__class__ = cooperative(type(conn))
    adopted = cast(Connection[Any], conn)
    adopted.attach_to_hub()
    return adopted
