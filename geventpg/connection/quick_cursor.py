"""What every cursor does, made shorter: the same results as psycopg's, in fewer steps.

It borrows the connection's adapters instead of copying them; a statement that the connection has
prepared already is executed without psycopg's five nested generators; and for one result that
has rows, which is what most statements return, it skips what psycopg does about all others.
"""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import psycopg
from psycopg import errors, generators, pq
from psycopg._cursor_base import BaseCursor
from psycopg.abc import Params, Query
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.rows import Row, RowFactory, tuple_row

from geventpg.hub import get_ident

from .adapters import ConnectionAdapters, SharedAdapters
from .begin import begin_with_gen
from .prepared import forget, heal_or_raise, is_unusable
from .statement_cache import FREE, Known, references, settings_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from .connection import Connection

TEXT = pq.Format.TEXT
IDLE = int(pq.TransactionStatus.IDLE)
TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)  # which compares faster

# All that psycopg's cursor keeps. One that keeps more is left to initialise itself.
_KNOWN_FIELDS = set(BaseCursor.__slots__) == {
    *("__weakref__", "_adapters", "_closed", "_conn", "_execmany_returning", "_iresult"),
    *("_last_query", "_make_row", "_pgconn", "_pos", "_query", "_results", "_row_factory"),
    *("_rowcount", "_statusmessage", "_tx", "arraysize", "format", "pgresult"),
}


