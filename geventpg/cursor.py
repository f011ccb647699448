"""The cursor that sends BEGIN together with a transaction's first statement.

Without ``autocommit`` psycopg opens a transaction with a round trip of its own before the
first statement. Here both leave in one packet, in libpq's pipeline mode, and one answer
comes back. What the statement sees, and the state that an error leaves, are the same: BEGIN
has succeeded, the statement has failed, the transaction is aborted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators, pq
from psycopg._preparing import Prepare
from psycopg.abc import PQGen, Query
from psycopg.copy import Copy, LibpqWriter, Writer
from psycopg.rows import Row

from .healing import heal

if TYPE_CHECKING:
    from psycopg._queries import PostgresQuery

    from .connection import Connection

ACTIVE = pq.TransactionStatus.ACTIVE
IDLE = pq.TransactionStatus.IDLE
COMMAND_OK = pq.ExecStatus.COMMAND_OK
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR

# Statements that pipeline mode is certain to accept. COPY cannot run in it, and several
# statements in one string need the simple protocol: they take psycopg's own path.
_PIPELINABLE = re.compile(rb"\s*(?:SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b", re.IGNORECASE)


class Cursor(psycopg.Cursor[Row]):
    """psycopg's cursor; the first statement of a transaction takes BEGIN along."""

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
        if (
            conn._autocommit
            or conn._pipeline is not None
            or self._pgconn.transaction_status != IDLE
        ):
            return super()._execute_gen(query, params, prepare=prepare, binary=binary)
        return self._begin_execute_gen(query, params, prepare, binary)

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
        conn._defer_begin = True
        try:
            yield from self._start_query(query)  # never waits: BEGIN is left out
        finally:
            conn._defer_begin = False
        pgq = self._convert_query(query, params)
        prep, name = self._get_prepared(pgq, prepare)
        if prep is Prepare.SHOULD or not _pipelinable(pgq.query, bool(pgq.params)):
            yield from conn._start_query()
            yield from self._maybe_prepare_gen(pgq, prepare=prepare, binary=binary)
        else:
            yield from self._send_with_begin_gen(pgq, prep, name, binary)
        self._last_query = query
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
        self._check_results(results)
        self._set_results(results)

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
        if self._command is None and self._usable and conn.prepare_threshold is not None:
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
