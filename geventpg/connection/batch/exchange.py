"""One batch on one connection in libpq's pipeline mode: what is sent, and whose answer is whose.

Statements are handed to libpq in portions, and the next one not before libpq has passed the
last on to the kernel; meanwhile, whatever the server says is read. So neither side waits for
the other to read, and what is under way takes little memory, whatever the size of the batch.

All or nothing, there is one Sync behind all statements: after an error the server skips what
is left of them. With each statement for itself, each has a Sync, which is where it is committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import psycopg
from psycopg import Column, errors, pq
from psycopg.abc import PQGen
from psycopg.waiting import Ready, Wait

from geventpg.connection.loss import ends_session
from geventpg.connection.prepared import Sent, answered, is_unusable, send, was_not_prepared
from geventpg.connection.psycopg_internals import (
    PostgresQuery,
    converted_by,
    encoding_of,
    show_answers,
)
from geventpg.connection.wire import COPIES, PIPELINE_SYNC, take_in
from geventpg.errors import CommitUnknown, NotExecuted

from .batch import Queued, StatementResult, check_statement, with_index

OK = pq.ConnStatus.OK
BAD = pq.ConnStatus.BAD
ACTIVE = pq.TransactionStatus.ACTIVE
TUPLES_OK = pq.ExecStatus.TUPLES_OK
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
PIPELINE_ABORTED = pq.ExecStatus.PIPELINE_ABORTED

# A portion ends at this number of bytes of parameters and text, or of statements. Then other
# greenlets have their turn.
_BYTES = 65_536
_STATEMENTS = 128

_Results = list[pq.abc.PGresult]
_Columns = tuple[tuple[bytes | None, int, int], ...]


class _OnItsWay(NamedTuple):
    """A statement that was sent."""

    number: int
    cur: psycopg.Cursor[Any]
    pgq: PostgresQuery
    sent: Sent


class Exchange:
    """The statements of a batch on their way to the server, and the answers on theirs.

    :param begin: a command to send before them, such as BEGIN.
    :param end: one to send behind them if all went well, for its single value.
    :param prepare: as in ``execute``.
    :param independent: each statement is a transaction of its own.
    """

    def __init__(
        self,
        conn: Any,
        statements: Sequence[Queued],
        *,
        begin: bytes | None = None,
        end: bytes | None = None,
        prepare: bool | None = None,
        independent: bool = False,
    ) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._statements = statements
        self._begin = begin
        self._end = end
        self._prepare = prepare
        self._independent = independent
        self.singly = False
        """Send one when the one before is answered."""
        self._handed = 0
        self._complete = False
        self._expected: deque[tuple[bool, Callable[[_Results], None]]] = deque()
        """What takes each answer that is to come, and whether it is the answer to a Sync."""
        self._parts: _Results = []
        self._executed: StatementResult | None = None
        self._descriptions: dict[_Columns, list[Column]] = {}
        self._results: list[StatementResult | None] = [None] * len(statements)
        self.value: bytes | None = None
        """What *end* returned."""
        self.failure: Exception | None = None
        """Why it did not happen; not if each statement is for itself."""
        self.stale: PostgresQuery | None = None
        """Set if the failure is that this statement's prepared form was of no use."""

    @property
    def results(self) -> list[StatementResult]:
        """The results, complete after an exchange without failure."""
        return [result for result in self._results if result is not None]

    def run_gen(self) -> PQGen[None]:
        """Send everything, take all answers. Raise what ended the connection, nothing else."""
        pgconn = self._pgconn
        pgconn.enter_pipeline_mode()
        try:
            yield from self._talk_gen()
        except psycopg.Error:
            if pgconn.status == BAD:
                self._take_last_words()
            raise
        finally:
            # Interrupted while something runs: `end_statement` ends it and does this.
            if pgconn.status == OK and pgconn.transaction_status != ACTIVE:
                pgconn.exit_pipeline_mode()

    def lose(self, error: psycopg.Error) -> None:
        """Say of each statement without an answer what is known: the connection is lost."""
        pending = (i for i, result in enumerate(self._results) if result is None)
        if not self._independent:
            self.failure = with_index(error, next(pending, None))
            return
        for index in pending:
            unknown: psycopg.Error
            if index < self._handed:
                unknown = CommitUnknown(
                    f"the connection was lost before the answer to statement {index} of the batch;"
                    f" it was executed and committed, or not: {error}"
                )
            else:
                unknown = NotExecuted(
                    f"the connection was lost before statement {index} of the batch was sent:"
                    f" {error}"
                )
            unknown.__cause__ = error
            self._results[index] = StatementResult(index, with_index(unknown, index))

    # -- sending --------------------------------------------------------------------------

    def _talk_gen(self) -> PQGen[None]:
        pgconn = self._pgconn
        blocked = False
        while True:
            if not blocked and not self._holds_back:
                self._hand_portion()
            blocked = pgconn.flush() != 0
            if self._complete and not blocked and not self._expected:
                return
            ready = yield Wait.R if self._holds_back and not blocked else Wait.RW
            if ready & Ready.R:
                take_in(pgconn)
                self._collect()

    @property
    def _holds_back(self) -> bool:
        """Whether nothing is to be sent before an answer comes."""
        return self._complete or (self.singly and bool(self._expected))

    def _hand_portion(self) -> None:
        """Hand statements to libpq until it has a portion, or all."""
        pgconn, statements = self._pgconn, self._statements
        if not self._handed and self._begin is not None:
            pgconn.send_query_params(self._begin, None)
            self._expect(self._take_begun)
        size = 0
        stop = min(self._handed + (1 if self.singly else _STATEMENTS), len(statements))
        while self._handed < stop and size < _BYTES and self.failure is None:
            index = self._handed
            self._handed += 1
            size += self._hand(index, statements[index])
        if self._handed == len(statements) or self.failure is not None:
            self._complete = True
            if self._independent:
                return
            if self._end is not None and self.failure is None:
                pgconn.send_query_params(self._end, None)
                self._expect(self._take_value)
            pgconn.pipeline_sync()
            self._expect(self._take_sync, sync=True)

    def _hand(self, index: int, statement: Queued) -> int:
        """Hand one statement to libpq; return its size."""
        conn = self._conn
        try:
            cur: psycopg.Cursor[Any] = conn.cursor(
                row_factory=statement.row_factory or conn.row_factory, binary=statement.binary
            )
            pgq = converted_by(cur, statement.query, statement.params)
            check_statement(pgq.query)
            prepare = self._prepare
            if isinstance(cur, psycopg.ClientCursor):
                pgq.params, prepare = None, False  # they are in the text
            sent = send(self._pgconn, conn.prepared, pgq, prepare, cur.format)
        except Exception as error:
            if self._pgconn.status == BAD:
                raise
            self._fail(index, error)
            return 0
        if sent.prepares:
            self._expect(partial(self._take_prepared, index, pgq, sent))
        self._expect(partial(self._take_executed, _OnItsWay(index, cur, pgq, sent)))
        if self._independent:
            self._pgconn.pipeline_sync()
            self._expect(self._take_sync, sync=True)
        return len(pgq.query) + sum(len(value) for value in pgq.params or () if value is not None)

    def _expect(self, take: Callable[[_Results], None], *, sync: bool = False) -> None:
        self._expected.append((sync, take))

    # -- receiving ------------------------------------------------------------------------

    def _collect(self, *, ended: bool = False) -> None:
        """Take all answers that are there; *ended*: libpq will read no more."""
        pgconn = self._pgconn
        nothing = 0
        while self._expected and (ended or not pgconn.is_busy()):
            result = pgconn.get_result()
            if result is not None:
                nothing = 0
                if result.status == PIPELINE_SYNC:
                    self._expected.popleft()[1]([result])
                elif result.status in COPIES:
                    # Nothing ends COPY in a pipeline.
                    pgconn.finish()
                    raise psycopg.NotSupportedError("COPY cannot be sent in a batch")
                else:
                    self._parts.append(result)
            elif self._parts:
                self._take_parts()
            else:
                # The end of an answer that ended before; two in a row: there is no more.
                nothing += 1
                if nothing > 1:
                    return

    def _take_parts(self) -> None:
        parts, self._parts = self._parts, []
        error = parts[-1] if parts[-1].status == FATAL_ERROR else None
        if error is not None and self._is_the_end(error):
            failure = self._error(parts)
            self._pgconn.finish()
            raise failure
        sync, take = self._expected[0]
        if not sync:
            self._expected.popleft()
        elif error is None:
            return
        take(parts)

    def _is_the_end(self, error: pq.abc.PGresult) -> bool:
        """Tell whether an error is that of the connection, and no statement's."""
        made_by_libpq = error.error_field(pq.DiagnosticField.SQLSTATE) is None
        return ends_session(error) or (made_by_libpq and self._pgconn.status == BAD)

    def _take_last_words(self) -> None:
        """Take what the server said before it was gone. Raise if that says why."""
        try:
            self._collect(ended=True)
        except psycopg.Error as words:
            if words.sqlstate:
                raise

    def _take_begun(self, results: _Results) -> None:
        if results[-1].status == FATAL_ERROR:
            self._fail(None, self._error(results))

    def _take_prepared(self, index: int, pgq: PostgresQuery, sent: Sent, results: _Results) -> None:
        if results[-1].status in (FATAL_ERROR, PIPELINE_ABORTED):
            was_not_prepared(self._conn.prepared, (pgq.query, pgq.types), sent.name)
        if results[-1].status == FATAL_ERROR:
            self._fail(index, self._error(results), pgq)

    def _take_executed(self, statement: _OnItsWay, results: _Results) -> None:
        index, cur, pgq, sent = statement
        answered(self._conn.prepared, sent, results)
        status = results[-1].status
        if status == PIPELINE_ABORTED:
            return
        if status == FATAL_ERROR:
            self._fail(index, self._error(results), pgq if sent.uses_prepared else None)
            return
        result = StatementResult(index)
        try:
            self._load(result, cur, results)
        except Exception as error:
            # By a loader or row factory: it was executed, and counts if it is for itself.
            if not self._independent:
                self._fail(index, error)
                return
            result.error = with_index(error, index)
        if self._independent:
            self._executed = result
        else:
            self._results[index] = result

    def _load(self, result: StatementResult, cur: psycopg.Cursor[Any], results: _Results) -> None:
        command_status = results[-1].command_status
        result.statusmessage = command_status.decode() if command_status else None
        show_answers(cur, results)
        result.rowcount = cur.rowcount
        pgresult = results[-1]
        if pgresult.status == TUPLES_OK:
            columns: _Columns = tuple(
                (pgresult.fname(i), pgresult.ftype(i), pgresult.fmod(i))
                for i in range(pgresult.nfields)
            )
            known = self._descriptions.get(columns)
            if known is None:
                known = self._descriptions[columns] = cur.description or []
            result.description = known
            result.fetched = cur.fetchall()

    def _take_value(self, results: _Results) -> None:
        if results[-1].status == FATAL_ERROR:
            self._fail(None, self._error(results))
        elif results[-1].status == TUPLES_OK:
            self.value = results[-1].get_value(0, 0)

    def _take_sync(self, results: _Results) -> None:
        executed = self._executed
        if results[-1].status == FATAL_ERROR:
            # At its commit, a deferred constraint for example.
            self._executed = None
            self._fail(None if executed is None else executed.index, self._error(results))
        elif executed is not None:
            self._results[executed.index] = executed
            self._executed = None

    def _error(self, results: _Results) -> psycopg.Error:
        return errors.error_from_result(results[-1], encoding=encoding_of(self._pgconn))

    def _fail(self, index: int | None, error: Exception, pgq: PostgresQuery | None = None) -> None:
        with_index(error, index)
        if self._independent:
            assert index is not None
            self._results[index] = StatementResult(index, error)
        elif self.failure is None:
            self.failure = error
            if pgq is not None and is_unusable(error):
                self.stale = pgq
