"""How long statements and batches take: measured only where the user wants to know.

A connection without a meter pays one look at an attribute for each wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from psycopg.abc import PQGen

from .abc import Link
from .psycopg_internals import GENERATORS_OF_STATEMENTS, statement_of

if TYPE_CHECKING:
    from geventpg.connection.batch.batch import Queued, StatementResult


RV = TypeVar("RV")


class Recorder(Protocol):
    """Counts how long things took."""

    def record(self, seconds: float) -> None:
        """Add one that took *seconds*."""


class Listeners(Protocol):
    """The functions that the program has registered with a pool."""

    kinds: Any
    """What kinds of events they want."""

    def tell(self, kind: str, conn: Any, **details: Any) -> None:
        """Call those that want this kind."""


class Meter:
    """Measures the statements and batches of a pool's connections."""

    __slots__ = ("_listeners", "_recorder", "quiet")

    generators = GENERATORS_OF_STATEMENTS | {"_plain_execute_gen", "_begin_execute_gen"}
    """The names of those, psycopg's and ours, that execute what a user's cursor was given."""

    def __init__(self, recorder: Recorder | None, listeners: Listeners) -> None:
        self._recorder = recorder
        self._listeners = listeners
        self.quiet = None if "statement" in listeners.kinds else recorder
        """The recorder, if there are no listeners for statements: the short way."""

    def drive(self, conn: Link, gen: PQGen[RV]) -> RV:
        """Wait for *gen*, one of `generators`, as a connection does, and measure it.

        In a pipeline of the user's the answer comes later, by another wait: not measured.
        """
        if conn.open_pipeline is not None:
            return conn.watch.drive(gen)
        recorder = self.quiet
        if recorder is not None:
            started = monotonic()
            try:
                return conn.watch.drive(gen)
            finally:
                recorder.record(monotonic() - started)
        query, has_parameters = statement_of(gen)
        with self.measuring(conn, query, has_parameters):
            return conn.watch.drive(gen)

    @contextmanager
    def measuring(self, conn: Link, query: Any, has_parameters: bool) -> Iterator[None]:
        """Measure a block that executes *query*, and tell of it."""
        started = monotonic()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            self.note(conn, [query], has_parameters, started=started, failure=failure)

    @contextmanager
    def measuring_batch(
        self, conn: Link, statements: Sequence[Queued]
    ) -> Iterator[list[StatementResult]]:
        """Measure a block that sends *statements*, and tell of it.

        Those that are each for themselves raise nothing: their results are put into the list.
        """
        started = monotonic()
        results: list[StatementResult] = []
        failure: BaseException | None = None
        try:
            yield results
            failure = next((result.error for result in results if result.error), None)
        except BaseException as error:
            failure = error
            raise
        finally:
            queries = [statement.query for statement in statements]
            with_parameters = all(statement.params is not None for statement in statements)
            self.note(
                conn, queries, with_parameters, kind="batch", started=started, failure=failure
            )

    def note(
        self,
        conn: Link,
        queries: Sequence[Any],
        has_parameters: bool,
        *,
        kind: str = "statement",
        started: float,
        failure: BaseException | None = None,
    ) -> None:
        """Measure what was given to *conn* at *started* and has its answer, or failed."""
        took = monotonic() - started
        if self._recorder is not None:
            self._recorder.record(took)
        self._listeners.tell(
            kind,
            conn,
            seconds=took,
            error=failure,
            has_parameters=has_parameters,
            _queries=queries,
        )
