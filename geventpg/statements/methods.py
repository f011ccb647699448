"""The statement-level API: `execute`, `fetch_all`, `fetch_one` and `fetch_val` of a pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg.abc import Params, Query
from psycopg.rows import RowFactory
from psycopg_pool.abc import CT

from geventpg.pool.life import PoolLife

from .alone import all_rows, everything, one_row, one_value
from .quick import run_quick
from .run import run

if TYPE_CHECKING:
    from .result import Result
    from .stats import StatementStats


class StatementMethods(PoolLife[CT]):
    """Single statements, of many greenlets on few connections."""

    __module__ = "geventpg"

    def execute(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Result[Any]:
        """Execute one statement, a transaction of its own; return its `Result`.

        Statements of all greenlets go together over ``statement_connections`` connections.
        *query*, *params*, *row_factory*, *prepare* and *binary* are what they are in psycopg.

        Blocks this greenlet; for *timeout* seconds at most, if given. `PoolTimeout` is raised
        if it was not sent by then (without *timeout*: by the pool's), `StatementTimeout` if it
        was. When the connection is lost after it was sent it is `CommitUnknown`, unless
        *idempotent*, which has it sent again; what was not sent goes over another one. Server
        errors are psycopg's. After a kill nobody reads its answer, the server is asked to cancel
        it if it takes long, and it may be committed. See docs/statements.md.
        """
        result: Result[Any] = (
            run_quick(self, everything, query, params, row_factory)
            if prepare is timeout is None and not (binary or idempotent)
            else run(
                self, everything, query, params, row_factory, prepare, binary, timeout, idempotent
            )
        )
        return result

    def fetch_all(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> list[Any]:
        """Execute one statement as `execute` does; return its rows.

        Raise ``psycopg.ProgrammingError`` if it returns none by nature; it is executed then.
        """
        rows: list[Any] = (
            run_quick(self, all_rows, query, params, row_factory)
            if prepare is timeout is None and not (binary or idempotent)
            else run(
                self, all_rows, query, params, row_factory, prepare, binary, timeout, idempotent
            )
        )
        return rows

    def fetch_one(
        self,
        query: Query,
        params: Params | None = None,
        *,
        row_factory: RowFactory[Any] | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Execute one statement as `execute` does; return its first row, ``None`` if none.

        Raise ``psycopg.ProgrammingError`` if it returns no rows by nature; it is executed then.
        """
        if prepare is timeout is None and not (binary or idempotent):
            return run_quick(self, one_row, query, params, row_factory)
        return run(self, one_row, query, params, row_factory, prepare, binary, timeout, idempotent)

    def fetch_val(
        self,
        query: Query,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool = False,
        timeout: float | None = None,
        idempotent: bool = False,
    ) -> Any:
        """Execute one statement as `execute` does; return the first column of its first row.

        ``None`` if there is no row. Raise ``psycopg.ProgrammingError`` if it returns no rows by
        nature; it is executed then.
        """
        if prepare is timeout is None and not (binary or idempotent):
            return run_quick(self, one_value, query, params, None)
        return run(self, one_value, query, params, None, prepare, binary, timeout, idempotent)

    def statement_stats(self) -> StatementStats:
        """Return the numbers of this pool's single statements. Does not block."""
        return self._pipes.stats()
