"""`execute`, `fetch_all`, `fetch_one`, `fetch_val`: single statements on named pools."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import Any

import psycopg
from psycopg.abc import Params, Query
from psycopg.errors import QueryCanceled
from psycopg.rows import RowFactory

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
from geventpg.statements.run import run

from . import pools as registry
from . import stock


def execute(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Result[Any]:
    """Execute one statement on pool *name*, as `Pool.execute` does; return its `Result`.

    It is a transaction of its own, also inside one of this greenlet, of which it is no part. In
    processes without gevent it works too, on a connection of its own.
    """
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    result: Result[Any] = _run(name, everything, asked, timeout)
    return result


def fetch_all(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> list[Any]:
    """Execute one statement on pool *name*, as `Pool.fetch_all` does; return its rows."""
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    rows: list[Any] = _run(name, all_rows, asked, timeout)
    return rows


def fetch_one(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    row_factory: RowFactory[Any] | None = None,
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Execute one statement on pool *name*, as `Pool.fetch_one` does; return a row or ``None``."""
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    return _run(name, one_row, asked, timeout)


def fetch_val(
    query: Query,
    params: Params | None = None,
    *,
    name: str = "default",
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Execute one statement on pool *name*, as `Pool.fetch_val` does; return one value."""
    asked = Asked(query, params, None, prepare, binary, idempotent)
    return _run(name, one_value, asked, timeout)


def _run(name: str, take: Take, asked: Asked, timeout: float | None) -> Any:
    pool: Any = registry.get_pool(name)
    if isinstance(pool, Pool):
        query, params, row_factory, prepare, binary, idempotent = asked
        return run(pool, take, query, params, row_factory, prepare, binary, timeout, idempotent)
    deadline = None if timeout is None else monotonic() + timeout
    bounded: Callable[[Any], AbstractContextManager[object]] = nullcontext
    if timeout is not None and deadline is not None:
        bounded = partial(_bounded, deadline, timeout)

    def checkout() -> psycopg.Connection[Any]:
        return stock.check_out(pool, None if deadline is None else max(deadline - monotonic(), 0.0))

    return Alone(pool, checkout, bounded).run(asked, take)


@contextmanager
def _bounded(deadline: float, timeout: float, conn: psycopg.Connection[Any]) -> Iterator[None]:
    with stock.cancelling_after(deadline - monotonic(), conn) as is_late:
        try:
            yield
        except QueryCanceled as error:
            if is_late():
                raise too_late(timeout) from error
            raise