class QuickCursor(psycopg.Cursor[Row]):
    """The part of `Cursor` that is about speed only."""

    __slots__ = ()

    _conn: Connection[Any]

    def __init__(
        self, connection: Connection[Any], *, row_factory: RowFactory[Row] | None = None
    ) -> None:
        adapters: Any = connection._adapters
        if adapters.__class__ is not ConnectionAdapters:
            adapters = connection.adapters  # makes them
        if not _KNOWN_FIELDS or adapters.__class__ is not ConnectionAdapters:
            super().__init__(connection, row_factory=cast(Any, row_factory))
            return
        self._conn = connection
        self._pgconn = connection.pgconn
        shared = adapters._shared
        if shared is None or shared.types._registry is not adapters.types._registry:
            shared = adapters.shared(connection)
        self._adapters = shared
        self._row_factory = row_factory or connection.row_factory
        self._last_query = self.pgresult = self._statusmessage = None
        self._execmany_returning = self._query = None
        self._results = []
        self._pos = self._iresult = 0
        self._rowcount = -1
        self.arraysize = 1
        self.format = TEXT
        self._closed = False

    def __del__(self) -> None:
        # What the connection remembers of a statement must not keep its rows, however large.
        if getattr(self, "_last_query", None) is not None:
            self._tx.set_pgresult(None)

    @property
    def adapters(self) -> AdaptersMap:
        """The cursor's own adapters, made now if it used the connection's so far."""
        adapters = self._adapters
        if adapters.__class__ is SharedAdapters:
            adapters = self._adapters = AdaptersMap(adapters)
            adapters._register_loader_callback = partial(self._loaders_changed, ref(self))
            self._last_query = None  # the next statement is to use them
        return adapters

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute a statement, as psycopg does."""
        known = self._conn.statement_cache.by_text.get(query) if query.__class__ is str else None
        if known is not None and prepare is None and binary is None:
            try:
                if self.execute_known(known, query, params):
                    return self
            except errors._NO_TRACEBACK as error:
                raise error.with_traceback(None)  # noqa: B904  # the same error
        return super().execute(cast(Any, query), params, prepare=prepare, binary=binary)

    def execute_known(self, known: Known, query: Any, params: Any, *, fresh: bool = False) -> bool:
        """Execute what the connection knows; ``False``: it was not, and takes the long way.

        A *fresh* cursor has not executed anything.
        """
        conn, pgconn = self._conn, self._pgconn
        statements, meter = conn.statement_cache, conn.observer.meter
        recorder = meter.quiet if meter is not None else None
        lock: Any = conn.lock
        if (
            lock.held
            or lock.thread != get_ident()
            or references(known.tx) != FREE
            or statements.adapters is not self._adapters
            or statements.encoding != pgconn._encoding
            or self.format is not TEXT
            or self._closed
            or conn._pipeline is not None
            or conn.watch.stopped
            or (recorder is None and meter is not None)
        ):
            return False
        if params.__class__ is tuple or params.__class__ is list:
            if len(params) != known.count:
                return False
        elif params.__class__ is dict and known.order:
            try:
                params = [params[name] for name in known.order]
            except KeyError:
                return False
        else:
            return False
        if known.settings is not None and known.settings != settings_of(pgconn):
            statements.forget(query)
            return False
        gen: Any = None
        lock.held = True  # what `with conn.lock` does, without calls
        try:
            tx, prepared = known.tx, conn._prepared
            dumped = tx.dump_sequence(params, known.formats)
            key = known.query, tx.types or ()
            name = prepared._names.get(key)
            if name not in known.names or prepared.prepare_threshold is None or prepared._to_flush:
                return False

            prepared._names.move_to_end(key)
            if not fresh:
                self._clear()
            self._last_query, self._tx = None, tx
            begins = not conn._autocommit and pgconn.transaction_status == IDLE
            started = monotonic() if recorder is not None else 0.0
            try:
                if begins:
                    send = partial(pgconn.send_query_prepared, name, dumped, tx.formats)
                    gen = begin_with_gen(conn, send)
                else:
                    gen = generators.execute(pgconn)
                    pgconn.send_query_prepared(name, dumped, tx.formats)
                self._take(conn.watch.drive(gen))
            except psycopg.Error as error:
                conn._failed(error, gen)
                if not is_unusable(error):
                    raise
                self._heal(error, known, begins)
                return False
            except BaseException:
                conn._interrupted(gen)
                raise
            finally:
                if recorder is not None:
                    recorder.record(monotonic() - started)
        finally:
            if lock.queue:
                lock.release()
            else:
                lock.held = False
        self._last_query = query
        return True

    def _heal(self, error: psycopg.Error, known: Known, begins: bool) -> None:
        """Have a statement that was lost or is stale prepared anew; raise if it is too late."""
        conn = self._conn
        forget(conn, error, known.query)
        is_idle = self._pgconn.transaction_status == IDLE
        heal_or_raise(conn, error, possible=begins or is_idle)
        if not is_idle:  # it has begun, and done nothing
            conn.wait(conn._exec_command(b"ROLLBACK"))

    def _clear(self) -> None:
        """Forget the last result, if there is one."""
        if (
            self.pgresult is not None
            or self._rowcount != -1
            or self._results
            or self._execmany_returning is not None
        ):
            if self._last_query is not None:
                self._tx.set_pgresult(None)
            self._reset()

    def _start(self, query: Query) -> None:
        """Forget the last result; see to the transformer for the next statement."""
        if self._closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._clear()
        last = self._last_query
        if not last or last is not query:
            self._last_query = None
            adapters = self._adapters
            # Shared adapters know their connection; a cursor's own do not.
            context: Any = adapters if adapters.__class__ is SharedAdapters else self
            self._tx = Transformer(context)

    def _take(self, results: list[pq.abc.PGresult]) -> None:
        """Do `_check_results` and `_set_results`, shorter for one result that has rows."""
        if len(results) != 1 or results[0].status != TUPLES_OK:
            self._check_results(results)
            self._set_results(results)
            return
        self._results = results
        result = self.pgresult = results[0]
        self._tx.set_pgresult(result)
        self._rowcount = result.ntuples
        self._statusmessage = result.command_status
        factory: Any = self._row_factory
        self._make_row = tuple if factory is tuple_row else self._make_row_maker()  # type: ignore[assignment]

    def fetchone(self) -> Row | None:
        """Return the next row, ``None`` after the last, as psycopg does."""
        result = self.pgresult
        if result is None or self._closed or result.status != TUPLES_OK:
            return super().fetchone()  # in a pipeline it is yet to come; or it is an error
        if self._pos >= result.ntuples:
            return None
        row = self._tx.load_row(self._pos, self._make_row)
        self._pos += 1
        return row
