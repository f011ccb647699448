"""`Connection`: psycopg's connection, waiting on the gevent hub.

Waiting, cancelling and the lock are replaced here, connecting in `connect`; everything else is
psycopg's, or stands in `base`. It works alone, in any greenlet of the thread that opened it,
whatever was imported before monkey-patching and whether or not anything was patched.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, TypeVar, cast

import psycopg
from psycopg import capabilities, errors, generators, pq
from psycopg.abc import Params, PQGen, Query
from psycopg.adapt import AdaptersMap
from psycopg.rows import Row, RowFactory, tuple_row

from geventpg import hub

from .abc import UNOBSERVED
from .adapters import ConnectionAdapters
from .connect import ConnectingOnHub
from .cursor import USUAL_CURSOR, Cursor
from .interruption import end_statement
from .loss import is_alive, note_loss
from .pooler import OF_ALL, Warnings, find_pooler_gen
from .prepared import is_due
from .psycopg_internals import (
    COMMITS_SHORTLY,
    NO_TRACEBACK,
    WaitTimeout,
    blocks_of,
    has_notify_handlers,
    prepared_of,
    should_cancel,
    two_phase_of,
)
from .server_cursor import ServerCursor
from .statement_cache import KnownStatements
from .wire import ask_gen, check_open

if TYPE_CHECKING:
    from geventpg.connection.batch.batch import Queued, StatementResult


logger = logging.getLogger("geventpg")

RV = TypeVar("RV")

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
BAD = pq.ConnStatus.BAD
OK = int(pq.ConnStatus.OK)
READ_ONLY = errors.ReadOnlySqlTransaction.sqlstate


class Connection(ConnectingOnHub[Row]):
    """A `psycopg.Connection` whose waiting happens on the gevent hub.

    It belongs to the thread that opened it: using it from another thread's hub raises
    `WrongHub`. Greenlets of its thread may share it; like in psycopg their statements take
    turns.

    When an exception is thrown into a greenlet that waits for a statement
    (``gevent.Timeout``, ``GreenletExit``, ``KeyboardInterrupt``, anything), the statement is
    cancelled on the server and its remains are read before the exception goes on, both
    within `cancel_timeout` seconds; if that fails, or a second exception comes, the
    connection is closed.
    """

    __module__ = "geventpg"

    cancel_timeout: float = 5.0
    """Seconds for cancelling an interrupted statement and reading its remains."""

    def __init__(
        self, pgconn: pq.abc.PGconn, row_factory: RowFactory[Row] = cast(Any, tuple_row)
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.attach_to_hub()
        self.cursor_factory = USUAL_CURSOR
        self.server_cursor_factory = ServerCursor

    def attach_to_hub(self) -> None:
        """Start waiting on this thread's hub; used for connections made by other classes too."""
        self.lock = cast(Any, hub.HubLock())
        self.observer = UNOBSERVED
        self.wants_writes: bool | None = None
        self.begun_at = 0.0
        """When its pool began to open it (``time.monotonic``)."""
        self.pooled: bool | None = None
        """Whether a pooler is in between, ``None`` as long as that is not known."""
        self.prepares_always = False
        """Whether to prepare behind a pooler too."""
        self.pooler_warnings: Warnings = OF_ALL
        self.server_pid = self.pgconn.backend_pid  # which libpq forgets when it is lost
        self.checkout: object = None
        """The ``with pool.connection()`` block that holds it, for that block to know."""
        self.binding = None  # found faster here than in the class, at each return
        self._pid = os.getpid()
        self.prepared = prepared_of(self)
        self.own_adapters = None
        self.statement_cache = KnownStatements(self)
        self.planner: Any = None
        """What the statement-level API knows of it; it refers to the connection."""
        self.watch = hub.Watch(self.pgconn.socket, _stray_callback(weakref.ref(self)))

    def __del__(self, *args: Any) -> None:
        # A watcher must not outlive its descriptor: libev would miss a new one of that number.
        watch: hub.Watch | None = getattr(self, "watch", None)
        if watch is not None and watch.is_home:
            watch.stop()
        elif watch is not None:
            # Collected in another thread: the descriptor must stay until its loop let go.
            watch.at_home(_let_go, watch, self.pgconn)
        super().__del__(*args)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # A copy would own the same socket.
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")

    def shared_adapters(self) -> AdaptersMap | None:
        """Return the adapters for a cursor, ``None`` if it needs a copy of its own."""
        adapters = self.adapters
        return adapters.shared(self) if isinstance(adapters, ConnectionAdapters) else None

    # -- waiting --------------------------------------------------------------------------

    def wait(
        self,
        gen: PQGen[RV],
        interval: float = 0.0,  # noqa: ARG002  # psycopg's signature
        timeout: float | None = None,
    ) -> RV:
        """Run a psycopg generator to its end, waiting on the hub.

        No timer is involved unless *timeout* (seconds) is given; *interval* is ignored, it
        is psycopg's way to notice Ctrl-C. See the class for what an exception does.
        """
        if self.watch.stopped:
            closed = errors.OperationalError("the connection is closed")
            note_loss(self, closed)
            raise closed
        try:
            if timeout is None:
                meter = self.observer.meter
                if meter is None or getattr(gen, "__name__", None) not in meter.generators:
                    return self.watch.drive(gen)
                value: RV = meter.drive(self, gen)
                return value
            return self.watch.drive_until(gen, monotonic() + timeout)
        except hub.DeadlineReached:
            raise WaitTimeout("wait timeout expired") from None
        except errors.Error as error:
            self.failed(error, gen)
            raise
        except BaseException:
            self.interrupted(gen)
            raise

    def failed(self, error: errors.Error, gen: PQGen[Any]) -> None:
        """See what an error means for the connection, which came while it waited for *gen*."""
        note_loss(self, error)
        if self.pgconn.status == BAD:
            self.interrupted(gen)
        elif error.sqlstate == READ_ONLY:
            self.observer.write_refused(self)
        elif getattr(gen, "gi_frame", None) is not None:
            self.interrupted(gen)  # thrown in, not raised by the generator

    def interrupted(self, gen: PQGen[Any]) -> None:
        """Leave no statement running after an exception: see `interruption`."""
        try:
            # It may refuse (psycopg's pipelines do) or fail; either way it is not resumed, and not
            # left to be collected, when Python would print what it raises.
            with suppress(RuntimeError, errors.Error):
                gen.close()
        finally:
            end_statement(self)

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> psycopg.Cursor[Row]:
        """Execute a statement and return its cursor, as psycopg does."""
        if query.__class__ is not str or self.cursor_factory is not Cursor:
            return super().execute(cast(Any, query), params, prepare=prepare, binary=binary)
        try:
            if self.pgconn.status != OK:
                check_open(self.pgconn)
            cur: Cursor[Row] = Cursor(self)
            if binary:
                cur.format = pq.Format.BINARY
            elif prepare is None:
                text: Any = query  # a cast is a call
                known = self.statement_cache.by_text.get(text)
                if known is not None and cur.execute_known(known, query, params, fresh=True):
                    return cur
            return cur.execute(query, params, prepare=prepare)
        except NO_TRACEBACK as error:
            raise error.with_traceback(None)  # noqa: B904  # the same error

    def discard(self, *, wake: bool = True) -> None:
        """Close at once without talking to the server. Does not block.

        A greenlet that waits on it gets an ``OperationalError``; without *wake* it waits on.
        """
        self.watch.stop(_closed_meanwhile if wake else None)
        self.pgconn.finish()

    # -- the pool's view ------------------------------------------------------------------

    def probe(self, timeout: float) -> None:
        """Make one round trip to the server, an empty statement that starts no transaction.

        Block this greenlet for *timeout* seconds at most. On any failure, being killed
        included, close the connection and raise ``psycopg.OperationalError`` or what was
        thrown.
        """
        try:
            with self.lock:
                self.watch.drive_until(ask_gen(self.pgconn, b""), monotonic() + timeout)
        except hub.DeadlineReached:
            self.discard()
            raise errors.OperationalError(
                f"no answer from the server to a probe within {timeout:g} s"
            ) from None
        except BaseException:
            self.discard()
            raise

    def check_idle(self) -> bool:
        """Read what arrived on an idle connection; tell whether it is still alive.

        A notification or a changed parameter is kept and the connection with it. A terminated
        backend is found here, see `loss.is_alive`. Does not block or switch.
        """
        pgconn = self.pgconn
        if not is_alive(pgconn):
            self.watch.stop()
            return False
        # To where `notifies` looks; a user's handlers are not to be called in the hub.
        while not has_notify_handlers(self) and (notification := pgconn.notifies()):
            cast(Any, pgconn.notify_handler)(notification)
        if self.watch.paused:
            self.watch.resume()
        return True

    def close(self) -> None:
        """Close the connection, or return it to a pool that has ``close_returns``.

        Does not block. A greenlet that waits on the connection gets an ``OperationalError``.
        From another thread it is closed soon, by its own hub. In a forked child an
        inherited connection is only given up, see `abandon`.
        """
        if os.getpid() != self._pid:
            self.abandon()
            return
        if not self.watch.is_home:
            # Another thread: its hub must let go of the descriptor first.
            self.watch.at_home(self.close)
            return
        if not self._close_returns:
            self.watch.stop(_closed_meanwhile)
        super().close()

    def abandon(self) -> None:
        """Give up a connection inherited through a fork without sending a byte on its socket.

        The descriptor is pointed at the null device, so that whatever libpq still says, the
        session of the parent process does not hear it.
        """
        self.watch.abandon()
        abandon_socket(self)

    # -- transactions: BEGIN with the first statement, a short way to COMMIT ----------------

    def before_statement(self) -> None:
        """Find out whether a pooler is in between before psycopg prepares a statement."""
        # Every cursor class comes by here: psycopg's own do not ask before they prepare.
        if self.pooled is None and not self.prepares_always and is_due(self):
            self.look_for_pooler()

    def before_pipeline(self) -> None:
        """Find out whether a pooler is in between: what a pipeline prepares is not seen before."""
        self.look_for_pooler()

    @contextmanager
    def pipeline(self) -> Iterator[psycopg.Pipeline]:
        """Switch the connection to pipeline mode for a block, as psycopg does."""
        if self.open_pipeline is None:
            with self.lock:
                self.look_for_pooler()
        with super().pipeline() as pipeline:
            yield pipeline

    def look_for_pooler(self) -> None:
        """Find out whether to prepare statements. The lock is held."""
        # In a pipeline it would be too late: what is prepared there is not known until its end.
        if (
            self.pooled is None
            and not self.prepares_always
            and self.prepare_threshold is not None
            and self.open_pipeline is None
            and self.pgconn.transaction_status in (IDLE, INTRANS)
        ):
            self.wait(find_pooler_gen(self))

    def find_pooler(self, deadline: float) -> None:
        """Find out whether a pooler is in between, until *deadline*; close if that fails."""
        try:
            with self.lock:
                self.watch.drive_until(find_pooler_gen(self), deadline)
        except hub.DeadlineReached:
            self.discard()
            raise errors.ConnectionTimeout("connection timeout expired") from None
        except BaseException:
            self.discard()
            raise

    def measuring_batch(
        self, statements: Sequence[Queued]
    ) -> AbstractContextManager[list[StatementResult]]:
        """Return a block that sends *statements*, which is measured if the user wants that."""
        meter = self.observer.meter
        return nullcontext([]) if meter is None else meter.measuring_batch(self, statements)

    def send_commit(self) -> None:
        """Do what psycopg's ``commit()`` does, in fewer steps where that is plain."""
        with self.lock:
            if COMMITS_SHORTLY and not (
                self.open_pipeline is not None
                or blocks_of(self)
                or two_phase_of(self)
                or self.pgconn.transaction_status == IDLE
            ):
                self.wait(ask_gen(self.pgconn, b"COMMIT"))
                return
        super().send_commit()

    # -- cancelling -------------------------------------------------------------------------

    def cancel(self) -> None:
        """Ask the server to cancel the running statement, if any.

        From a greenlet of the connection's thread it blocks that greenlet only; elsewhere it
        is psycopg's blocking `cancel`.
        """
        if hub.can_wait(self.watch.hub):
            self.cancel_safe()
        else:
            super().cancel()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the running statement, if any; wait until it was asked.

        Block this greenlet only. Raise ``psycopg.errors.CancellationTimeout`` after
        *timeout* seconds. When it returns, the server has been signalled: the signal cannot
        hit a statement sent later.
        """
        if should_cancel(self):
            self.send_cancel(monotonic() + (timeout or 86_400.0))

    def send_cancel(self, deadline: float) -> None:
        """Do `cancel_safe`, also during a two-phase commit, until *deadline*."""
        if not capabilities.has_cancel_safe():
            hub.run_in_thread(self.pgconn.get_cancel().cancel)
            return
        request = self.pgconn.cancel_conn()
        request.start()
        try:
            hub.drive_connecting(generators.cancel(request), deadline)
        except hub.DeadlineReached:
            raise errors.CancellationTimeout("cancellation timeout expired") from None

    def cancel_to_end_stream(self, timeout: float) -> None:
        """Cancel a ``stream()`` that its user has left; what comes then has no bound."""
        try:
            self.cancel_safe(timeout=min(timeout, self.cancel_timeout))
        except errors.Error as error:
            logger.warning("closing %s: cancelling its statement failed: %s", self, error)
            self.discard()


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
    adapters = conn.adapters
    conn.__class__ = cooperative(type(conn))
    adopted = cast(Connection[Any], conn)
    adopted.attach_to_hub()
    adopted.use_adapters(adapters)
    return adopted


def _let_go(watch: hub.Watch, _pgconn: pq.abc.PGconn) -> None:
    watch.stop()


def _closed_meanwhile() -> errors.OperationalError:
    return errors.OperationalError("the connection was closed while this greenlet waited on it")


def _stray_callback(reference: weakref.ref[Connection[Any]]) -> Callable[[], None]:
    def on_stray() -> None:
        conn = reference()
        if conn is not None:
            conn.observer.readable(conn)

    return on_stray


def abandon_socket(conn: psycopg.Connection[Any]) -> None:
    """Close *conn* in a forked child without a byte on the socket it shares with the parent."""
    if conn.pgconn.status == BAD:
        return
    hub.point_at_null(conn.pgconn.socket)
    conn.pgconn.finish()
