"""The cursor of geventpg's connections: psycopg's, which survives what happens to statements.

A prepared statement that is gone is executed again, an interrupted COPY leaves nothing running, and
the first statement of a transaction takes BEGIN along, see `beginning`. What is shorter than in
psycopg, with the same results, is in `quick_cursor`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
from psycopg import pq
from psycopg._preparing import Prepare
from psycopg.abc import PQGen, Query
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.rows import Row

from geventpg.sql.reading import read
from geventpg.sql.statement import Statement, make_due

from .begin import begin_with_gen
from .interruption import heal
from .pooler import find_pooler_gen, mind
from .prepared import doubt, forget, heal_or_raise, is_unusable
from .quick_cursor import QuickCursor
from .statement_cache import placeholders

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery

    from .connection import Connection

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE


class Cursor(QuickCursor[Row]):
    """psycopg's cursor; the first statement of a transaction takes BEGIN along."""

    __slots__ = ()

    _conn: Connection[Any]

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
        self._start(query)
        pgq = self._convert_query(query, params)
        prep, name = self._get_prepared(pgq, prepare)
        try:
            yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        except psycopg.Error as error:
            if prep is Prepare.NO or not is_unusable(error):
                raise
            forget(self._conn, error, pgq.query)
            heal_or_raise(self._conn, error, possible=self._pgconn.transaction_status == IDLE)
            yield from self._maybe_prepare_gen(pgq, prepare=False, binary=binary)
            prep = Prepare.NO
        yield from self._executed_gen(query, params, prep, name)

    def _executed_gen(self, query: Query, params: Any, prep: Prepare, name: bytes) -> PQGen[None]:
        """See to what is left to do when a statement was executed."""
        conn = self._conn
        self._last_query = query
        if conn._prepared._to_flush:
            yield from conn._prepared.maintain_gen(conn)
        elif (
            prep is Prepare.YES
            and query.__class__ is str
            and params is not None
            and self.pgresult is not None
        ):
            conn.statement_cache.learn(query, name, self._adapters, self.pgresult)

    def executemany(
        self, query: Query, params_seq: Iterable[Any], *, returning: bool = False
    ) -> None:
        """Execute *query* for each of *params_seq*, as psycopg does, in one pipeline.

        If its prepared form was lost or went stale it is done again, when it is a transaction of
        its own or the first of one and *params_seq* is a sequence; else raise `StaleStatement`.
        """
        conn = self._conn
        meter = conn.observer.meter
        if meter is None or conn._pipeline is not None:
            self._execute_many(query, params_seq, returning=returning)
            return
        with meter.measuring(conn, query, True):
            self._execute_many(query, params_seq, returning=returning)

    def _execute_many(self, query: Query, params_seq: Iterable[Any], *, returning: bool) -> None:
        conn = self._conn
        alone = conn._pipeline is None and self._pgconn.transaction_status == IDLE
        try:
            super().executemany(query, params_seq, returning=returning)
        except psycopg.Error as error:
            if conn._pipeline is not None:
                raise
            if self._query is not None:
                doubt(conn, self._query.query)
            if not is_unusable(error):
                raise
            if self._query is not None:
                forget(conn, error, self._query.query)
            # One error undoes the whole pipeline: nothing was executed.
            heal_or_raise(self._conn, error, possible=alone and isinstance(params_seq, Sequence))
            if self._pgconn.transaction_status != IDLE:
                conn.rollback()
            super().executemany(query, params_seq, returning=returning)

    def _raise_for_result(self, result: pq.abc.PGresult) -> NoReturn:
        try:
            super()._raise_for_result(result)
        except psycopg.Error as error:
            # Elsewhere it is done by who sent it. In a pipeline the answer comes later.
            if self._conn._pipeline is not None and is_unusable(error):
                forget(self._conn, error, self._query.query if self._query else None)
            raise

    def _maybe_prepare_gen(
        self, pgq: PostgresQuery, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        conn = self._conn
        # Asked once, when a statement is about to be prepared: few connections get that far.
        if (
            conn.pooled is None
            and not conn.prepares_always
            and conn._pipeline is None
            and conn._prepared.get(pgq, prepare)[0] is Prepare.SHOULD
        ):
            yield from find_pooler_gen(conn)
        yield from super()._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)

    def _convert_query(self, query: Query, params: Any = None) -> PostgresQuery:
        # The short cut is for what nearly every statement is: text with a tuple or a list.
        if query.__class__ is str and (params.__class__ is tuple or params.__class__ is list):
            text, formats, order, parts, reading = placeholders(query, self._pgconn._encoding)
            if formats is not None and not order and len(formats) == len(params):
                tx = self._tx
                pgq = self._query_cls(tx)
                pgq.query, pgq._want_formats, pgq._parts = text, formats, parts
                pgq.params = tx.dump_sequence(params, formats)
                pgq.types = tx.types or ()
                pgq.formats = tx.formats
                if self._conn.pooled is not False and reading.effects:
                    mind(self._conn, reading.effects)
                return pgq
        if query.__class__ is Statement:
            pgq = self._convert_query(query.query, params)
            make_due(self._conn._prepared, pgq)
            return pgq
        pgq = super()._convert_query(query, params)
        if self._conn.pooled is not False and (effects := read(pgq.query).effects):
            mind(self._conn, effects)
        return pgq

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
            pipelines = read(pgq.query).pipelines(has_params=bool(pgq.params))
            if prep is Prepare.SHOULD or not pipelines:
                yield from conn._start_query()
                yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
            else:
                yield from self._send_with_begin_gen(pgq, prep, name, binary)
        except psycopg.Error as error:
            if prep is Prepare.NO or not is_unusable(error):
                raise
            # The transaction did nothing else so far: begin it once more.
            forget(self._conn, error, pgq.query)
            heal_or_raise(self._conn, error, possible=True)
            yield from conn._exec_command(b"ROLLBACK")
            yield from conn._start_query()
            yield from self._maybe_prepare_gen(pgq, prepare=False, binary=binary)
            prep = Prepare.NO
        yield from self._executed_gen(query, params, prep, name)

    def _send_with_begin_gen(
        self, pgq: PostgresQuery, prep: Prepare, name: bytes, binary: bool | None
    ) -> PQGen[None]:
        conn = self._conn

        def send() -> None:
            if prep is Prepare.NO:
                self._execute_send(pgq, force_extended=True, binary=binary)
            else:
                self._send_query_prepared(name, pgq, binary=binary)

        results = yield from begin_with_gen(conn, send)
        key = conn._prepared.maybe_add_to_cache(pgq, prep, name)
        if key is not None:
            conn._prepared.validate(key, prep, name, results)
        self._take(results)


class _CopyWriter(LibpqWriter):
    """psycopg's writer, which does not end a COPY that `heal` ended already."""

    def finish(self, exc: BaseException | None = None) -> None:
        if exc is None or self._pgconn.transaction_status == ACTIVE:
            super().finish(exc)
