"""The ways for a task to come by a connection. Each file holds one, as a user would write it.

The modules are imported by the worker only, after Celery has patched the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from celery import Celery
from psycopg import Connection, Error
from psycopg_pool import ConnectionPool, PoolTimeout

from examples.demo.plan import MAX_SIZE

Job = Callable[[Connection[Any]], None]

PROBE_TIMEOUT = 1.0


class Way(Protocol):
    def run(self, job: Job) -> None:
        """Do the task's work on a connection got this way."""

    def usable(self) -> int:
        """How many of its connections can be used right now, all at once."""


def load(name: str, app: Celery, conninfo: str) -> Way:
    way: Way = import_module(f"{__name__}.{name}_way").create(app, conninfo)
    return way


def usable_connections(pool: ConnectionPool[Any]) -> int:
    """Check out all connections of a pool and count those that answer."""
    held: list[Connection[Any]] = []
    try:
        while len(held) < MAX_SIZE:
            held.append(pool.getconn(timeout=PROBE_TIMEOUT))
        return sum(map(answers, held))
    except PoolTimeout:
        return sum(map(answers, held))
    finally:
        for conn in held:
            pool.putconn(conn)


def answers(conn: Connection[Any]) -> bool:
    try:
        conn.execute("select 1")
        conn.rollback()
    except Error:
        return False
    return True
