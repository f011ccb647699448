"""Named pools of this process: configured once, opened at first use, one connection a greenlet.

Nothing connects before first use and never before a fork: a child process starts with the
configuration and no pool. In processes that do not run gevent the same functions work on
stock ``psycopg_pool.ConnectionPool``, per thread instead of per greenlet.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool
from psycopg_pool.abc import ConninfoParam

from geventpg import hub
from geventpg.connection.base import BindableConnection, Owner
from geventpg.connection.connection import Connection, abandon_socket
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.errors import NotConfigured, OptionError
from geventpg.pool.options import OPTIONS, check_options, from_environment
from geventpg.pool.pool import Pool

from . import stock
from .held import (
    HeldConnection,
    Holdings,
    abandon_all,
    current_holdings,
    give_back_unless_active,
    reclaim_from_dead,
)

_CONFIGURABLE = frozenset(OPTIONS) - {"open", "name"}


class Framework(Protocol):
    """A framework that has the settings of a pool and uses its connections, such as Django."""

    def configure(self) -> None:
        """Do `configure` for the pool, then `set_framework`. Does not block."""

    def check_out(self, timeout: float | None) -> None:
        """Do `check_out` in a greenlet that holds nothing, within *timeout* seconds."""

    def options(self) -> Mapping[str, Any]:
        """Return the pool options that the framework's settings have. Does not block."""

    def override(self, options: Mapping[str, Any]) -> None:
        """Let *options* come before the settings', in this process and its children.

        Raise `OptionError` naming a bad one. Does not block.
        """


@dataclass(frozen=True)
class _Config:
    conninfo: ConninfoParam
    options: dict[str, Any]

    def __repr__(self) -> str:
        return f"<configuration of a pool: {', '.join(sorted(self.options)) or 'defaults'}>"


_configs: dict[str, _Config] = {}
_pools: dict[str, ConnectionPool[Any]] = {}
_frameworks: dict[str, Framework] = {}
_when_opened: list[Callable[[ConnectionPool[Any]], object]] = []


@discreet
def configure(conninfo: ConninfoParam, *, name: str = "default", **pool_options: Any) -> None:
    """Set up the pool *name* of this process; it opens at its first use.

    *conninfo* is a connection string, or a callable that returns one and is asked for every
    new connection. *pool_options* are those of `Pool`. Does not connect or block. Raise
    `OptionError` naming a bad option, ``psycopg.ProgrammingError`` if a pool of that name is
    open with another configuration.
    """
    OPTIONS["name"].check("name", name)
    if not name:
        raise OptionError("name must not be empty")
    check_conninfo(conninfo)
    check_options(pool_options, known=sorted(_CONFIGURABLE))
    config = _Config(conninfo, dict(pool_options))
    pool = _pools.get(name)
    if pool is not None and not pool.closed and _configs.get(name) != config:
        raise psycopg.ProgrammingError(
            f"the pool {name!r} is already open with another configuration;"
            " call geventpg.close_all() before configuring it again"
        )
    _configs[name] = config
    _frameworks.pop(name, None)


def get_pool(name: str = "default") -> Pool[Any]:
    """Return the open pool *name*; make it at the first call. Does not block.

    The default pool can also be configured by the environment: ``GEVENTPG_CONNINFO`` and
    ``GEVENTPG_MAX_SIZE`` and so on. Raise `NotConfigured` if *name* was not configured.
    Without gevent it is a stock ``psycopg_pool.ConnectionPool``.
    """
    pool = _pools.get(name)
    if pool is None or pool.closed:
        fresh = _make_pool(name)
        # `setdefault` decides which pool it is, if another thread makes one at the same time.
        if pool is not None and _pools.get(name) is pool:
            del _pools[name]
        pool = _pools.setdefault(name, fresh)
        if pool is fresh:
            pool.open()
            for tell in _when_opened:
                tell(pool)
    return cast("Pool[Any]", pool)


def get_conn(name: str = "default") -> Connection[Any]:
    """Return the current greenlet's connection of pool *name*; check one out if it has none.

    Every call in one greenlet returns the same connection until it is released: at the end
    of the outermost ``with get_conn() as conn:`` (committed, or rolled back after an
    exception), by `release_conn`, at the end of the Celery task, or when the greenlet ends in
    any way. Blocks and raises as `Pool.getconn` does. Without gevent: per thread.
    """
    return cast("Connection[Any]", hold(name).conn)


