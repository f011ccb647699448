"""The `geventpg.Pool` behind an engine: its options, its connections and its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from sqlalchemy import exc

from geventpg.connection.connection import Connection
from geventpg.conninfo.discretion import discreet
from geventpg.errors import ConnectRejected, OptionError
from geventpg.pool.options import OPTIONS, check_options
from geventpg.pool.pool import Pool

NO_LIMIT = 2**31 - 1
DEFAULT_TIMEOUT = 30.0

# Pool options for which SQLAlchemy has another name, and what to use in their place.
_SAID_OTHERWISE = {
    "max_size": "pool_size and max_overflow",
    "timeout": "pool_timeout",
    "max_lifetime": "pool_recycle",
    "use_lifo": "pool_use_lifo",
    "name": "pool_name or pool_logging_name",
    "configure": "a listener for the event 'connect'",
    "check": "pool_pre_ping or a listener for the event 'checkout'",
    "reset": "a listener for the event 'reset'",
    "kwargs": "connect_args",
    "connection_class": "creator",
    "open": "engine.connect(), which opens the pool",
    "close_returns": "PoolProxiedConnection.close(), which returns the connection",
}
_OPTIONS = sorted(set(OPTIONS) - set(_SAID_OTHERWISE))


class EnginePool(Pool[Any]):
    """An engine's own pool, which ends with the engine."""


def check_own_options(
    size: int, overflow: int, timeout: float | None, recycle: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return SQLAlchemy's pool arguments as options of `Pool`, and *options* with them.

    Raise `OptionError` naming what is wrong.
    """
    for name in options:
        if name in _SAID_OTHERWISE:
            raise OptionError(f"pool_options: {name} is {_SAID_OTHERWISE[name]} here")
    OPTIONS["min_size"].check("pool_size", size)
    if overflow != -1:
        OPTIONS["min_size"].check("max_overflow", overflow)
    if timeout is not None:
        OPTIONS["timeout"].check("pool_timeout", timeout)
    if recycle != -1:
        OPTIONS["max_lifetime"].check("pool_recycle", recycle)
    check_options(options, known=_OPTIONS)
    unlimited = size == 0 or overflow == -1
    mapped = {
        "min_size": 0,
        "max_size": NO_LIMIT if unlimited else size + overflow,
        "timeout": acquire_timeout(timeout),
        **({} if recycle == -1 else {"max_lifetime": recycle}),
        **options,
    }
    check_options(mapped)
    return mapped


def acquire_timeout(timeout: float | None) -> float:
    """Return SQLAlchemy's ``pool_timeout`` as that of `Pool`, which covers connecting, too.

    ``None`` is no limit. With 0 a checkout does not wait for other users, but it has to wait for a
    connection that is being opened.
    """
    return float("inf") if timeout is None else timeout or DEFAULT_TIMEOUT


def all_taken(pool: ConnectionPool[Any]) -> bool:
    """Tell whether a checkout would have to wait for other users."""
    stats = pool.get_stats()
    return not stats["pool_available"] and stats["pool_size"] >= stats["pool_max"]


def make(open_one: Callable[[], Any], name: str | None, options: Mapping[str, Any]) -> EnginePool:
    """Make a pool, not yet open, whose connections *open_one* opens."""

    class EngineConnection(Connection[Any]):
        @classmethod
        @discreet
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:  # noqa: ARG003
            try:
                conn = open_one()
                if not isinstance(conn, psycopg.Connection):
                    raise TypeError(f"creator returned a {type(conn).__name__}, no connection")
            except psycopg.OperationalError:
                raise  # the pool decides what follows
            except Exception as error:
                # The program made a mistake or refused, so another attempt would not help.
                raise ConnectRejected(f"{type(error).__name__}: {error}") from error
            return conn

    return EnginePool("", connection_class=EngineConnection, open=False, name=name, **options)


def close_if_unused(pool: EnginePool) -> None:
    """Close a pool that its engine does not use any more, unless there are waiters.

    Waiters are served first; call this again after each return.
    """
    if pool.get_stats()["requests_waiting"]:
        pool.resize(0, pool.max_size)
        pool.drain()
    else:
        pool.close()


def translate(error: PoolTimeout) -> BaseException:
    """Return the exception that SQLAlchemy's users expect for a checkout's *error*.

    After a refusal it is the error of the server or of the creator; if all connections are in use
    it is `sqlalchemy.exc.TimeoutError`. Otherwise the server does not answer, and it is *error*
    itself, which SQLAlchemy wraps as `OperationalError`.
    """
    cause: BaseException | None = error
    while isinstance(cause, ConnectRejected):
        cause = cause.__cause__
    if isinstance(error, ConnectRejected):
        return error if cause is None else cause
    if isinstance(error.__cause__, psycopg.Error):
        return error
    return exc.TimeoutError(str(error), code="3o7r")
