"""How long statements take: measured only where somebody wants to know.

A connection without a meter pays one look at an attribute for each wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from psycopg.abc import PQGen

from .stats import BOUNDS

if TYPE_CHECKING:
    from .connection import Connection
    from .listeners import Listeners
    from .tally import Recorder

RV = TypeVar("RV")

# The generators, psycopg's and ours, that execute what a user's cursor was given.
_STATEMENTS = frozenset(
    {
        *("_execute_gen", "_plain_execute_gen", "_begin_execute_gen"),
        *("_executemany_gen_no_pipeline", "_declare_gen", "_stream_send_gen", "_start_copy_gen"),
    }
)


class Meter:
    """Measures the statements of a pool's connections."""

    __slots__ = ("_listeners", "_quiet", "_recorder")

    def __init__(self, recorder: Recorder | None, listeners: Listeners) -> None:
        self._recorder = recorder
        self._listeners = listeners
        self._quiet = None if "statement" in listeners.kinds else recorder
        """The recorder, if nobody is to be told: the short way."""

    @property
    def is_quiet(self) -> bool:
        """Tell whether a duration is recorded and that is all."""
        return self._quiet is not None

    def measure(self, drive: Callable[[Any], RV], gen: PQGen[RV]) -> RV:
        """Do `drive` for what is known to be a statement, when nobody is to be told."""
        recorder: Any = self._quiet
        started = monotonic()
        try:
            return drive(gen)
        finally:
            took = monotonic() - started
            recorder.counts[bisect_left(BOUNDS, took)] += 1
            recorder.sum += took

    def drive(self, conn: Connection[Any], gen: PQGen[RV]) -> RV:
        """Wait for *gen*, as a connection does, and measure it if it executes a statement.

        In a pipeline of the user's the answer comes later, to somebody else: not measured.
        """
        try:
            name = gen.gi_code.co_name  # type: ignore[attr-defined]
        except AttributeError:  # one of psycopg's in C, for what is no statement
            name = ""
        if name not in _STATEMENTS or conn._pipeline is not None:
            return conn._watch.drive(gen)
        recorder = self._quiet
        if recorder is not None:
            started = monotonic()
            try:
                return conn._watch.drive(gen)
            finally:
                took = monotonic() - started
                recorder.counts[bisect_left(BOUNDS, took)] += 1
                recorder.sum += took
        # It has not begun: all that it knows is its arguments.
        arguments = gen.gi_frame.f_locals  # type: ignore[attr-defined]
        query = arguments.get("query", arguments.get("statement"))
        has_parameters = arguments.get("params", arguments.get("params_seq")) is not None
        with self.measuring(conn, query, has_parameters):
            return conn._watch.drive(gen)

    @contextmanager
    def measuring(self, conn: Connection[Any], query: Any, has_parameters: bool) -> Iterator[None]:
        """Measure a block that executes *query*, and tell of it."""
        started = monotonic()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            took = monotonic() - started
            if self._recorder is not None:
                self._recorder.record(took)
            self._listeners.tell(
                "statement",
                conn,
                seconds=took,
                error=failure,
                has_parameters=has_parameters,
                _query=query,
            )