def hold(name: str, timeout: float | None = None) -> HeldConnection:
    """Do `get_conn`; return the connection as held. *timeout* (s) bounds a checkout."""
    holdings = current_holdings()
    held = holdings.by_name.get(name)
    if held is not None:
        gone = held.conn.closed or held.pool.closed
        # Inside a block or a scope a fresh connection would silently lose half of a transaction.
        if gone and not (held.depth or holdings.scopes):
            held.give_back()
            held = None
    if held is None:
        held = _hold_owned(holdings, name, timeout) or _check_out(holdings, name, timeout)
    if holdings.scopes:
        held.begin_unit()
    return held


def check_out(
    name: str, owner: Owner, *, shared: bool, timeout: float | None = None
) -> HeldConnection:
    """Check a connection of pool *name* out for *owner*; block and raise as `get_conn` does.

    If *shared*, `get_conn` returns this connection in this greenlet. It goes back when the greenlet
    ends, if not before.
    """
    return _check_out(current_holdings(), name, timeout, owner, shared=shared)


def _check_out(
    holdings: Holdings,
    name: str,
    timeout: float | None,
    owner: Owner | None = None,
    *,
    shared: bool = True,
) -> HeldConnection:
    pool: ConnectionPool[Any] = get_pool(name)
    conn: Any = pool.getconn(timeout) if isinstance(pool, Pool) else stock.check_out(pool, timeout)
    held = holdings.by_name.get(name)
    if held is not None and owner is None:
        # A callback ran in this greenlet while it waited, and checked one out.
        pool.putconn(conn)
        return held
    # No pool has a name that begins with a null byte.
    key = name if shared and held is None else f"\0{id(conn)}"
    held = holdings.by_name[key] = HeldConnection(holdings, key, pool, conn, owner)
    return held


@contextmanager
def holding(name: str, timeout: float | None = None) -> Iterator[BindableConnection[Any]]:
    """Hold the greenlet's connection for a block, and give it back at the end.

    If a transaction is open when the block begins, the code that began it ends it, and keeps the
    connection until then.
    """
    held = hold(name, timeout=timeout)
    joins = held.owner is None and held.conn.pgconn.transaction_status != TransactionStatus.IDLE
    failure: BaseException | None = None
    held.enter()
    try:
        yield held.conn
    except BaseException as error:
        failure = error
        raise
    finally:
        kind = None if failure is None else type(failure)
        traceback = None if failure is None else failure.__traceback__
        if not held.leave(kind, failure, traceback) and not joins:
            held.give_back()


def _hold_owned(holdings: Holdings, name: str, timeout: float | None) -> HeldConnection | None:
    framework = _frameworks.get(name)
    if framework is None:
        return None
    framework.check_out(timeout)
    return holdings.by_name.get(name)


def set_framework(name: str, framework: Framework | None) -> None:
    """Let *framework* configure the pool *name* and check out of it; ``None`` ends that.

    So does a later `configure`.
    """
    if framework is None:
        _frameworks.pop(name, None)
    else:
        _frameworks[name] = framework


def framework_of(name: str) -> Framework | None:
    """Return the framework that was set for the pool *name*, if one was."""
    return _frameworks.get(name)


def release_conn(name: str = "default") -> None:
    """Give the current greenlet's connection of pool *name* back; do nothing if it has none.

    An open transaction is rolled back and logged, never committed. Does not block under
    gevent, except in a task for a framework's pool, where the transaction is the framework's.
    Raise ``psycopg.ProgrammingError`` inside ``with get_conn()``, which gives the connection back
    at its end, and inside a transaction of the framework.
    """
    held = current_holdings().by_name.get(name)
    if held is not None:
        held.release("release_conn()")


def options_of(name: str) -> Mapping[str, Any] | None:
    """Return the options that pool *name* was configured with, ``None`` if it was not."""
    config = _configs.get(name)
    return None if config is None else config.options


