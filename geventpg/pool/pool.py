"""`Pool`: psycopg_pool's ``ConnectionPool`` with an engine of its own on gevent.

This file is policy: what happens on checkout and return, on opening and closing, and what the pool
tells. Its parts stand on `core`: the connections are in `slots`, the waiters in `waiters`,
connecting is in `connector`, the way back in `recycler`, and everything that happens by itself in
`watchdog`.
"""

from __future__ import annotations

import logging
import warnings
from bisect import bisect_left
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, cast
from weakref import ref

import gevent
from gevent import getcurrent
from psycopg.abc import Params, Query, QueryNoTemplate
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam

from geventpg import hub
from geventpg.connection.abc import UNOBSERVED
from geventpg.connection.batch.batch import Batch, StatementResult
from geventpg.connection.batch.sending import send_on
from geventpg.connection.connection import Connection
from geventpg.connection.psycopg_internals import OpenPool, pool_of
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.errors import PoolClosed, PoolTimeout, TooManyRequests
from geventpg.hub import get_ident
from geventpg.sql.statement import Statement
from geventpg.statements.alone import all_rows, everything, one_row, one_value
from geventpg.statements.choice import Pipes
from geventpg.statements.quick import run_quick
from geventpg.statements.result import Result
from geventpg.statements.run import run
from geventpg.statements.stats import StatementStats

from . import introspection, shutdown
from .causes import Cause
from .checkout import Checkout
from .connector import Connector
from .core import Core
from .events import Listener, Listeners
from .failover import Failover
from .leaks import LeakDetector
from .lending import Lending
from .lifecycle import on_open, open_pools
from .observer import PoolObserver
from .options import check_options, check_sizes
from .outage import Backoff
from .recycler import Recycler
from .settings import Settings
from .slots import Slot, SlotState
from .stats import BOUNDS, Holder, PoolStats, Waiter
from .watchdog import Watchdog

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from geventpg.statements.abc import StatementOptions

logger = logging.getLogger("psycopg.pool")

IDLE = int(TransactionStatus.IDLE)


def _setting(name: str) -> Any:
    """Return a property for an option value, which may be changed while the pool runs."""

    def set_it(self: Any, value: Any) -> None:
        setattr(self._settings, name, value)

    return property(attrgetter(f"_settings.{name}"), set_it)


