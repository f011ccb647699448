"""psycopg_pool's own pool, for processes that do not run gevent.

It does not watch its idle connections. So each checkout looks at the connection's socket first,
which costs no round trip: a session that the server ended meanwhile is replaced before a user
meets it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import ConninfoParam

from geventpg.connection.base import BindableConnection, bindable
from geventpg.connection.connection import abandon_socket
from geventpg.connection.loss import is_alive
from geventpg.connection.psycopg_internals import give_place_back, idle_in
from geventpg.pool.options import GEVENTPG_ONLY

# Pools that were inherited through a fork. They are kept because the collection of such a pool
# would wait for its threads, which the child does not have.
_graveyard: list[ConnectionPool[Any]] = []


def make(name: str, conninfo: ConninfoParam, all_options: dict[str, Any]) -> ConnectionPool[Any]:
    """Make a pool, not yet open; leave out the options that only our `Pool` has."""
    options = {k: v for k, v in all_options.items() if k not in GEVENTPG_ONLY}
    cls = options.pop("connection_class", BindableConnection)
    origin = getattr(cls, "__origin__", cls)
    if origin is psycopg.Connection:
        cls = BindableConnection
    elif not issubclass(origin, BindableConnection):
        cls = type(origin.__name__, (origin, BindableConnection), {"__module__": origin.__module__})
    if all_options.get("prepare") == "never" and not callable(options.get("kwargs")):
        options["kwargs"] = {**(options.get("kwargs") or {}), "prepare_threshold": None}
    return ConnectionPool(conninfo, name=name, open=False, connection_class=cls, **options)


def check_out(pool: ConnectionPool[Any], timeout: float | None) -> psycopg.Connection[Any]:
    """Do ``pool.getconn(timeout)``, but replace connections that the server has closed."""
    deadline = monotonic() + (pool.timeout if timeout is None else timeout)
    conn: psycopg.Connection[Any] = pool.getconn(timeout)
    while not is_alive(conn.pgconn):
        conn.pgconn.finish()
        pool.putconn(conn)  # the pool discards it and opens another
        conn = pool.getconn(max(deadline - monotonic(), 0.0))
    return conn


def detach(pool: ConnectionPool[Any], conn: psycopg.Connection[Any]) -> None:
    """Remove *conn*, which is checked out, from the pool: its holder owns it from now on.

    The pool may open another connection in its place.
    """
    give_place_back(pool)
    bindable(conn).pool = None


def abandon(pool: ConnectionPool[Any]) -> None:
    """Give up a pool inherited through a fork: its sockets belong to the parent."""
    for conn in idle_in(pool):
        abandon_socket(conn)
    _graveyard.append(pool)


@contextmanager
def cancelling_after(seconds: float, conn: psycopg.Connection[Any]) -> Iterator[Callable[[], bool]]:
    """Cancel the statement on *conn* if the block takes longer than *seconds*.

    A thread does that. Yield a function that tells whether it did. The thread has ended when the
    block ends, so that the cancel never hits the next user.
    """
    late = threading.Event()

    def cancel() -> None:
        late.set()
        with suppress(psycopg.Error):
            conn.cancel_safe(timeout=5.0)

    timer = threading.Timer(max(seconds, 0.0), cancel)
    timer.daemon = True
    timer.start()
    try:
        yield late.is_set
    finally:
        timer.cancel()
        timer.join()
