"""`Pool`: psycopg_pool's ``ConnectionPool`` with an engine of its own on gevent.

This file is policy: what happens on checkout, return and eviction. Opening and closing are in
`pool_life`. Who holds what is in `slots`, who waits in `waiters`, connecting in `connector`, the
way back in `recycler`, and everything that happens by itself in `watchdog`.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import partial
from time import monotonic
from typing import Any, cast
from weakref import ref

import gevent
from gevent import getcurrent
from psycopg.abc import QueryNoTemplate
from psycopg.pq import TransactionStatus
from psycopg_pool.abc import CT
from psycopg_pool.base import AttemptWithBackoff

from geventpg.connection.batch.batch import Batch, StatementResult
from geventpg.connection.batch.sending import send_on
from geventpg.errors import PoolTimeout, TooManyRequests
from geventpg.hub import get_ident
from geventpg.sql.statement import Statement
from geventpg.statements.methods import StatementMethods

from . import shutdown as cutoff
from .causes import Cause
from .checkout import Checkout
from .options import check_options, check_sizes
from .slots import Slot, SlotState
from .stats import BOUNDS

logger = logging.getLogger("psycopg.pool")

IDLE = int(TransactionStatus.IDLE)

_IN_USE = SlotState.IN_USE
_IDLE = SlotState.IDLE


class Pool(StatementMethods[CT]):
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
      fails those who wait at once (`ConnectRejected`);
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
        if timeout is None:
            timeout = self.timeout
        if not self._plain_checkout:
            return self._getconn(timeout)
        if get_ident() != self._thread:
            self._check_hub()
        self._requests += 1
        now = monotonic()
        conn: Any
        if self._idle and timeout > 0 and not self._idle[-1].conn.watch.news.pending:
            slot = self._idle.pop()
            conn = slot.conn
            slot.state = _IN_USE
            slot.since, slot.taker = now, ref(getcurrent())
            self._out[conn] = slot
            conn._pool = self
        else:
            conn = self._take(now, now + timeout, timeout).conn
        return conn  # type: ignore[no-any-return]  # a cast is a call

    def _getconn(self, timeout: float) -> CT:
        deadline = monotonic() + timeout
        logger.info("connection requested from %r", self.name)
        self._requests += 1
        self._check_open_getconn()
        self._check_hub()
        if self._dormant:
            self._start_maintenance()
        self._update_fast_paths()  # the first checkout settles `open` given implicitly
        refused = 0
        backoff: AttemptWithBackoff | None = None
        while True:
            slot = self._take(monotonic(), deadline, timeout)
            if self._check is None or self._validate(slot, deadline):
                self._leaks.taken(slot)
                logger.info("connection given by %r", self.name)
                if "checked_out" in self._listeners.kinds:
                    self._tell("checked_out", slot, seconds=monotonic() - deadline + timeout)
                return cast(CT, slot.conn)
            # Refused by the check. Others may be better; when all were, pause as psycopg_pool
            # does, lest a check that always fails spin.
            refused += 1
            if refused > len(self._bag.idle):
                now = monotonic()
                backoff = backoff or AttemptWithBackoff(timeout=deadline - now)
                backoff.update_delay(now)
                gevent.sleep(max(min(backoff.delay, deadline - now), 0.0))

    def _take(self, now: float, deadline: float, timeout: float) -> Slot:
        bag = self._bag
        if timeout <= 0 or deadline <= now:
            self._stats[self._REQUESTS_ERRORS] += 1
            self._tally.at_once_errors += 1
            self._tally.timed_out += 1
            raise self._timed_out(timeout)
        if not bag.idle and self._reclaim is not None and self._reclaim():
            self._watchdog.look_after_raw_greenlets()
        while bag.idle:
            slot = bag.idle[-1 if self.use_lifo else 0]
            if slot.conn.watch.news.pending and not self._watchdog.is_alive(self, slot):
                continue  # the hub would have told in this turn of it, and let us go on first
            slot = bag.idle.pop() if self.use_lifo else bag.idle.popleft()
            self._nconns_min = min(self._nconns_min, len(bag.idle))
            slot.move(_IN_USE)
            slot.since, slot.taker = now, ref(getcurrent())
            bag.out[slot.conn] = slot
            slot.conn._pool = self
            return slot
        if self.max_waiting and len(self._waiting) >= self.max_waiting:
            self._stats[self._REQUESTS_ERRORS] += 1
            self._tally.at_once_errors += 1
            self._tally.shed += 1
            raise TooManyRequests(
                f"the pool {self.name!r} has already {len(self._waiting)} requests waiting"
                f" (max_waiting={self.max_waiting}; {self._counts()})"
            )
        self._queued += 1
        waiter = self._waiting.join(deadline, now)
        try:
            # Most often all connections are out; `size` is a call.
            if len(bag.out) < self._max_size and bag.size < self._max_size:
                self._connector.hurry()
                self._connector.plan()
            # Parked. Whoever frees a connection hands it to us; we may be killed meanwhile.
            handed: Slot = waiter.wait()
        except BaseException as error:
            self._stats[self._REQUESTS_ERRORS] += 1
            self._tally.wait_failed(error)
            if waiter.value is not None:
                self._recycler.recycle(waiter.value)  # handed over just before we were killed
            else:
                self._waiting.leave(waiter)
            self._waited(now, error)
            if type(error) is PoolTimeout:
                raise self._timed_out(timeout) from self._connector.last_error
            raise
        handed.taker = ref(getcurrent())
        waited = monotonic() - now
        self._wait_seconds += waited
        self._wait_counts[bisect_left(BOUNDS, waited)] += 1
        if self._tells_waits:
            self._tell("waited", handed, seconds=waited)
        return handed

    def _waited(self, started: float, error: BaseException) -> None:
        waited = monotonic() - started
        self._wait_seconds += waited
        self._wait_counts[bisect_left(BOUNDS, waited)] += 1
        self._listeners.tell("waited", seconds=waited, error=error)

    def _tell(self, kind: str, slot: Slot, **fields: Any) -> None:
        try:
            self._listeners.tell(kind, slot.conn, **fields)
        except BaseException:
            # Thrown into a listener that switches: nobody has the connection yet.
            self._recycler.recycle(slot)
            raise

    def _validate(self, slot: Slot, deadline: float) -> bool:
        """Run the user's ``check`` within the acquire's deadline; ``False``: try another."""
        assert self._check is not None
        conn, started = slot.conn, monotonic()
        try:
            with gevent.Timeout(max(deadline - monotonic(), 0.0)) as late, conn.close_is_final():
                self._check(cast(CT, conn))
        except BaseException as error:
            # Whatever it was, the connection goes back; its own state decides its fate.
            if conn.closed:
                self._watchdog.lost(self, slot, Cause.CHECK_FAILED)
                logger.info("connection failed check: %s", error)
            else:
                logger.info("connection failed check: %s", error)
                # To the cold end, so that the next one tried is another.
                self._recycler.recycle(slot, cold=True)
            if isinstance(error, Exception) or error is late:
                return False
            raise
        finally:
            self._tally.validate.record(monotonic() - started)
        return True

    # -- return ---------------------------------------------------------------------------

    def putconn(self, conn: CT) -> None:
        """Return a connection. Never blocks or switches, so it cannot be interrupted.

        An open transaction is rolled back, and logged, by a greenlet of the pool. The one of
        `get_conn` is released, as by `release_conn`. Raise ``ValueError`` for a connection of
        another pool or one returned before, unless the next one to be given it has it already:
        the pool cannot tell then who returns it.
        """
        now = monotonic()
        slot = self._out.get(conn)
        if slot is None or slot.taker is None:
            if slot is None and not any(idle.conn is conn for idle in self._idle):
                self._check_pool_putconn(conn)
            raise ValueError(f"can't return connection to pool {self.name!r} twice: {conn}")
        if slot.conn.binding is not None:
            slot.conn.binding.release("putconn()")
            return
        held = now - slot.since
        self._usage_seconds += held
        if self._hold_counts is not None:
            self._hold_counts[bisect_left(BOUNDS, held)] += 1
        slot.since, slot.taker = now, None
        if (
            self._plain_return
            and conn.pgconn.transaction_status == IDLE
            and conn._pipeline is None
            and not slot.conn.watch.paused
            and now < slot.expires_at
        ):
            slot.idle_since = now
            slot.conn.checkout = None
            # Handed over, it stays in use, even before the waiter runs.
            if not (self._line and self._waiting.hand(slot)):
                del self._out[conn]
                conn._pool = None
                slot.state = _IDLE
                self._idle.append(slot)
        else:
            slot.conn.checkout = None
            self._leaks.returned(slot)
            self._recycler.recycle(slot)
            self._listeners.tell("returned", slot.conn, seconds=held)

    def _evict(self, slot: Slot, cause: Cause) -> None:
        """Drop a connection, closing it if need be, and see whether another is wanted."""
        self._drop(slot, cause)
        self._connector.plan()
        logger.debug("pool %r dropped %s: %s", self.name, slot.conn, cause.text)

    # -- batches --------------------------------------------------------------------------

    def send_batch(
        self, batch: Batch, *, atomic: bool = True, timeout: float | None = None
    ) -> list[StatementResult]:
        """Send the statements of *batch* together; return a result for each, in order.

        They take a connection of their own (see `getconn` for *timeout*) and two round trips,
        whatever their number: they are one transaction, and the second is its COMMIT. If one
        fails, nothing is done and its error raised, whose ``index`` says which it was (``None``:
        not one of them, but COMMIT for instance). A lost COMMIT is treated as in
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
        self._min_size, self._max_size = min_size, max_size
        self._update_fast_paths()
        while self._bag.idle and self._bag.size > max_size:
            self._evict(self._bag.idle[0], Cause.SHRUNK)
        self._connector.plan()

    def drain(self) -> None:
        """Replace all connections: idle ones now, those in use when they are returned.

        Does not block. For changes that only new connections see, such as new adapters.
        """
        for slot in self._bag:
            slot.drain(Cause.DRAINED)
            if slot.state is _IDLE:
                self._evict(slot, Cause.DRAINED)

    def check(self) -> None:
        """Verify all idle connections with a round trip, at the same time; replace bad ones.

        Block this greenlet for ``probe_timeout`` seconds at most.
        """
        self._check_open_getconn()
        self._check_hub()
        self._connector.hurry()
        self._connector.plan()
        now = monotonic()
        for slot in list(self._bag.idle):
            if slot.expires_at <= now:
                logger.info("discarding expired connection %s", slot.conn)
                self._evict(slot, slot.fate)
        self._watchdog.verify(list(self._bag.idle), level=logging.WARNING)

    def prepare(self, query: QueryNoTemplate) -> Statement:
        """Return a statement for any connection, of this pool or another, to execute.

        ``conn.execute(statement, params)``: each connection prepares it when it executes it
        first, if it prepares anything. Does not block. See `Statement`.
        """
        return Statement(query)

    def cancel_statements(self, timeout: float | None = None) -> int:
        """Cancel the statements running on checked-out connections; return how many.

        Those who wait for them get ``psycopg.errors.QueryCanceled``. Block this greenlet for
        *timeout* seconds at most (default ``cancel_timeout``). Meant for a shutdown that
        does not wait for running work.
        """
        limit = self.cancel_timeout if timeout is None else timeout
        return cutoff.cancel_statements(self, limit)

    def abort(self, timeout: float = 5.0, *, wake: bool = True) -> None:
        """Close the pool and cut off those who use it, for a shutdown that does not wait.

        Running statements are cancelled on the server, and every connection is closed. Who
        waits for one gets an ``OperationalError``, or, without *wake*, waits on (the process
        ends). Block this greenlet for *timeout* seconds at most.
        """
        cutoff.abort(self, timeout, wake=wake)
