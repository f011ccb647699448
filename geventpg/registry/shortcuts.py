"""Methods of a pool as functions that take its name: single statements and batches.

They work in processes without gevent too, whose pools are psycopg_pool's and lack these methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.abc import Params, Query
from psycopg.errors import QueryCanceled
from psycopg.rows import RowFactory
from psycopg_pool import ConnectionPool

from geventpg.connection.batch.batch import Batch, StatementResult
from geventpg.connection.batch.sending import send_on
from geventpg.pool.pool import Pool
from geventpg.statements.alone import (
    Alone,
    Asked,
    Take,
    all_rows,
    everything,
    one_row,
    one_value,
    too_late,
)
from geventpg.statements.result import Result

from . import pools as registry
from . import stock

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from geventpg.statements.abc import StatementOptions


def execute(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    **options: Unpack[StatementOptions],
) -> Result[Any]:
    """Execute one statement on pool *name*, as `Pool.execute` does; return its `Result`.

    It is a transaction of its own, even if this greenlet has one open. In processes without gevent
    it is executed on a connection of its own.
    """
    pool: ConnectionPool[Any] = registry.get_pool(name)
    if isinstance(pool, Pool):
        return pool.execute(query, params, row_factory=row_factory, **options)
    result: Result[Any] = _run_alone(pool, everything, query, params, row_factory, **options)
    return result


def fetch_all(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    **options: Unpack[StatementOptions],
) -> list[Any]:
    """Execute one statement on pool *name*, as `Pool.fetch_all` does; return its rows."""
    pool: ConnectionPool[Any] = registry.get_pool(name)
    if isinstance(pool, Pool):
        return pool.fetch_all(query, params, row_factory=row_factory, **options)
    rows: list[Any] = _run_alone(pool, all_rows, query, params, row_factory, **options)
    return rows


def fetch_one(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    **options: Unpack[StatementOptions],
) -> Any:
    """Execute one statement on pool *name*, as `Pool.fetch_one` does; return a row or ``None``."""
    pool: ConnectionPool[Any] = registry.get_pool(name)
    if isinstance(pool, Pool):
        return pool.fetch_one(query, params, row_factory=row_factory, **options)
    return _run_alone(pool, one_row, query, params, row_factory, **options)


def fetch_val(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    **options: Unpack[StatementOptions],
) -> Any:
    """Execute one statement on pool *name*, as `Pool.fetch_val` does; return one value."""
    pool: ConnectionPool[Any] = registry.get_pool(name)
    if isinstance(pool, Pool):
        return pool.fetch_val(query, params, **options)
    return _run_alone(pool, one_value, query, params, None, **options)


def send_batch(
    batch: Batch, name: str = "default", *, atomic: bool = True
) -> list[StatementResult]:
    """Send the statements of *batch* together, on the greenlet's connection of pool *name*.

    As with `Pool.send_batch` the batch is a transaction of its own; inside a transaction of this
    greenlet it is a savepoint there.
    """
    pool = registry.get_pool(name)
    return send_on(partial(registry.holding, name), pool.connection, batch, atomic=atomic)


def _run_alone(
    pool: ConnectionPool[Any],
    take: Take,
    query: Query,
    params: Params | None,
    row_factory: RowFactory[Any] | None,
    *,
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Execute a statement on a connection of its own, where gevent does not run."""
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    deadline = None if timeout is None else monotonic() + timeout
    bounded: Callable[[Any], AbstractContextManager[object]] = nullcontext
    if timeout is not None and deadline is not None:
        bounded = partial(_bounded, deadline, timeout)

    def checkout() -> psycopg.Connection[Any]:
        return stock.check_out(pool, None if deadline is None else max(deadline - monotonic(), 0.0))

    return Alone(checkout, pool.putconn, bounded).run(asked, take)


@contextmanager
def _bounded(deadline: float, timeout: float, conn: psycopg.Connection[Any]) -> Iterator[None]:
    with stock.cancelling_after(deadline - monotonic(), conn) as is_late:
        try:
            yield
        except QueryCanceled as error:
            if is_late():
                raise too_late(timeout) from error
            raise