def resize_later(name: str, min_size: int, max_size: int) -> None:
    """Give these sizes to every pool *name* that is made from now on, in children too.

    An open pool stays as it is. Does nothing if the pool is not configured. Does not block.
    """
    config = _configs.get(name)
    if config is not None:
        sizes = {"min_size": min_size, "max_size": max_size}
        _configs[name] = _Config(config.conninfo, {**config.options, **sizes})


def remove(name: str, timeout: float = 5.0) -> None:
    """Close the pool *name*, within *timeout* seconds, and drop its configuration."""
    _configs.pop(name, None)
    pool = _pools.pop(name, None)
    if pool is not None:
        pool.close(timeout=timeout)


def close_all(timeout: float = 5.0) -> None:
    """Close all named pools, within *timeout* seconds altogether; idempotent.

    The configurations stay: a later `get_conn` opens a new pool.
    """
    for pool, remaining in _take_all(timeout):
        pool.close(timeout=remaining)


def abort(name: str, timeout: float = 5.0) -> None:
    """Close the pool *name* without waiting for its users; see `Pool.abort`.

    The configuration stays. Without gevent, connections in use are closed when they are returned.
    """
    pool = _pools.pop(name, None)
    if pool is not None:
        _abort(pool, timeout)


def abort_all(timeout: float = 5.0, *, wake: bool = True) -> None:
    """Close all named pools without waiting for their users; see `Pool.abort`."""
    for pool, remaining in _take_all(timeout):
        _abort(pool, remaining, wake=wake)


def _abort(pool: ConnectionPool[Any], timeout: float, *, wake: bool = True) -> None:
    if isinstance(pool, Pool):
        pool.abort(timeout=timeout, wake=wake)
    else:
        pool.close(timeout=timeout)


def _take_all(timeout: float) -> Iterator[tuple[ConnectionPool[Any], float]]:
    """Take each pool out of the registry; yield it and the part of *timeout* that is left."""
    deadline = monotonic() + timeout
    for name, pool in list(_pools.items()):
        if _pools.get(name) is pool:
            del _pools[name]
        yield pool, max(deadline - monotonic(), 0.0)


def run_on_gevent() -> None:
    """Decide that this process runs gevent, even if nothing is patched and no greenlet ran yet."""
    hub.current_hub()


def when_opened(tell: Callable[[ConnectionPool[Any]], object]) -> None:
    """Call *tell* with each named pool that is opened from now on; it must not block or raise."""
    _when_opened.append(tell)


def open_pools() -> dict[str, ConnectionPool[Any]]:
    """Return the named pools that are open, by name."""
    return {name: pool for name, pool in _pools.items() if not pool.closed}


def _config(name: str) -> _Config:
    if name not in _configs and name in _frameworks:
        _frameworks[name].configure()
    config = _configs.get(name)
    if config is None and name == "default" and "GEVENTPG_CONNINFO" in os.environ:
        configure(os.environ["GEVENTPG_CONNINFO"], **from_environment(os.environ))
        config = _configs[name]
    if config is None:
        known = ", ".join(sorted(_configs)) or "none"
        raise NotConfigured(
            f"no pool {name!r} is configured (configured: {known}); call"
            " geventpg.configure('host=... dbname=...')"
            + (" or set GEVENTPG_CONNINFO" if name == "default" else f", name={name!r}")
        )
    return config


@discreet
def _make_pool(name: str) -> ConnectionPool[Any]:
    config = _config(name)
    if hub.in_use():
        pool: Pool[Any] = Pool(config.conninfo, name=name, open=False, **config.options)
        pool.reclaim_with(reclaim_from_dead)
        return pool
    return stock.make(name, config.conninfo, config.options)


def _abandon_pools_in_child() -> None:
    # Our own pools empty themselves.
    for conn in abandon_all():
        abandon_socket(conn)
    for pool in _pools.values():
        if not isinstance(pool, Pool):
            stock.abandon(pool)
    _pools.clear()


def _close_at_exit() -> None:
    # This comes before the interpreter tears gevent down, while connections are still held. Open
    # transactions are rolled back, which is logged; statements that run are cancelled.
    give_back_unless_active()
    abort_all(timeout=2.0, wake=False)


os.register_at_fork(after_in_child=_abandon_pools_in_child)
atexit.register(_close_at_exit)
