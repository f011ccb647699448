"""The cursor of geventpg's connections: psycopg's, which survives what happens to statements.

A prepared statement that is gone is executed again, an interrupted COPY leaves nothing running, and
the first statement of a transaction takes BEGIN along, see `begin`. It also does the same as
psycopg's in fewer steps: it shares the connection's adapters instead of copying them; a statement
that the connection has prepared is executed without psycopg's five nested generators; and for one
result that has rows, which is what most statements return, it skips what psycopg does about all
others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, cast

import psycopg
from psycopg import generators, pq
from psycopg.abc import Params, PQGen, Query
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.rows import Row, tuple_row

from geventpg.hub import get_ident
from geventpg.sql.reading import read
from geventpg.sql.statement import Statement

from .abc import Link
from .adapters import SharedAdapters
from .begin import begin_with_gen
from .interruption import end_statement
from .pooler import find_pooler_gen, mind
from .prepared import (
    answered,
    distrust,
    heal_or_raise,
    is_unusable,
    make_due,
    note_unusable,
    send_as,
)
from .psycopg_internals import (
    CONVERTS_QUICKLY,
    HAS_CURSOR,
    NO,
    NO_TRACEBACK,
    SHOULD,
    YES,
    OpenCursor,
    autocommit_of,
    begin_command_of,
    encoding_of,
)
from .statement_cache import FREE, Known, placeholders, references, settings_of
from .wire import ask_gen

if TYPE_CHECKING:
    from typing_extensions import Self

    from .psycopg_internals import PostgresQuery

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = int(pq.TransactionStatus.IDLE)
TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)  # which compares faster
TEXT = pq.Format.TEXT
BINARY = pq.Format.BINARY


class Cursor(OpenCursor[Row]):
    """psycopg's cursor; the first statement of a transaction takes BEGIN along."""

    __slots__ = ()

    def __del__(self) -> None:
        # What the connection remembers of a statement must not keep its rows, however large.
        if getattr(self, "last_query", None) is not None:
            self.tx.set_pgresult(None)

    @property
    def adapters(self) -> AdaptersMap:
        """The cursor's own adapters, made now if it used the connection's so far."""
        adapters: AdaptersMap = self.current_adapters
        return self.own_adapters() if adapters.__class__ is SharedAdapters else adapters

    # -- executing ------------------------------------------------------------------------

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute a statement, as psycopg does."""
        conn = self.conn
        try:
            if query.__class__ is str and prepare is None and binary is None:
                known = conn.statement_cache.by_text.get(query)
                if known is not None and self.execute_known(known, query, params):
                    return self
            with conn.lock:
                if conn.open_pipeline is None:
                    conn.wait(self._statement_gen(query, params, prepare, binary))
                    return self
        except NO_TRACEBACK as error:
            raise error.with_traceback(None)  # noqa: B904  # the same error
        return super().execute(cast(Any, query), params, prepare=prepare, binary=binary)

    def execute_known(self, known: Known, query: Any, params: Any, *, fresh: bool = False) -> bool:
        """Execute what the connection knows; ``False``: it was not, and takes the long way.

        A *fresh* cursor has not executed anything.
        """
        conn, pgconn = self.conn, self.pgconn
        statements, meter, lock = conn.statement_cache, conn.observer.meter, conn.lock
        recorder = meter.quiet if meter is not None else None
        if (
            lock.held
            or lock.thread != get_ident()
            or references(known.tx) != FREE
            or statements.adapters is not self.current_adapters
            or statements.encoding != encoding_of(pgconn)
            or self.format is not TEXT
            or self.is_closed
            or conn.open_pipeline is not None
            or conn.watch.stopped
            or (recorder is None and meter is not None)
        ):
            return False
        if known.order or not (params.__class__ is tuple or params.__class__ is list):
            params = known.in_order(params)
        if params is None or len(params) != len(known.formats):
            return False
        if known.settings is not None and known.settings != settings_of(pgconn):
            statements.drop(query)
            return False
        lock.held = True  # what `with conn.lock` does, without calls
        try:
            tx, prepared = known.tx, conn.prepared
            dumped = tx.dump_sequence(params, known.formats)
            key = known.query, tx.types or ()
            name = prepared.names.get(key)
            if name not in known.names or prepared.prepare_threshold is None or prepared.to_flush:
                return False
            prepared.names.move_to_end(key)
            if not fresh:
                self._clear()
            self.last_query, self.tx = None, tx
            begins = not autocommit_of(conn) and pgconn.transaction_status == IDLE
            started = monotonic() if recorder is not None else 0.0
            gen: Any = None
            try:
                if begins:
                    send = partial(pgconn.send_query_prepared, name, dumped, tx.formats)
                    gen = begin_with_gen(conn, send)
                else:
                    gen = generators.execute(pgconn)
                    pgconn.send_query_prepared(name, dumped, tx.formats)
                self._take(conn.watch.drive(gen))
            except psycopg.Error as error:
                conn.failed(error, gen)
                self._heal(error, known, begins)
                return False
            except BaseException:
                conn.interrupted(gen)
                raise
            finally:
                if recorder is not None:
                    recorder.record(monotonic() - started)
        finally:
            if lock.queue:
                lock.release()
            else:
                lock.held = False
        self.last_query = query
        return True

    def _heal(self, error: psycopg.Error, known: Known, begins: bool) -> None:
        """Have a statement prepared anew whose prepared form is of no use; else raise *error*."""
        if not is_unusable(error):
            raise error
        conn = self.conn
        note_unusable(conn, error, known.query)
        is_idle = self.pgconn.transaction_status == IDLE
        heal_or_raise(conn, error, possible=begins or is_idle)
        if not is_idle:  # it has begun, and done nothing
            conn.wait(ask_gen(self.pgconn, b"ROLLBACK"))

    def _statement_gen(
        self, query: Query, params: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        """Return the generator that executes a statement outside of psycopg's pipelines."""
        conn = self.conn
        if autocommit_of(conn) or self.pgconn.transaction_status != IDLE:
            return self._plain_execute_gen(query, params, prepare, binary)
        return self._begin_execute_gen(query, params, prepare, binary)

    def _plain_execute_gen(
        self, query: Query, params: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        self.start(query)
        pgq = self.convert(query, params)
        prep, name = self.conn.prepared.get(pgq, prepare)
        try:
            yield from self._send_gen(pgq, prep, prepare, binary)
        except psycopg.Error as error:
            if prep is NO or not is_unusable(error):
                raise
            note_unusable(self.conn, error, pgq.query)
            heal_or_raise(self.conn, error, possible=self.pgconn.transaction_status == IDLE)
            yield from self.send_gen(pgq, prepare=False, binary=binary)
            prep = NO
        yield from self._executed_gen(query, params, prep, name)

    def _begin_execute_gen(
        self, query: Query, params: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        conn = self.conn
        self.start(query)
        pgq = self.convert(query, params)
        prep, name = conn.prepared.get(pgq, prepare)
        try:
            pipelines = read(pgq.query).pipelines(has_params=bool(pgq.params))
            if prep is SHOULD or not pipelines:
                yield from ask_gen(self.pgconn, begin_command_of(conn))
                yield from self._send_gen(pgq, prep, prepare, binary)
            else:
                yield from self._send_with_begin_gen(pgq, prep, name, binary)
        except psycopg.Error as error:
            if prep is NO or not is_unusable(error):
                raise
            # The transaction did nothing else so far: begin it once more.
            note_unusable(conn, error, pgq.query)
            heal_or_raise(conn, error, possible=True)
            yield from ask_gen(self.pgconn, b"ROLLBACK")
            yield from ask_gen(self.pgconn, begin_command_of(conn))
            yield from self.send_gen(pgq, prepare=False, binary=binary)
            prep = NO
        yield from self._executed_gen(query, params, prep, name)

    def _send_gen(
        self, pgq: PostgresQuery, prep: Any, prepare: bool | None, binary: bool | None
    ) -> PQGen[None]:
        conn = self.conn
        # Asked once, when a statement is about to be prepared: few connections get that far.
        if prep is SHOULD and conn.pooled is None and not conn.prepares_always:
            yield from find_pooler_gen(conn)
        yield from self.send_gen(pgq, prepare=prepare, binary=binary)

    def _send_with_begin_gen(
        self, pgq: PostgresQuery, prep: Any, name: bytes, binary: bool | None
    ) -> PQGen[None]:
        conn = self.conn
        sent: Any = None
        result_format = self.format if binary is None else BINARY if binary else TEXT

        def send() -> None:
            nonlocal sent
            sent = send_as(self.pgconn, conn.prepared, pgq, prep, name, result_format)

        self.statement = pgq
        results = yield from begin_with_gen(conn, send)
        answered(conn.prepared, sent, results)
        self._take(results)

    def _executed_gen(self, query: Query, params: Any, prep: Any, name: bytes) -> PQGen[None]:
        """Deallocate what psycopg has evicted, or remember how the statement was executed."""
        conn = self.conn
        self.last_query = query
        if conn.prepared.to_flush:
            yield from conn.prepared.maintain_gen(conn)
        elif (
            prep is YES
            and query.__class__ is str
            and params is not None
            and self.pgresult is not None
        ):
            conn.statement_cache.learn(query, name, self.current_adapters, self.pgresult)

    def executemany(
        self, query: Query, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        """Execute *query* for each of *params_seq*, as psycopg does, in one pipeline.

        If its prepared form was lost or went stale it is done again, when it is a transaction of
        its own or the first of one and *params_seq* is a sequence; else raise `StaleStatement`.
        """
        conn = self.conn
        meter = conn.observer.meter
        if meter is None or conn.open_pipeline is not None:
            self._execute_many(query, params_seq, returning=returning)
            return
        with meter.measuring(conn, query, True):
            self._execute_many(query, params_seq, returning=returning)

    def _execute_many(self, query: Query, params_seq: Iterable[Any], *, returning: bool) -> None:
        conn = self.conn
        alone = conn.open_pipeline is None and self.pgconn.transaction_status == IDLE
        try:
            super().executemany(query, params_seq, returning=returning)
        except psycopg.Error as error:
            if conn.open_pipeline is not None:
                raise
            if self.statement is not None:
                distrust(conn, self.statement.query)
            if not is_unusable(error):
                raise
            if self.statement is not None:
                note_unusable(conn, error, self.statement.query)
            # One error undoes the whole pipeline: nothing was executed.
            heal_or_raise(conn, error, possible=alone and isinstance(params_seq, Sequence))
            if self.pgconn.transaction_status != IDLE:
                conn.rollback()
            super().executemany(query, params_seq, returning=returning)

    @contextmanager
    def copy(
        self, statement: Query, params: Any = None, *, writer: Writer | None = None
    ) -> Iterator[Copy]:
        """Run COPY as psycopg does; an interrupted block leaves nothing running.

        An ordinary exception in the block ends COPY FROM with that error, as in psycopg. One
        that is meant to stop the greenlet (``gevent.Timeout``, ``GreenletExit``) cancels it on
        the server, within the connection's ``cancel_timeout``, or closes the connection.
        """
        with (
            super().copy(statement, params, writer=writer or _CopyWriter(self)) as copy,
            ending_when_interrupted(self.conn),
        ):
            yield copy

    # -- where psycopg calls itself -------------------------------------------------------

    def convert(self, query: Query, params: Any = None) -> PostgresQuery:
        """Return a statement as the server gets it; warn of what it leaves behind a pooler."""
        # The short cut is for what nearly every statement is: text with a tuple or a list.
        if (
            query.__class__ is str
            and (params.__class__ is tuple or params.__class__ is list)
            and CONVERTS_QUICKLY
        ):
            text, formats, order, parts, reading = placeholders(query, encoding_of(self.pgconn))
            if formats is not None and not order and len(formats) == len(params):
                if self.conn.pooled is not False and reading.effects:
                    mind(self.conn, reading.effects)
                return self.converted(text, formats, parts, params)
        if query.__class__ is Statement:
            pgq = self.convert(query.query, params)
            make_due(self.conn.prepared, pgq)
            return pgq
        pgq = super().convert(query, params)
        if self.conn.pooled is not False and (effects := read(pgq.query).effects):
            mind(self.conn, effects)
        return pgq

    def raise_for(self, result: pq.abc.PGresult) -> NoReturn:
        """Raise the error that *result* tells of."""
        try:
            super().raise_for(result)
        except psycopg.Error as error:
            # Elsewhere it is done where it was sent. In a pipeline the answer comes later.
            if self.conn.open_pipeline is not None and is_unusable(error):
                note_unusable(self.conn, error, self.statement.query if self.statement else None)
            raise

    # -- before a statement, and behind it ------------------------------------------------

    def start(self, query: Query) -> None:
        """Remove the last result; see to the transformer for the next statement."""
        if self.is_closed:
            raise psycopg.InterfaceError("the cursor is closed")
        self._clear()
        last = self.last_query
        if not last or last is not query:
            self.last_query = None
            adapters = self.current_adapters
            # Shared adapters know their connection; a cursor's own do not.
            context: Any = adapters if adapters.__class__ is SharedAdapters else self
            self.tx = Transformer(context)

    def _clear(self) -> None:
        """Remove the last result, if there is one."""
        if (
            self.pgresult is not None
            or self.row_count != -1
            or self.answers
            or self.many_returning is not None
        ):
            if self.last_query is not None:
                self.tx.set_pgresult(None)
            self.reset()

    def _take(self, results: list[pq.abc.PGresult]) -> None:
        """Show the answer to a statement; shorter than psycopg for one result that has rows."""
        if len(results) != 1 or results[0].status != TUPLES_OK:
            self.check_answers(results)
            self.show_answers(results)
            return
        self.answers = results
        result = self.pgresult = results[0]
        self.tx.set_pgresult(result)
        self.row_count = result.ntuples
        self.status_message = result.command_status
        self.make_row = tuple if self.factory is tuple_row else self.row_maker()

    def fetchone(self) -> Row | None:
        """Return the next row, ``None`` after the last, as psycopg does."""
        result = self.pgresult
        if result is None or self.is_closed or result.status != TUPLES_OK:
            return super().fetchone()  # in a pipeline it is yet to come; or it is an error
        if self.position >= result.ntuples:
            return None
        row: Row = self.tx.load_row(self.position, self.make_row)
        self.position += 1
        return row


class PlainCursor(psycopg.Cursor[Row]):
    """psycopg's cursor; only an interrupted COPY is ended as everything else is.

    It takes the place of `Cursor` where psycopg is not the one that `Cursor` was written for.
    """

    __slots__ = ()

    @contextmanager
    def copy(
        self, statement: Query, params: Any = None, *, writer: Writer | None = None
    ) -> Iterator[Copy]:
        """Run COPY as psycopg does; an interrupted block leaves nothing running."""
        conn: Any = self.connection
        with (
            super().copy(statement, params, writer=writer or _CopyWriter(self)) as copy,
            ending_when_interrupted(conn),
        ):
            yield copy


USUAL_CURSOR: Any = Cursor if HAS_CURSOR else PlainCursor
"""The cursor class of a new connection."""


@contextmanager
def ending_when_interrupted(conn: Link) -> Iterator[None]:
    """End the statement on *conn* if something stops the greenlet in the block."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        end_statement(conn)
        raise


class _CopyWriter(LibpqWriter):
    """psycopg's writer, which does not end a COPY that `end_statement` ended already."""

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is None or self.connection.pgconn.transaction_status == ACTIVE:
            super().finish(exc)
