"""The cursor that sends BEGIN together with a transaction's first statement.

Without ``autocommit`` psycopg opens a transaction with a round trip of its own before the
first statement. Here both leave in one packet, in libpq's pipeline mode, and one answer
comes back. What the statement sees, and the state that an error leaves, are the same: BEGIN
has succeeded, the statement has failed, the transaction is aborted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import psycopg
from psycopg import abc, generators, pq
from psycopg._cursor_base import BaseCursor
from psycopg._preparing import Prepare
from psycopg._queries import MAX_CACHED_STATEMENT_LENGTH, _query2pg
from psycopg.abc import Params, PQGen, Query
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.rows import Row, RowFactory

from .adaptation import ConnectionAdapters, SharedAdapters
from .errors import StaleStatement
from .executemany import run_many
from .healing import heal
from .prepared import find_pooler_gen, forget, forget_all, is_unusable

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery, QueryPart

    from .connection import Connection

TEXT = pq.Format.TEXT
ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
COMMAND_OK = pq.ExecStatus.COMMAND_OK
TUPLES_OK = pq.ExecStatus.TUPLES_OK
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR

# All that psycopg's cursor keeps. One that keeps more is left to initialise itself.
_KNOWN_FIELDS = set(BaseCursor.__slots__) == {
    *("__weakref__", "_adapters", "_closed", "_conn", "_execmany_returning", "_iresult"),
    *("_last_query", "_make_row", "_pgconn", "_pos", "_query", "_results", "_row_factory"),
    *("_rowcount", "_statusmessage", "_tx", "arraysize", "format", "pgresult"),
}

# Statements that pipeline mode is certain to accept. COPY cannot run in it, and several
# statements in one string need the simple protocol: they take psycopg's own path.
_PIPELINABLE = re.compile(rb"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b", re.IGNORECASE)


class Cursor(psycopg.Cursor[Row]):
    """psycopg's cursor; the first statement of a transaction takes BEGIN along.

    What it does for every statement is shorter than in psycopg, with the same results: it
    borrows the connection's adapters, and remembers how a statement's text is converted.
    """

    __slots__ = ()

    _conn: Connection[Any]

    def __init__(
        self, connection: Connection[Any], *, row_factory: RowFactory[Row] | None = None
    ) -> None:
        adapters = connection.adapters
        if not _KNOWN_FIELDS or adapters.__class__ is not ConnectionAdapters:
            super().__init__(connection, row_factory=cast(Any, row_factory))
            return
        self._conn = connection
        self._pgconn = connection.pgconn
        self._adapters = adapters.shared(connection)
        self._row_factory = row_factory or connection.row_factory
        self._last_query = self.pgresult = self._statusmessage = None
        self._execmany_returning = self._query = None
        self._results = []
        self._pos = self._iresult = 0
        self._rowcount = -1
        self.arraysize = 1
        self.format = TEXT
        self._closed = False

    @property
    def adapters(self) -> AdaptersMap:
        """The cursor's own adapters, made now if it used the connection's so far."""
        adapters = self._adapters
        if adapters.__class__ is SharedAdapters:
            adapters = self._adapters = AdaptersMap(adapters)
            adapters._register_loader_callback = partial(self._loaders_changed, ref(self))
            self._last_query = None  # the next statement is to use them
        return adapters

    def _execute_gen(
        self,
        query: Query,
        params: Any = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> PQGen[None]:
        conn = self._conn
        if conn._pipeline is not None:
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        if conn._autocommit or self._pgconn.transaction_status != IDLE:
            return self._plain_execute_gen(query, params, prepare, binary)
        return self._begin_execute_gen(query, params, prepare, binary)

    def _plain_execute_gen(
        self, query: Query, params: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        # What psycopg does in five nested generators, for what is executed most often: a
        # statement that needs no BEGIN, is prepared already and returns rows.
        self._start(query)
        prepared = self._conn._prepared
        pgq = self._convert_query(query, params)
        key = pgq.query, pgq.types
        prep, name = Prepare.YES, prepared._names.get(key)
        if name is None or prepare is False or prepared.prepare_threshold is None:
            prep, name = prepared.get(pgq, prepare)
        try:
            if prep is not Prepare.YES:
                yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            else:
                self._send_query_prepared(name, pgq, binary=binary)
                prepared._names.move_to_end(key)
                results = yield from generators.execute(self._pgconn)
                self._take(results)
        except psycopg.Error as error:
            if prep is Prepare.NO or not is_unusable(error):
                raise
            forget(self._conn, error, pgq)
            if self._pgconn.transaction_status != IDLE:
                # What the transaction did so far is lost: it can be run again as a whole.
                raise StaleStatement(f"{error}; the transaction can be run again") from error
            yield from self._maybe_prepare_gen(pgq, prepare=False, binary=binary)
        self._last_query = query
        if prepared._to_flush:
            yield from prepared.maintain_gen(self._conn)

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
        self._make_row = self._make_row_maker()

    def executemany(
        self, query: Query, params_seq: Iterable[Params], *, returning: bool = False
    ) -> None:
        """Do as psycopg does; once more if the prepared statement was lost or stale."""
        execute = partial(super().executemany, query, returning=returning)
        run_many(self, params_seq, execute)

    def _check_results(self, results: list[pq.abc.PGresult]) -> None:
        try:
            super()._check_results(results)
        except psycopg.Error as error:
            # In a pipeline nobody knows which one it was, and the next is to do better.
            if self._conn._pipeline is not None and is_unusable(error):
                forget_all(self._conn)
            raise

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        conn = self._conn
        # Asked once, when a statement is about to be prepared: few connections get that far.
        if (
            conn._pooled is None
            and conn._pipeline is None
            and conn._prepared.get(pgq, prepare)[0] is Prepare.SHOULD
        ):
            yield from find_pooler_gen(conn)
        yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _convert_query(self, query: Query, params: Any = None) -> PostgresQuery:
        # The short cut is for what nearly every statement is: text with a tuple or a list.
        if query.__class__ is str and (params.__class__ is tuple or params.__class__ is list):
            text, formats, parts = _placeholders(query, self._pgconn._encoding)
            if formats is not None and len(formats) == len(params):
                tx = self._tx
                pgq = self._query_cls(tx)
                pgq.query, pgq._want_formats, pgq._parts = text, formats, parts
                pgq.params = tx.dump_sequence(params, formats)
                pgq.types = tx.types or ()
                pgq.formats = tx.formats
                return pgq
        return super()._convert_query(query, params)

    def _start(self, query: Query) -> None:
        """Forget the last result; see to the transformer for the next statement."""
        if self._closed:
            raise psycopg.InterfaceError("the cursor is closed")
        if (
            self.pgresult is not None
            or self._rowcount != -1
            or self._results
            or self._execmany_returning is not None
        ):
            self._reset()
        last = self._last_query
        if not last or last is not query:
            self._last_query = None
            adapters = self._adapters
            # Shared adapters know their connection; a cursor's own do not.
            self._tx = Transformer(
                cast(Any, adapters if adapters.__class__ is SharedAdapters else self)
            )

    @contextmanager
    def copy(
        self, statement: Query, params: Any = None, *, writer: Writer | None = None
    ) -> Iterator[Copy]:
        """Run COPY as psycopg does; an interrupted block leaves nothing running.

        An ordinary exception in the block ends COPY FROM with that error, as in psycopg. One
        that is meant to stop the greenlet (``gevent.Timeout``, ``GreenletExit``) cancels it on
        the server, within the connection's ``cancel_timeout``, or closes the connection.
        """
        with super().copy(statement, params, writer=writer or _CopyWriter(self)) as copy:
            try:
                yield copy
            except Exception:
                raise
            except BaseException:
                heal(self._conn)
                raise

    def _begin_execute_gen(
        self, query: Query, params: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        conn = self._conn
        self._start(query)
        pgq = self._convert_query(query, params)
        prep, name = self._get_prepared(pgq, prepare)
        try:
            if prep is Prepare.SHOULD or not _pipelinable(pgq.query, bool(pgq.params)):
                yield from conn._start_query()
                yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            else:
                yield from self._send_with_begin_gen(pgq, prep, name, binary)
        except psycopg.Error as error:
            if prep is Prepare.NO or not is_unusable(error):
                raise
            # The transaction did nothing else so far: begin it once more.
            forget(self._conn, error, pgq)
            yield from conn._exec_command(b"ROLLBACK")
            yield from conn._start_query()
            yield from self._maybe_prepare_gen(pgq, prepare=False, binary=binary)
        self._last_query = query
        if conn._prepared._to_flush:
            yield from conn._prepared.maintain_gen(conn)

    def _send_with_begin_gen(
        self, pgq: PostgresQuery, prep: Prepare, name: bytes, binary: bool | None
    ) -> PQGen[None]:
        conn, pgconn = self._conn, self._pgconn
        conn._check_connection_ok()
        pgconn.enter_pipeline_mode()
        before = conn._begin.send(conn)
        refused: psycopg.Error | None = None
        try:
            if prep is Prepare.NO:
                self._execute_send(pgq, force_extended=True, binary=binary)
            else:
                self._send_query_prepared(name, pgq, binary=binary)
        except psycopg.Error as error:
            refused = error  # by libpq, too many parameters for example: BEGIN goes alone
        pgconn.pipeline_sync()
        key = conn._prepared.maybe_add_to_cache(pgq, prep, name) if not refused else None

        begun = yield from generators.execute(pgconn)
        for _ in range(before - 1):
            begun += yield from generators.fetch_many(pgconn)
        results = [] if refused else (yield from generators.fetch_many(pgconn))
        try:
            yield from generators.fetch_many(pgconn)  # the Sync
        except psycopg.OperationalError:
            # The server's last words, if it had any, say more than that it is gone.
            self._raise_fatal([*begun, *results])
            raise
        pgconn.exit_pipeline_mode()

        if conn._begin.was_lost(begun):
            # Nothing was executed: once more, with a BEGIN that need not be prepared.
            yield from self._send_with_begin_gen(pgq, prep, name, binary)
            return
        if refused is not None:
            raise refused
        self._raise_fatal(begun)
        if key is not None:
            conn._prepared.validate(key, prep, name, results)
        self._take(results)

    def _raise_fatal(self, results: list[pq.abc.PGresult]) -> None:
        for result in results:
            if result.status == FATAL_ERROR:
                raise psycopg.errors.error_from_result(result, encoding=self._pgconn._encoding)


class PreparedBegin:
    """BEGIN as a prepared statement of one connection: the server need not parse it again.

    It is used only where psycopg may prepare statements, and given up for the connection as
    soon as the server does not know it: a pooler is in between, or somebody discarded it.
    """

    __slots__ = ("_command", "_usable")

    _NAME = b"_geventpg_begin"

    def __init__(self) -> None:
        self._command: bytes | None = None
        self._usable = True

    def send(self, conn: Connection[Any]) -> int:
        """Queue BEGIN in pipeline mode; return how many commands that took."""
        pgconn, command = conn.pgconn, conn._get_tx_start_command()
        if command == self._command:
            pgconn.send_query_prepared(self._NAME, None)
            return 1
        # Not before it is known that no pooler is in between: see `prepared`.
        if (
            self._command is None
            and self._usable
            and conn._pooled is False
            and conn.prepare_threshold is not None
        ):
            self._command = command
            pgconn.send_prepare(self._NAME, command)
            pgconn.send_query_prepared(self._NAME, None)
            return 2
        pgconn.send_query_params(command, None)
        return 1

    def forget(self) -> None:
        """All prepared statements of the connection were deallocated."""
        self._command = None

    def was_lost(self, results: list[pq.abc.PGresult]) -> bool:
        """Tell whether BEGIN failed because it was not prepared, or was already."""
        if self._command is None or results[-1].status == COMMAND_OK:
            return False
        states = {result.error_field(pq.DiagnosticField.SQLSTATE) for result in results}
        if not states & {b"26000", b"42P05"}:
            return False
        self._command, self._usable = None, False
        return True


class _CopyWriter(LibpqWriter):
    """psycopg's writer, which does not end a COPY that `heal` ended already."""

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is None or self._pgconn.transaction_status == ACTIVE:
            super().finish(exc)


@lru_cache(maxsize=512)
def _pipelinable(query: bytes, has_params: bool) -> bool:
    if not _PIPELINABLE.match(query):
        return False
    # With parameters psycopg uses the extended protocol anyway, which takes one statement and
    # gives "$1" a meaning; without, it must not make a difference.
    return has_params or not (b";" in query or b"$" in query)


@lru_cache(maxsize=512)
def _placeholders(
    query: str, encoding: str
) -> tuple[bytes, list[abc.PyFormat] | None, list[QueryPart]]:
    """Return the statement as the server knows it and the format of each placeholder.

    No formats means that it needs psycopg's own treatment: it has placeholders with names, or
    is too long to be remembered.
    """
    if len(query) > MAX_CACHED_STATEMENT_LENGTH:
        return b"", None, []
    text, formats, order, parts = _query2pg(query.encode(encoding), encoding)
    return text, None if order else formats, parts