class Pool(OpenPool[CT]):
    """A pool of connections for the greenlets of one thread.

    A drop-in for ``psycopg_pool.ConnectionPool``: same constructor, defaults, methods,
    statistics keys, exceptions and log messages. Where it differs on purpose:

    - the most recently used connection is given first (*use_lifo*; ``False`` restores first
      in, first out), so that unneeded ones can be closed;
    - idle connections expire too, and are given up as soon as the server closes them;
    - returning a connection never blocks: one that needs a round trip is cleaned by a
      greenlet of the pool;
    - an exception thrown into a waiting or returning greenlet loses nothing;
    - shrinking with `resize` takes effect at once for idle connections;
    - the pool never stops trying to reconnect, and a server that refuses the credentials
      fails the waiters at once (`ConnectRejected`);
    - wrong option values raise `OptionError` (a ``ValueError`` and ``TypeError``) here.

    Options that psycopg_pool does not have (times in seconds):

    :param keepalive_interval: probe a connection that was idle this long; ``0``: never.
    :param probe_timeout: a probe that takes longer evicts the connection.
    :param cancel_timeout: bound for cancelling an interrupted statement and cleaning up.
    :param leak_threshold: report a connection held longer, once; ``0``: off, no cost.
    :param prepare: ``"never"`` turns prepared statements off, ``"auto"`` does behind a pooler,
        ``"always"`` nowhere; where they are on, ``prepare_threshold`` is psycopg's. What was
        given is in the attribute ``prepare_mode``; `prepare` is a method.
    :param statement_connections: how many connections carry single statements at a time.
    :param use_lifo: give the most recently used connection first.

    The connection class may be any ``psycopg.Connection`` subclass; it gets the hub's
    waiting too. Nothing connects before `open`, and opening does not wait.
    """

    __module__ = "geventpg"

    # The option values. Those of psycopg_pool are attributes there, too.
    name: str = _setting("name")
    conninfo: ConninfoParam = _setting("conninfo")
    kwargs: KwargsParam | None = _setting("kwargs")
    connection_class: type[CT] = _setting("connection_class")
    timeout: float = _setting("timeout")
    max_waiting: int = _setting("max_waiting")
    max_lifetime: float = _setting("max_lifetime")
    max_idle: float = _setting("max_idle")
    reconnect_timeout: float = _setting("reconnect_timeout")
    num_workers: int = _setting("num_workers")
    keepalive_interval: float = _setting("keepalive_interval")
    probe_timeout: float = _setting("probe_timeout")
    cancel_timeout: float = _setting("cancel_timeout")
    leak_threshold: float = _setting("leak_threshold")
    prepare_mode: str = _setting("prepare")
    statement_connections: int = _setting("statement_connections")
    use_lifo: bool = _setting("use_lifo")

    # -- construction -----------------------------------------------------------------------

    @discreet
    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = cast("type[CT]", Connection),
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        keepalive_interval: float = 30.0,
        probe_timeout: float = 2.0,
        cancel_timeout: float = 5.0,
        leak_threshold: float = 0.0,
        prepare: str = "auto",
        statement_connections: int = 1,
        use_lifo: bool = True,
        timings: bool = False,
    ) -> None:
        # psycopg_pool's constructor is left out: it would prepare an engine of threads.
        options = {k: v for k, v in locals().items() if k not in ("self", "conninfo", "__class__")}
        check_conninfo(conninfo)
        check_options(options)
        self._settings = Settings.of(conninfo, options)
        self.close_returns = close_returns
        self._timings = timings
        self._reconnect_failed_callback = reconnect_failed
        self._listeners = Listeners(self.name)
        self._start_afresh()
        if open is None:
            open = self._core.warns_of_open = True
        if open:
            self._start()

    def _start_afresh(self) -> None:
        """Make an empty engine: at first, and in a child process after a fork."""
        self._core = core = Core(self._settings, self._listeners, self)
        self._leaks = LeakDetector(self._settings)
        self._recycler = Recycler(core)
        self._failover = failover = Failover(core)
        self._observer = observer = PoolObserver(core, failover)
        self._connector = Connector(core, self._recycler, failover, observer, self.reconnect_failed)
        self._watchdog = Watchdog(core, self._connector, self._recycler, failover, self._leaks)
        self._pipes = Pipes(Lending(core, self._leaks, observer, self.getconn, self.putconn))
        # What each checkout and return needs, to save them a step.
        self._counters = core.counters
        self._idle, self._out = core.bag.idle, core.bag.out
        self._queue = core.waiting
        self._line = core.waiting.line
        self._popped: dict[str, int] = {}
        """The counters as `pop_stats` last saw them."""
        self._recording_changed()

    def __repr__(self) -> str:
        core = self._core
        return (
            f"<{type(self).__module__}.{type(self).__name__} {self.name!r}"
            f" [{'closed' if core.closed else 'open'}] {core.counts()}"
            f" connecting={core.bag.connecting}"
            f" min_size={self.min_size} max_size={self.max_size} at 0x{id(self):x}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")

    # -- checkout -------------------------------------------------------------------------

    def connection(self, timeout: float | None = None) -> Checkout[CT]:  # type: ignore[override]
        """Return a context manager that holds a connection; see `getconn` for *timeout*.

        At its end the transaction is committed, or rolled back after an exception, and the
        connection returned, whatever happens on the way.
        """
        return Checkout(self, timeout)

    def getconn(self, timeout: float | None = None) -> CT:
        """Check out a connection; every call needs one `putconn`.

        Block this greenlet for *timeout* seconds at most (default: the pool's ``timeout``).
        Raise `PoolTimeout` then, which tells what the pool was doing; `TooManyRequests` if
        ``max_waiting`` others wait already; `PoolClosed`; `ConnectRejected`. A greenlet that
        is killed while it waits leaves the queue and loses nothing.
        """
        core = self._core
        if timeout is None:
            timeout = self._settings.timeout
        if not core.plain_checkout:
            return self._getconn(timeout)
        if get_ident() != core.thread:
            core.check_hub()
        self._counters.requests += 1
        now = monotonic()
        conn: Any
        if self._idle and timeout > 0 and not self._idle[-1].conn.watch.news.pending:
            # `Bag.use` without the call.
            slot = self._idle.pop()
            conn = slot.conn
            slot.since, slot.taker = now, ref(getcurrent())
            self._out[conn] = slot
            conn.pool = self
        else:
            conn = self._take(now, now + timeout, timeout).conn
        return conn  # type: ignore[no-any-return]  # cast() would be a call on the hot path

    def _getconn(self, timeout: float) -> CT:
        """Check out a connection where more than a look at the idle ones is needed."""
        core = self._core
        deadline = monotonic() + timeout
        logger.info("connection requested from %r", self.name)
        core.counters.requests += 1
        core.check_open()
        self._warn_of_open()
        core.check_hub()
        if not core.at_work:
            self._start_work()
        refused = 0
        backoff = Backoff()
        while True:
            slot = self._take(monotonic(), deadline, timeout)
            if core.settings.check is None or self._validate(slot, deadline):
                self._leaks.taken(slot)
                logger.info("connection given by %r", self.name)
                if "checked_out" in core.listeners.kinds:
                    self._tell("checked_out", slot, seconds=monotonic() - deadline + timeout)
                return cast(CT, slot.conn)
            # Refused by the check. Others may be better. When all were refused, pause as
            # psycopg_pool does, lest a check that always fails spin.
            refused += 1
            if refused > len(core.bag.idle):
                gevent.sleep(max(min(backoff.pause(), deadline - monotonic()), 0.0))

    def _take(self, now: float, deadline: float, timeout: float) -> Slot:
        """Return the slot of a connection that is in use from now on; wait for it if need be."""
        core, bag = self._core, self._core.bag
        if timeout <= 0 or deadline <= now:
            core.counters.failed_at_once()
            core.counters.timed_out += 1
            raise core.timed_out(timeout)
        if not bag.idle and core.reclaim is not None and core.reclaim():
            self._watchdog.look_after_raw_greenlets()
        while bag.idle:
            slot = bag.idle[-1 if core.settings.use_lifo else 0]
            if slot.conn.watch.news.pending and not core.is_alive(slot):
                continue  # the hub would have told in this turn of it, and let us go on first
            bag.use(slot)
            slot.since, slot.taker = now, ref(getcurrent())
            slot.conn.pool = self
            return slot
        limit = core.settings.max_waiting
        if limit and len(core.waiting) >= limit:
            core.counters.failed_at_once()
            core.counters.shed += 1
            raise TooManyRequests(
                f"the pool {self.name!r} has already {len(core.waiting)} requests waiting"
                f" (max_waiting={limit}; {core.counts()})"
            )
        return self._wait_for_slot(now, deadline, timeout)

    def _wait_for_slot(self, now: float, deadline: float, timeout: float) -> Slot:
        core, bag, counters = self._core, self._core.bag, self._counters
        counters.queued += 1
        waiter = core.waiting.join(deadline, now)
        try:
            # Most often all connections are out; `size` is a call.
            max_size = core.settings.max_size
            if len(bag.out) < max_size and bag.size < max_size:
                core.hurry()
                core.plan()
            # Parked. A return, or a new connection, wakes us; we may be killed meanwhile.
            handed: Slot = waiter.wait()
        except BaseException as error:
            counters.failed_waiting(error)
            if waiter.value is not None:
                self._recycler.recycle(waiter.value)  # handed over just before we were killed
            else:
                core.waiting.leave(waiter)
            waited = monotonic() - now
            counters.wait.record(waited)
            core.listeners.tell("waited", seconds=waited, error=error)
            if type(error) is PoolTimeout:
                raise core.timed_out(timeout) from core.last_error
            raise
        handed.taker = ref(getcurrent())
        waited = monotonic() - now
        # `Recorder.record` without the call.
        recorder = counters.wait
        recorder.counts[bisect_left(BOUNDS, waited)] += 1
        recorder.sum += waited
        if self._tells_waits:
            self._tell("waited", handed, seconds=waited)
        return handed

    def _tell(self, kind: str, slot: Slot, **fields: Any) -> None:
        try:
            self._listeners.tell(kind, slot.conn, **fields)
        except BaseException:
            # Thrown into a listener that switches: the caller does not have the connection yet.
            self._recycler.recycle(slot)
            raise

    def _validate(self, slot: Slot, deadline: float) -> bool:
        """Run the user's ``check`` within the acquire's deadline; ``False``: try another."""
        check = self._settings.check
        assert check is not None
        conn, started = slot.conn, monotonic()
        try:
            with gevent.Timeout(max(deadline - monotonic(), 0.0)) as late, conn.close_is_final():
                check(conn)
        except BaseException as error:
            # Whatever it was, the connection goes back; its own state decides its fate.
            if conn.closed:
                self._core.evict_lost(slot, Cause.CHECK_FAILED)
                logger.info("connection failed check: %s", error)
            else:
                logger.info("connection failed check: %s", error)
                # To the cold end, so that the next one tried is another.
                self._recycler.recycle(slot, cold=True)
            if isinstance(error, Exception) or error is late:
                return False
            raise
        finally:
            self._counters.validate.record(monotonic() - started)
        return True

    def _warn_of_open(self) -> None:
        if self._core.warns_of_open:
            self._core.warns_of_open = False
            self._core.refresh()
            name = type(self).__name__
            warnings.warn(
                f"the default for the {name} 'open' parameter will become 'False' in a future"
                " release. Please use open={True|False} explicitly, or use the pool as context"
                f" manager using: `with {name}(...) as pool: ...`",
                DeprecationWarning,
                stacklevel=2,
            )

    # -- return ---------------------------------------------------------------------------

    def putconn(self, conn: CT) -> None:
        """Return a connection. Never blocks or switches, so it cannot be interrupted.

        An open transaction is rolled back, and logged, by a greenlet of the pool. The one of
        `get_conn` is released, as by `release_conn`. Raise ``ValueError`` for a connection of
        another pool or one returned before, unless the next user has it already: the pool cannot
        tell then which of the two returns it.
        """
        now = monotonic()
        slot = self._out.get(conn)
        if slot is None or slot.taker is None:
            raise self._not_checked_out(conn, slot)
        if slot.conn.binding is not None:
            slot.conn.binding.release("putconn()")
            return
        held = now - slot.since
        self._counters.usage_seconds += held
        if self._hold_counts is not None:
            self._hold_counts[bisect_left(BOUNDS, held)] += 1
        slot.since, slot.taker = now, None
        if (
            self._core.plain_return
            and conn.pgconn.transaction_status == IDLE
            and slot.conn.open_pipeline is None
            and not slot.conn.watch.paused
            and now < slot.expires_at
        ):
            slot.idle_since = now
            slot.conn.checkout = None
            # Handed over, it stays in use, even before the waiter runs.
            if not (self._line and self._queue.hand(slot)):
                # `Bag.rest` without the call.
                del self._out[conn]
                slot.conn.pool = None
                self._idle.append(slot)
        else:
            slot.conn.checkout = None
            self._leaks.returned(slot)
            self._recycler.recycle(slot)
            self._listeners.tell("returned", slot.conn, seconds=held)

    def _not_checked_out(self, conn: Any, slot: Slot | None) -> ValueError:
        refusal = f"can't return connection to pool {self.name!r}"
        if slot is not None or any(idle.conn is conn for idle in self._idle):
            return ValueError(f"{refusal} twice: {conn}")
        pool = pool_of(conn)
        if pool is self:
            return ValueError(f"{refusal} twice: {conn}")
        whence = f"it comes from pool {pool.name!r}" if pool else "it doesn't come from any pool"
        return ValueError(f"{refusal}, {whence}: {conn}")

    def detach(self, conn: CT) -> None:
        """Remove a checked-out connection from the pool; its holder owns it from now on.

        The pool may open another one in its place. Does not switch or talk to the server. Raise
        ``ValueError`` for a connection that is not checked out of this pool.
        """
        slot = self._out.get(conn)
        if slot is None:
            raise self._not_checked_out(conn, slot)
        core, taken = self._core, slot.conn
        self._leaks.returned(slot)
        core.bag.remove(slot)
        core.left(slot, Cause.DETACHED)
        taken.observer = UNOBSERVED
        taken.pool = taken.checkout = None
        core.refresh()
        core.plan()

    # -- single statements and batches --------------------------------------------------------

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        **options: Unpack[StatementOptions],
    ) -> Result[Any]:
        """Execute one statement, a transaction of its own; return its `Result`.

        Statements of all greenlets go together over ``statement_connections`` connections.
        *query*, *params* and *row_factory* are what they are in psycopg. Options, by keyword:

        :param prepare: as in psycopg (``None``).
        :param binary: as in psycopg (``False``).
        :param timeout: seconds for which it blocks this greenlet at most (``None``: until there
            is an answer). `PoolTimeout` is raised if it was not sent by then (without *timeout*:
            by the pool's), `StatementTimeout` if it was.
        :param idempotent: it may be executed twice (``False``). When the connection is lost after
            it was sent it is sent again, and without this it is `CommitUnknown`. What was not
            sent goes over another connection.

        Server errors are psycopg's. After a kill its answer is not read, the server is asked to
        cancel it if it takes long, and it may be committed. See docs/statements.md.
        """
        result: Result[Any] = (
            run(self._pipes, everything, query, params, row_factory, **options)
            if options
            else run_quick(self._pipes, everything, query, params, row_factory)
        )
        return result

    def fetch_all(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        **options: Unpack[StatementOptions],
    ) -> list[Any]:
        """Execute one statement as `execute` does; return its rows.

        Raise ``psycopg.ProgrammingError`` if it returns none by nature; it is executed then.
        """
        rows: list[Any] = (
            run(self._pipes, all_rows, query, params, row_factory, **options)
            if options
            else run_quick(self._pipes, all_rows, query, params, row_factory)
        )
        return rows

    def fetch_one(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        **options: Unpack[StatementOptions],
    ) -> Any:
        """Execute one statement as `execute` does; return its first row, ``None`` if none.

        Raise ``psycopg.ProgrammingError`` if it returns no rows by nature; it is executed then.
        """
        if options:
            return run(self._pipes, one_row, query, params, row_factory, **options)
        return run_quick(self._pipes, one_row, query, params, row_factory)

    def fetch_val(
        self, query: Query, params: Params | None = None, **options: Unpack[StatementOptions]
    ) -> Any:
        """Execute one statement as `execute` does; return the first column of its first row.

        ``None`` if there is no row. Raise ``psycopg.ProgrammingError`` if it returns no rows by
        nature; it is executed then.
        """
        if options:
            return run(self._pipes, one_value, query, params, None, **options)
        return run_quick(self._pipes, one_value, query, params, None)

    def send_batch(
        self, batch: Batch, *, atomic: bool = True, timeout: float | None = None
    ) -> list[StatementResult]:
        """Send the statements of *batch* together; return a result for each, in order.

        They take a connection of their own (see `getconn` for *timeout*) and two round trips,
        whatever their number: they are one transaction, and the second is its COMMIT. If one
        fails, nothing is done and its error is raised. The error's ``index`` says which statement
        it was (``None``: not one of them, but COMMIT for instance). A lost COMMIT is treated as in
        `transaction`: looked up, or `CommitUnknown`. An empty batch does nothing.

        With *atomic* false each statement is a transaction of its own, nothing is raised but
        on checkout, and each result has an ``error`` or none. When the connection is lost it
        is `CommitUnknown` for those that were sent and not answered, `NotExecuted` for the
        rest.

        Blocks. After a kill nothing is left running, and with *atomic* nothing is done, unless
        it came during COMMIT. Without, some statements are done and some are not.
        """
        checkout: Any = partial(self.connection, timeout)
        return send_on(checkout, self.connection, batch, atomic=atomic)

    # -- operation ------------------------------------------------------------------------

    def resize(self, min_size: int, max_size: int | None = None) -> None:
        """Change the size of the running pool; *max_size* defaults to *min_size*.

        Does not block. Idle connections above *max_size* are closed at once, those in use
        when they are returned.
        """
        check_options({"min_size": min_size, "max_size": max_size})
        max_size = min_size if max_size is None else max_size
        check_sizes(min_size, max_size)
        logger.info("resizing %r to min_size=%s max_size=%s", self.name, min_size, max_size)
        core = self._core
        core.settings.min_size, core.settings.max_size = min_size, max_size
        core.refresh()
        while core.bag.idle and core.bag.size > max_size:
            core.evict(core.bag.idle[0], Cause.SHRUNK)
        core.plan()

    def drain(self) -> None:
        """Replace all connections: idle ones now, those in use when they are returned.

        Does not block. For changes that only new connections see, such as new adapters.
        """
        for slot in self._core.bag:
            slot.drain(Cause.DRAINED)
            if slot.state is SlotState.IDLE:
                self._core.evict(slot, Cause.DRAINED)

    def check(self) -> None:
        """Verify all idle connections with a round trip, at the same time; replace bad ones.

        Block this greenlet for ``probe_timeout`` seconds at most.
        """
        core = self._core
        core.check_open()
        core.check_hub()
        core.hurry()
        core.plan()
        now = monotonic()
        for slot in list(core.bag.idle):
            if slot.expires_at <= now:
                logger.info("discarding expired connection %s", slot.conn)
                core.evict(slot, slot.fate)
        self._watchdog.verify(list(core.bag.idle))

    def prepare(self, query: QueryNoTemplate) -> Statement:
        """Return a statement for any connection, of this pool or another, to execute.

        ``conn.execute(statement, params)``: each connection prepares it when it executes it
        first, if it prepares anything. Does not block. See `Statement`.
        """
        return Statement(query)

    def cancel_statements(self, timeout: float | None = None) -> int:
        """Cancel the statements running on checked-out connections; return how many.

        The greenlets that wait for them get ``psycopg.errors.QueryCanceled``. Block this greenlet
        for *timeout* seconds at most (default ``cancel_timeout``). Meant for a shutdown that
        does not wait for running work.
        """
        limit = self.cancel_timeout if timeout is None else timeout
        return shutdown.cancel_statements(self._core, limit)

    def abort(self, timeout: float = 5.0, *, wake: bool = True) -> None:
        """Close the pool and cut off its users, for a shutdown that does not wait.

        Running statements are cancelled on the server, and every connection is closed. A greenlet
        that waits for one gets an ``OperationalError``, or, without *wake*, waits on (the process
        ends). Block this greenlet for *timeout* seconds at most.
        """
        deadline = monotonic() + timeout
        self.close(timeout=timeout / 2)
        shutdown.cut_off(self._core, deadline, wake=wake)

    # -- opening and closing ----------------------------------------------------------------

    def open(self, wait: bool = False, timeout: float = 30.0) -> None:
        """Start the pool: connect ``min_size`` connections in the background.

        Does not block unless *wait*, which is `wait`. No-op if it is open; raise
        `PoolClosed` if it was closed before. Connections belong to the thread that opens.
        """
        self._start()
        if wait:
            self.wait(timeout=timeout)

    def _start(self) -> None:
        core = self._core
        if not core.closed:
            return
        if core.was_opened:
            raise PoolClosed("pool has already been opened/closed and cannot be reused")
        if hub.current_hub() is not core.hub:
            warns_of_open, reclaim = core.warns_of_open, core.reclaim
            self._start_afresh()  # made in one thread, opened in another: it lives here
            core = self._core
            core.warns_of_open, core.reclaim = warns_of_open, reclaim
        core.closed = False
        core.was_opened = True
        open_pools.add(self)
        for tell in on_open:
            tell(self)
        self._start_work()

    def _start_work(self) -> None:
        self._core.at_work = True
        self._core.refresh()
        self._watchdog.start()
        self._connector.plan()

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until ``min_size`` connections are idle.

        Raise `PoolTimeout` after *timeout* seconds, or `ConnectRejected` as soon as the
        server refuses the credentials; the pool is closed then, as in psycopg_pool.
        """
        core = self._core
        core.check_open()
        self._warn_of_open()
        core.check_hub()
        if len(core.bag.idle) >= self.min_size:
            return
        logger.info("waiting for pool %r initialization", self.name)
        now = monotonic()
        waiter = core.filling.join(now + timeout, now)
        core.refresh()
        core.hurry()
        core.plan()
        try:
            waiter.wait()
        except PoolTimeout as error:
            self.close(timeout=0)  # all the time there was is up
            if type(error) is PoolTimeout:
                raise PoolTimeout(
                    f"pool initialization incomplete after {timeout} sec{core.why()}"
                ) from core.last_error
            raise
        except BaseException:
            core.filling.leave(waiter)
            raise
        logger.info("pool %r is ready to use", self.name)

    def close(self, timeout: float = 5.0) -> None:
        """Close the pool: idle connections now, those in use when they are returned.

        The waiters get `PoolClosed`. Wait *timeout* seconds at most for connections that
        are being cleaned; close them anyway after that. Idempotent, and called at
        interpreter exit. Interrupted, the pool is closed all the same.
        """
        core = self._core
        if core.closed:
            return
        # Decide and record: nothing switches before the pool is closed for all its users.
        core.closed = True
        open_pools.discard(self)
        core.refresh()
        closed = f"the pool {self.name!r} is closed"
        core.waiting.fail_all(lambda: PoolClosed(closed))
        core.filling.fail_all(lambda: PoolClosed(closed))
        self._pipes.retire_all()
        for slot in core.bag:
            if slot.state is SlotState.IDLE:
                core.drop(slot, Cause.POOL_CLOSED)
        core.alarm.ring()
        leaving = self._connector.stop() + self._recycler.stop()
        current = getcurrent()
        if timeout > 0 and hub.can_wait(core.hub):
            # Greenlets that do not end in time close what they hold when they are done.
            gevent.joinall([g for g in leaving if g is not current], timeout=timeout)
        for slot in core.bag:
            if slot.state is not SlotState.IN_USE:
                core.drop(slot, Cause.POOL_CLOSED)

    def __enter__(self) -> Self:
        self._core.warns_of_open = False
        self.open()
        self._core.refresh()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        core: Core | None = getattr(self, "_core", None)
        if core is None or core.closed:
            return
        core.closed = True
        for slot in core.bag:
            if slot.state is SlotState.IDLE:
                core.close_connection(slot.conn)

    def start_anew_in_child(self) -> None:
        """Start anew in a forked child: empty, without a byte on the parent's sockets.

        It is called by itself. The child's event loop is not ready yet, so connecting waits for
        the first use.

        :meta private:
        """
        before = self._core
        self._connector.abandon()
        self._watchdog.abandon()
        self._pipes.forget()
        for slot in before.bag:
            slot.abandon()
            slot.conn.pool = None
            slot.conn.abandon()
        self._start_afresh()
        core = self._core
        core.closed, core.was_opened = before.closed, before.was_opened
        core.warns_of_open = before.warns_of_open

    # -- what it tells ----------------------------------------------------------------------

    @property
    def min_size(self) -> int:
        """The number of connections that the pool keeps open."""
        return self._settings.min_size

    @property
    def max_size(self) -> int:
        """The highest number of connections."""
        return self._settings.max_size

    @property
    def closed(self) -> bool:
        """Whether the pool is closed, or not open yet."""
        return self._core.closed

    def get_stats(self) -> dict[str, int]:
        """Return psycopg_pool's statistics: counters since the start, and current sizes.

        Some keys are ours. ``statements_healed``: prepared statements that were gone and were
        executed all the same; ``statements_lost``: those that took their transaction along. The
        other ``statements_`` keys are those of `StatementStats`. `stats` tells more.
        """
        counters, others = introspection.by_key(self.stats(), self._counters)
        popped = self._popped
        return {**{key: value - popped.get(key, 0) for key, value in counters.items()}, **others}

    def pop_stats(self) -> dict[str, int]:
        """Like `get_stats`, and set the counters to zero; those of `stats` run on."""
        shown = self.get_stats()
        self._popped, _ = introspection.by_key(self.stats(), self._counters)
        return shown

    def stats(self) -> PoolStats:
        """Return sizes, counters and histograms of this instant. Does not block or switch.

        The histograms of holding and of statements need `timings`. To be called
        in the pool's thread, or from any if rough figures will do.
        """
        return introspection.stats(self._core, self._pipes.stats())

    def statement_stats(self) -> StatementStats:
        """Return the numbers of this pool's single statements. Does not block."""
        return self._pipes.stats()

    def holders(self) -> tuple[Holder, ...]:
        """Return the holders of connections, the longest first, and what each executes.

        Does not block or switch; to be called in the pool's thread. It is found out by this call
        and costs nothing at other times.
        """
        return introspection.holders(self._core, self._pipes.pipes)

    def waiters(self) -> tuple[Waiter, ...]:
        """Return the waiters for a connection now, the first in line first.

        Does not block or switch; to be called in the pool's thread.
        """
        return introspection.waiters(self._core)

    def idle_connections(self) -> list[CT]:
        """Return the idle connections, the most recently used last. They are to be looked at only.

        Does not block or switch.
        """
        return [cast(CT, slot.conn) for slot in list(self._idle)]

    def callback(self, name: str) -> Any:
        """Return the user's function that is called ``configure``, ``check`` or ``reset``.

        ``None`` if there is none. Does not block or switch.
        """
        return getattr(self._settings, name)

    def add_listener(self, listener: Listener, *kinds: str) -> None:
        """Call *listener* with an `Event` whenever one of *kinds* happens; without any: of all.

        It is called on the spot, in whatever greenlet it happens in, or in the hub: it must not
        block. What it raises is logged, once, and does no harm. Raise `OptionError` for an
        unknown kind. Kinds that no listener asks for cost nothing; ``checked_out``, ``returned``
        and ``statement`` slow each checkout, return and statement down.
        """
        self._listeners.add(listener, kinds)
        self._recording_changed()

    def remove_listener(self, listener: Listener) -> None:
        """Undo `add_listener`; no-op for one that was not added."""
        self._listeners.remove(listener)
        self._recording_changed()

    @property
    def timings(self) -> bool:
        """Whether holding and statements are measured; it may be changed while the pool runs.

        What was measured until it was turned off stays in `stats`.
        """
        return self._timings

    @timings.setter
    def timings(self, timings: bool) -> None:
        self._timings = timings
        self._recording_changed()

    def _recording_changed(self) -> None:
        core = self._core
        core.refresh()
        self._tells_waits = "waited" in self._listeners.kinds
        self._observer.measure(core, timings=self._timings)
        self._hold_counts = core.counters.hold if self._timings else None

    # -- what the rooms around the pool use ----------------------------------------------------

    def reconnect_failed(self) -> None:
        """Call the ``reconnect_failed`` of the constructor: no connection for that long."""
        if self._reconnect_failed_callback is not None:
            self._reconnect_failed_callback(self)

    def reclaim_with(self, reclaim: Callable[[], bool]) -> None:
        """Have *reclaim* called when a checkout finds nothing idle, and while a greenlet waits.

        It takes back what ended raw greenlets still hold, and tells whether some live on. It
        must not switch.

        :meta private:
        """
        self._core.reclaim = reclaim

    def check_hub(self) -> None:
        """Raise `WrongHub` unless the current greenlet can wait on this pool's hub.

        :meta private:
        """
        self._core.check_hub()
