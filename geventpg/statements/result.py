"""What `execute` of a pool returns: a statement's outcome, complete and without a connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import psycopg
from psycopg import Column

T = TypeVar("T")


class Result(Generic[T]):
    """The outcome of one statement, to be read as a psycopg cursor is.

    Everything is here already, nothing blocks, and no connection is held.
    """

    __module__ = "geventpg"

    __slots__ = ("_position", "_rows", "description", "rowcount", "statusmessage")

    def __init__(
        self,
        rowcount: int,
        statusmessage: str | None,
        description: list[Column] | None = None,
        rows: list[T] | None = None,
    ) -> None:
        self.rowcount = rowcount
        """The number of rows returned or changed, -1 if that has no meaning, as in psycopg."""
        self.statusmessage = statusmessage
        """The server's words for what it did, such as ``INSERT 0 1``."""
        self.description = description
        """The columns, ``None`` if the statement returns no rows."""
        self._rows = rows
        self._position = 0

    @property
    def rows(self) -> list[T]:
        """All rows; empty if the statement returns none."""
        return self._rows or []

    def fetchone(self) -> T | None:
        """Return the next row, ``None`` after the last."""
        rows = self._check()
        if self._position >= len(rows):
            return None
        self._position += 1
        return rows[self._position - 1]

    def fetchmany(self, size: int = 1) -> list[T]:
        """Return the next *size* rows, fewer at the end."""
        found = self._check()[self._position : self._position + size]
        self._position += len(found)
        return found

    def fetchall(self) -> list[T]:
        """Return the rows that were not fetched yet."""
        rows = self._check()
        found = rows[self._position :]
        self._position = len(rows)
        return found

    def __iter__(self) -> Iterator[T]:
        while self._position < len(self._check()):
            self._position += 1
            yield self.rows[self._position - 1]

    def _check(self) -> list[T]:
        if self._rows is None:
            raise psycopg.ProgrammingError(
                f"the last operation didn't produce records (command status: {self.statusmessage})"
            )
        return self._rows

    def __repr__(self) -> str:
        return f"<geventpg.Result: {self.statusmessage}>"
