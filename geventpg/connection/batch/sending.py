"""A batch and its transaction: begun with it, committed behind it, and looked up if need be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import psycopg
from psycopg import pq

from geventpg.connection.abc import BatchLink
from geventpg.connection.commit import NUMBER, Mark, place_of, settle
from geventpg.connection.pooler import is_pooled
from geventpg.connection.prepared import heal_or_raise, note_unusable
from geventpg.connection.psycopg_internals import SENDS_BATCHES, begin_command_of, rollback_gen
from geventpg.connection.wire import ask_gen
from geventpg.errors import CommitUnknown, StaleStatement

from .batch import Batch, Queued, StatementResult, with_index
from .exchange import Exchange
from .one_by_one import execute_all, execute_each

IDLE = pq.TransactionStatus.IDLE
INTRANS = pq.TransactionStatus.INTRANS
OK = pq.ConnStatus.OK
BAD = pq.ConnStatus.BAD


def send_here(conn: BatchLink, batch: Batch, *, atomic: bool) -> list[StatementResult]:
    """Send *batch* on *conn*, in its transaction if there is one or it opens them itself."""
    pgconn = conn.pgconn
    if pgconn.pipeline_status:
        raise psycopg.ProgrammingError("a batch cannot be sent inside a pipeline")
    statements = batch.statements()
    if not statements:
        return []
    idle = pgconn.transaction_status == IDLE
    if not atomic:
        if not (idle and conn.autocommit) and pgconn.status == OK:
            raise _not_alone()
        return _send_independently(conn, statements)
    if not SENDS_BATCHES:
        return execute_all(conn, statements, commit=idle and conn.autocommit)
    delivery = Delivery(conn, statements, begin=idle, commit=idle and conn.autocommit)
    try:
        return delivery.run()
    except psycopg.Error as error:
        if delivery.doubtful is None:
            with_index(error)
            raise
        raise _unknown(error) from error


def send_on(
    checkout: Callable[[], AbstractContextManager[BatchLink]],
    connection: Callable[[float], Any],
    batch: Batch,
    *,
    atomic: bool,
) -> list[StatementResult]:
    """Send *batch* in a transaction of its own, on a connection that *checkout* holds.

    If that is in a transaction already, the batch is a savepoint of it.
    *connection* is `Pool.connection`: it gives another one to look up a lost COMMIT's outcome.
    """
    statements = batch.statements()
    if not statements:
        return []
    delivery: Delivery | None = None
    try:
        with checkout() as conn:
            if conn.pgconn.transaction_status != IDLE and conn.pgconn.status == OK:
                if not atomic:
                    raise _not_alone()
                with conn.transaction():
                    if not SENDS_BATCHES:
                        return execute_all(conn, statements, commit=False)
                    return Delivery(conn, statements, begin=False, commit=False).run()
            if not atomic:
                return _send_independently(conn, statements)
            if not SENDS_BATCHES:
                return execute_all(conn, statements, commit=True)
            place = None if conn.read_only else place_of(conn)
            mark = Mark(None, place)
            delivery = Delivery(conn, statements, begin=True, commit=True, mark=mark)
            return delivery.run()
    except psycopg.Error as error:
        if delivery is None or delivery.doubtful is None:
            with_index(error)
            raise
        try:
            # The lost connection is back in the pool: the look-up takes no more than one.
            committed = settle(delivery.doubtful, error, connection)
        except CommitUnknown as unknown:
            with_index(unknown)
            raise
        if not committed:
            with_index(error)
            raise
        return delivery.results


class Delivery:
    """A batch on one connection, all or nothing.

    :param begin: begin a transaction with it.
    :param commit: and end that.
    :param mark: where the outcome of a COMMIT could be looked up.
    """

    def __init__(
        self,
        conn: BatchLink,
        statements: Sequence[Queued],
        *,
        begin: bool,
        commit: bool,
        mark: Mark | None = None,
    ) -> None:
        self._conn = conn
        self._statements = statements
        self._begin = begin
        self._commit = commit
        self._mark = mark
        self.results: list[StatementResult] = []
        self.doubtful: Mark | None = None
        """Set if the connection was lost while COMMIT was under way."""

    def run(self) -> list[StatementResult]:
        """Send it and return the results; raise what one of the statements raised."""
        conn = self._conn
        with conn.lock:
            try:
                self._execute()
                if self._commit:
                    self._end()
            except BaseException:
                if self._commit:
                    self._roll_back()
                raise
        return self.results

    def _execute(self) -> None:
        conn = self._conn
        conn.look_for_pooler()
        with conn.measuring_batch(self._statements):
            exchange = self._exchange_healing()
        if conn.prepared.to_flush:
            _maintain(conn)
        self.results = exchange.results
        if self._mark is not None:
            number = exchange.value
            self._mark = self._mark._replace(number=int(number) if number else None)

    def _exchange_healing(self) -> Exchange:
        """Return an exchange without failure; raise what is the matter otherwise."""
        conn = self._conn
        exchange = self._exchange(None)
        if exchange.stale is not None and self._begin and conn.pgconn.status == OK:
            # Nothing was done but what can be done again: once more, with nothing prepared.
            assert isinstance(exchange.failure, psycopg.Error)
            note_unusable(conn, exchange.failure, exchange.stale.query)
            heal_or_raise(conn, exchange.failure, possible=True)
            conn.wait(ask_gen(conn.pgconn, b"ROLLBACK"))
            exchange = self._exchange(False)
        error = exchange.failure
        if error is None and conn.pgconn.transaction_status != INTRANS:
            error = psycopg.ProgrammingError("a statement of the batch ended its transaction")
        if error is not None and exchange.stale is not None:
            assert isinstance(error, psycopg.Error)
            note_unusable(conn, error, exchange.stale.query)
            try:
                heal_or_raise(conn, error, possible=False)
            except StaleStatement as stale:
                with_index(stale, error.index)  # type: ignore[attr-defined]
                raise
        if error is not None:
            raise error
        return exchange

    def _exchange(self, prepare: bool | None) -> Exchange:
        conn = self._conn
        exchange = Exchange(
            conn,
            self._statements,
            begin=begin_command_of(conn) if self._begin else None,
            end=NUMBER if self._mark is not None and not conn.read_only else None,
            prepare=prepare,
        )
        _run(conn, exchange)
        return exchange

    def _end(self) -> None:
        conn = self._conn
        try:
            conn.wait(ask_gen(conn.pgconn, b"COMMIT"))
        except psycopg.Error:
            if conn.pgconn.status != OK:
                self.doubtful = self._mark or Mark(None, None)
            raise

    def _roll_back(self) -> None:
        conn = self._conn
        if conn.pgconn.status != OK or conn.pgconn.transaction_status == IDLE:
            return
        try:
            with suppress(psycopg.Error):  # the error that led here says more
                conn.wait(rollback_gen(conn))
        finally:
            if conn.pgconn.transaction_status != IDLE:
                conn.discard()


def _send_independently(conn: BatchLink, statements: Sequence[Queued]) -> list[StatementResult]:
    if not SENDS_BATCHES:
        return execute_each(conn, statements)
    # Do not prepare: a lost prepared statement could not run again at its position in the batch.
    exchange = Exchange(conn, statements, prepare=False, independent=True)
    try:
        # A pooler may give the server to another client between two transactions on their way,
        # when it has read a part of the second: see `pipe_choice.is_suitable`.
        exchange.singly = is_pooled(conn)
    except psycopg.Error as error:
        if conn.pgconn.status != BAD:
            raise
        exchange.lose(error)
        return exchange.results
    with conn.lock:
        with conn.measuring_batch(statements) as results:
            _run(conn, exchange)
            results.extend(exchange.results)
        if conn.prepared.to_flush:
            with suppress(psycopg.Error):  # the results are there, and the connection is dropped
                _maintain(conn)
    return exchange.results


def _run(conn: BatchLink, exchange: Exchange) -> None:
    """Run *exchange*; it knows what became of it if the connection is lost."""
    try:
        conn.wait(exchange.run_gen())
    except psycopg.Error as error:
        if conn.pgconn.status != BAD:
            raise
        exchange.lose(error)


def _maintain(conn: BatchLink) -> None:
    """Deallocate what psycopg wants to be rid of, before anything is prepared again."""
    prepared: Any = conn.prepared
    if None in prepared.to_flush:  # all of them, also what was prepared behind that decision
        prepared.names.clear()
    conn.wait(prepared.maintain_gen(conn))


def _not_alone() -> psycopg.Error:
    return psycopg.ProgrammingError(
        "each statement of a batch with atomic=False is a transaction of its own: it cannot be"
        " sent inside a transaction, nor on a connection without autocommit, but with the"
        " send_batch() of a pool"
    )


def _unknown(error: psycopg.Error) -> Exception:
    return with_index(
        CommitUnknown(
            "the connection was lost while the COMMIT of a batch was under way; all of it is"
            f" committed or nothing, and it could not be found out: {error}"
        )
    )
