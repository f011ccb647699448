"""`Batch`: statements to be sent together, and what became of each. Values only: no I/O."""

from __future__ import annotations

from typing import Any, NamedTuple

import psycopg
from psycopg import Column
from psycopg.abc import Params, Query
from psycopg.rows import RowFactory

from geventpg.sql.kinds import Kind
from geventpg.sql.reading import read


class Queued(NamedTuple):
    """One statement of a batch."""

    query: Query
    params: Params | None
    row_factory: RowFactory[Any] | None
    binary: bool


class Batch:
    """Statements to be sent to the server together, in few round trips.

    Fill it with `queue` and send it with `Pool.send_batch`, `send_batch` or
    `Connection.send_batch`, as often as you like: sending does not change it.
    """

    __module__ = "geventpg"

    def __init__(self, *, row_factory: RowFactory[Any] | None = None) -> None:
        self.row_factory = row_factory
        """Makes the rows of statements that have none of their own; ``None``: the connection's."""
        self._statements: list[Queued] = []

    def queue(
        self,
        sql: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        binary: bool = False,
    ) -> int:
        """Add a statement; return its index, counted from 0.

        Arguments are those of ``execute``. *binary* asks for results in binary format. Nothing
        is sent or checked yet, and *params* are not copied.
        """
        self._statements.append(Queued(sql, params, row_factory or self.row_factory, binary))
        return len(self._statements) - 1

    def statements(self) -> list[Queued]:
        """Return what is queued so far."""
        return list(self._statements)

    def __len__(self) -> int:
        return len(self._statements)

    def __repr__(self) -> str:
        return f"<geventpg.Batch of {len(self)} statements>"


class StatementResult:
    """What became of one statement of a batch."""

    __module__ = "geventpg"

    __slots__ = ("description", "error", "fetched", "index", "rowcount", "statusmessage")

    def __init__(self, index: int, error: Exception | None = None) -> None:
        self.index = index
        """Which statement of the batch it is, counted from 0."""
        self.error = error
        """Why there are no rows, ``None`` if all is well."""
        self.rowcount = -1
        """How many rows were returned or changed, -1 if that has no meaning, as in psycopg."""
        self.statusmessage: str | None = None
        """What the server calls it, such as ``INSERT 0 1``; set means that it was executed."""
        self.description: list[Column] | None = None
        """The columns, ``None`` if the statement returns no rows."""
        self.fetched: list[Any] = []
        """The rows, also where `error` is set."""

    @property
    def rows(self) -> list[Any]:
        """The rows, made by the row factory; empty if there are none. Raise `error` if set."""
        if self.error is not None:
            raise self.error
        return self.fetched

    def __repr__(self) -> str:
        state = type(self.error).__name__ if self.error is not None else self.statusmessage
        return f"<geventpg.StatementResult {self.index}: {state}>"


def check_statement(query: bytes) -> None:
    """Raise if a statement cannot be part of a batch."""
    kind = read(query).kind
    if kind is Kind.COPY:
        raise psycopg.NotSupportedError(
            "COPY cannot be sent in a batch: libpq's pipeline mode does not have it"
        )
    if kind is Kind.TRANSACTION:
        raise psycopg.ProgrammingError(
            "a batch cannot begin or end a transaction: it is one, or, with atomic=False, each"
            " of its statements is"
        )


def with_index(error: Exception, index: int | None = None) -> Exception:
    """Say in ``error.index`` which statement it is about, ``None`` if that is not known."""
    if index is None and hasattr(error, "index"):
        return error
    error.index = index  # type: ignore[attr-defined]
    if index is not None and hasattr(error, "add_note"):
        error.add_note(f"statement {index} of the batch, counted from 0")
    return error
