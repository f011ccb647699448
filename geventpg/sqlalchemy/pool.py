"""SQLAlchemy's pool interface on a `geventpg.Pool`."""

from __future__ import annotations

import functools
import itertools
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout
from sqlalchemy import exc
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from geventpg import hub
from geventpg.connection.connection import Connection
from geventpg.pool.events import Event
from geventpg.pool.pool import Pool
from geventpg.registry import pools as registry
from geventpg.registry import stock

from . import backing, settings
from .plain import PlainPool
from .record import Record

_numbers = itertools.count(1)
_pools: weakref.WeakSet[GeventPool] = weakref.WeakSet()


class GeventPool(PlainPool):
    """The pool of an engine: a `geventpg.Pool` with SQLAlchemy's events and methods.

    Arguments as for `QueuePool`, which it is to ``isinstance``:

    - *pool_size* and *max_overflow*: together they are the ``max_size``. No difference is made
      between the two: connections that were not needed for ``max_idle`` are closed.
    - *timeout*: seconds for a checkout, connecting included; 0: do not wait for other users,
      ``None``: no limit.
    - *recycle*: the ``max_lifetime``; the pool replaces idle connections, too.
    - *use_lifo*: as for `geventpg.Pool`, ``True``.
    - *pool_options*: further options of `geventpg.Pool`; ``min_size`` is 0 unless given.
    - *pool_name*: use the pool of that name, made by `geventpg.configure`, instead of an own
      one; it is shared with `get_conn`.

    Nothing connects before the first checkout. Where gevent does not run it is a `QueuePool`
    that looks at a connection's socket before it hands it out.
    """

    def __init__(  # noqa: PLR0917  # SQLAlchemy reads them from the code object
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = True,
        recycle: float = -1,
        pool_name: str | None = None,
        pool_options: Mapping[str, Any] | None = None,
        **kw: Any,
    ) -> None:
        self.key = f"_sqlalchemy_record_{next(_numbers)}"
        self._given: dict[str, Any] = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "recycle": recycle,
            "pool_name": pool_name,
            "pool_options": pool_options,
        }
        self._options = backing.check_own_options(
            pool_size, max_overflow, timeout, recycle, pool_options or {}
        )
        self._pool_name = pool_name
        super().__init__(
            creator,
            pool_size=pool_size,
            max_overflow=max_overflow,
            timeout=timeout,  # type: ignore[arg-type]  # None: no limit
            use_lifo=use_lifo,
            recycle=recycle,
            **kw,
        )
        self._options["use_lifo"] = use_lifo
        if pool_name is not None and getattr(self._dialect, "names_server", False):
            raise exc.ArgumentError(
                f"pool_name={pool_name!r} names the server already: the URL must be"
                " 'postgresql+geventpg://' and nothing more"
            )
        self._start_afresh()
        _pools.add(self)

    def _start_afresh(self) -> None:
        self._own: backing.EnginePool | None = None
        self._get: Callable[[], ConnectionPoolEntry] = self._settle
        self._take: Callable[[], Any] = self._take_behind
        self._introduction: AbstractContextManager[Any] = nullcontext()
        self._drained_at = 0.0

    # -- what is behind ---------------------------------------------------------------------

    @property
    def connection_pool(self) -> ConnectionPool[Any] | None:
        """The pool behind, for its statistics, `resize`, `drain`; ``None`` if there is none.

        There is none before the first checkout, nor where gevent does not run.
        """
        return self._own if self._pool_name is None else registry.get_pool(self._pool_name)

    def _settle(self) -> ConnectionPoolEntry:
        """Choose the pool behind at the first checkout: by then gevent runs if it is used."""
        gevent_runs = hub.in_use()
        self._introduction = hub.HubLock() if gevent_runs else nullcontext()
        if self._pool_name is not None or gevent_runs:
            self._recycle = -1  # the pool behind does that
            self._get = self._get_pooled
        else:
            self._get = self._get_plain
        if self._pool_name is None and gevent_runs:
            own = backing.make(self._open_recorded, self._orig_logging_name, self._options)
            own.add_listener(self._left_pool_behind, "evicted", "retired")
            own.open()
            self._own, self._take = own, own.getconn if self._timeout != 0 else self._take_behind
        return self._get()

    def _should_wrap_creator(self, creator: Any) -> Any:
        self._create = super()._should_wrap_creator(creator)
        return self._connection_for

    def _connection_for(self, record: ConnectionPoolEntry) -> Any:
        """Return a connection for a new record, for which SQLAlchemy then fires ``connect``."""
        if not isinstance(record, Record):
            return self._create(record)
        if self._pool_name is not None:
            adapters = getattr(self._dialect, "_psycopg_adapters_map", None)
            fresh = settings.pristine(record.held, adapters)
            record.settings = settings.exchange(record.held, fresh)
        return record.introduced()

    def _open_recorded(self) -> Any:
        """Open a connection, in a greenlet of the pool behind; its events fire at checkout."""
        record = Record(self)
        conn: Any = self._create(record)
        if isinstance(conn, psycopg.Connection):
            record.opened(conn)
        return conn

    def introduction(self) -> AbstractContextManager[Any]:
        """Return the lock for ``connect`` events: in the first of them the dialect initializes.

        SQLAlchemy's own lock would block the hub if gevent has not patched `threading`.
        """
        return self._introduction

    # -- checkout ---------------------------------------------------------------------------

    def _do_get(self) -> ConnectionPoolEntry:
        return self._get()

    def _get_pooled(self) -> ConnectionPoolEntry:
        while True:
            try:
                conn = self._take()
            except PoolTimeout as error:
                raise backing.translate(error) from error.__cause__
            # Nothing switches from here on until SQLAlchemy has the record.
            record: Record | None = conn.__dict__.get(self.key)
            if record is None:
                record = Record(self)
                record.hold(conn)
            if record.usable and not conn.closed:
                if record.settings is not None:
                    record.settings = settings.exchange(conn, record.settings)
                return record
            # Code that kept the record or the connection has closed it while it was idle.
            record.hold(conn)
            self._close_connection(conn)

    def _take_behind(self) -> Any:
        """Check out of the pool behind, of whichever kind it is."""
        pool = self.connection_pool
        assert pool is not None
        timeout = self._options["timeout"]
        if self._timeout == 0 and backing.all_taken(pool):
            timeout = 0
        return pool.getconn(timeout) if isinstance(pool, Pool) else stock.check_out(pool, timeout)

    def _get_plain(self) -> ConnectionPoolEntry:
        if hub.in_use():  # gevent was started after the first checkout
            self.dispose()
            return self._get()
        return super()._do_get()

    def refill(self, record: Record) -> Any:
        """Give *record* another connection, because its own was invalidated during the checkout.

        Return the connection if it was used before. It is probed first, because SQLAlchemy tries no
        more than twice.
        """
        while True:
            other = self._get()
            assert isinstance(other, Record)
            conn: Any = other.dbapi_connection
            if conn is None:  # never used
                record.hold(other.held)
                return None
            try:
                if isinstance(conn, Connection):
                    conn.probe(self._options.get("probe_timeout", 2.0))
            except BaseException as error:
                other.invalidate(error)
                if not isinstance(error, psycopg.Error):
                    raise
            else:
                record.take_over(other)
                return conn

    # -- return -----------------------------------------------------------------------------

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if not isinstance(record, Record):
            if self._get == self._get_plain:
                super()._do_return_conn(record)
            else:
                record.close()
            return
        conn = record.held
        if conn is None or conn.pool is None:
            return  # it left the pool when it was closed, or it belongs to the parent process
        if record.dbapi_connection is None:
            self._detach(record)
        elif not record.usable:
            record.close()
        else:
            if record.settings is not None:
                record.settings = settings.exchange(conn, record.settings)
            pool = conn.pool
            pool.putconn(conn)
            if pool is not self._own and isinstance(pool, backing.EnginePool):
                backing.close_if_unused(pool)

    def _detach(self, record: Record) -> None:
        conn, record.held = record.held, None
        del conn.__dict__[self.key]
        pool = conn.pool
        if isinstance(pool, Pool):
            pool.detach(conn)
        else:
            stock.detach(pool, conn)

    # -- closing ----------------------------------------------------------------------------

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        """Close a connection and take it out of the pool behind, even if its record is used."""
        record: Record | None = connection.__dict__.get(self.key)
        pool = connection.pool if record is not None else None
        if record is not None:
            record.lost = connection.closed
            record.held = None
        if pool is None:  # it is in no pool, or idle there, and the next checkout notices
            super()._close_connection(connection, terminate=terminate)
            return
        del connection.__dict__[self.key]
        try:
            with connection.close_is_final():
                super()._close_connection(connection, terminate=terminate)
        finally:
            pool.putconn(connection)  # the pool verifies the others if this one was lost

    def _left_pool_behind(self, event: Event) -> None:
        """Forget a connection that the pool behind closed on its own, perhaps in the hub."""
        self._tell_of_close(event.connection, functools.partial(hub.spawn, self.dispatch.close))

    def _tell_of_close(self, conn: Any, tell: Callable[[Any, Record], object]) -> None:
        """Let *tell* call SQLAlchemy's listeners if they know of the connection that was closed."""
        record: Record | None = conn.__dict__.pop(self.key, None)
        if record is not None:
            known, record.held, record.dbapi_connection = record.dbapi_connection, None, None
            if known is not None and self.dispatch.close:
                tell(conn, record)

    def _invalidate(
        self,
        connection: PoolProxiedConnection,
        exception: BaseException | None = None,
        _checkin: bool = True,
    ) -> None:
        """Replace all connections if the user decided that; verify them if one was only lost."""
        record = getattr(connection, "_connection_record", None)
        pool = self.connection_pool
        if pool is None or not isinstance(record, Record):
            super()._invalidate(connection, exception, _checkin)
            return
        conn = record.dbapi_connection
        lost = record.lost if conn is None else conn.closed
        if not lost and self._drained_at < record.starttime:
            self._drained_at = time.time()
            pool.drain()
        if _checkin and connection.is_valid:
            connection.invalidate(exception)

    def dispose(self) -> None:
        """Close the idle connections now, and those in use when they are returned.

        Waiters are still served. A pool that was named by *pool_name* stays as it is.
        """
        if self._get == self._get_plain:
            super().dispose()
        own = self._own
        self._start_afresh()
        if own is not None:
            for conn in own.idle_connections():
                self._tell_of_close(conn, self.dispatch.close)
            backing.close_if_unused(own)
            self.logger.info("Pool disposed. %s", self.status())

    def recreate(self) -> GeventPool:
        """Return a new pool with the same arguments and listeners; it is not open yet."""
        self.logger.info("Pool recreating")
        return self.__class__(
            self._creator,
            timeout=self._timeout,
            use_lifo=self._pool.use_lifo,
            **self._given,
            pre_ping=self._pre_ping,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    # -- sizes --------------------------------------------------------------------------------

    def size(self) -> int:
        """Return ``pool_size``, or ``max_size`` of a pool that was named."""
        if self._pool_name is not None:
            return registry.get_pool(self._pool_name).max_size
        return super().size()

    def checkedin(self) -> int:
        """Return the number of idle connections."""
        pool = self.connection_pool
        return super().checkedin() if pool is None else pool.get_stats()["pool_available"]

    def checkedout(self) -> int:
        """Return the number of connections that are in use or not available yet."""
        pool = self.connection_pool
        if pool is None:
            return super().checkedout()
        stats = pool.get_stats()
        return stats["pool_size"] - stats["pool_available"]

    def overflow(self) -> int:
        """Return by how much the open connections exceed `size`; negative: room below it."""
        pool = self.connection_pool
        return super().overflow() if pool is None else pool.get_stats()["pool_size"] - self.size()

    # -- forks --------------------------------------------------------------------------------

    def start_anew_in_child(self) -> None:
        """Start anew in a forked child, without a byte on the parent's sockets."""
        super().start_anew_in_child()
        self._start_afresh()  # the pool behind has emptied itself


def _start_anew_in_child() -> None:
    for pool in list(_pools):
        pool.start_anew_in_child()


os.register_at_fork(after_in_child=_start_anew_in_child)
