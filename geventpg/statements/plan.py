"""How a statement's text and parameters become what libpq sends, and its answer rows again.

What depends on the text only is worked out once for each connection, and so are psycopg's
transformers: they know the dumpers and loaders of the types they have met.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq
from psycopg.abc import Params
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import RowFactory

from geventpg.connection.cursor import Cursor
from geventpg.connection.psycopg_internals import (
    MAX_CACHED_STATEMENT_LENGTH,
    QueryPart,
    encoding_of,
    in_order,
    query2pg,
)
from geventpg.connection.statement_cache import settings_of
from geventpg.sql.reading import read

from .sharing import may_share

if TYPE_CHECKING:
    from psycopg import abc

    from geventpg.connection.connection import Connection
    from geventpg.connection.prepared import Sent

TEXT = pq.Format.TEXT
BINARY = pq.Format.BINARY
TUPLES_OK = int(pq.ExecStatus.TUPLES_OK)  # which compares faster
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR

LARGE = 65_536
"""Bytes of parameters that are better sent where no other statement has to wait behind them."""

_MOST_PLANS = 256


class Call:
    """One statement of one greenlet: on its way, and its answer on the way back."""

    __slots__ = (
        "abandoned_at",
        "answer",
        "deadline",
        "format",
        "formats",
        "how",
        "idempotent",
        "params",
        "plan",
        "prepare",
        "query",
        "sent",
        "size",
        "timeout",
        "types",
        "wake",
    )

    abandoned_at: float
    how: Sent
    """How it was sent."""
    deadline: float
    """When the wait for it ends, and the seconds that the user gave for it."""
    timeout: float

    def __init__(  # noqa: PLR0917  # by name they would be slower
        self,
        plan: Plan | None = None,
        query: bytes = b"",
        params: Any = None,
        types: tuple[int, ...] = (),
        formats: Any = None,
        size: int = 0,
    ) -> None:
        self.wake: Callable[[], object] | None = None
        """Switches to the greenlet; ``None`` when it is gone."""
        self.plan = plan
        self.query = query
        self.params = params
        self.types = types
        self.formats = formats
        self.format = TEXT
        self.prepare: bool | None = None
        self.idempotent = False
        self.size = size
        """Bytes of its parameters."""
        self.sent = False
        self.answer: Any = None
        """A result of libpq, an exception, `MOVED` or one like it."""


class Moved:
    """The answer to a statement that is to be executed again: it was not, or may be twice."""

    __slots__ = ()


MOVED = Moved()
SET_APART = Moved()
"""It was cancelled because it held up others: it is to be executed on a connection of its own."""
REPEATED = Moved()
"""It was sent, and may be executed twice: it is idempotent."""
UNPREPARED = Moved()
"""Its prepared form was of no use, and nothing was done: it is to be executed without."""


class Plan:
    """One text with one shape of parameters, on one connection."""

    __slots__ = (
        "_context",
        "count",
        "essence",
        "formats",
        "order",
        "parts",
        "query",
        "shared",
        "spare",
        "text",
        "types",
    )

    def __init__(
        self,
        context: Any,
        text: str,
        query: bytes,
        placeholders: tuple[list[PyFormat], list[str] | None, list[QueryPart]] | None = None,
    ) -> None:
        formats, order, parts = placeholders or (None, None, [])
        self._context = context
        self.text = text
        self.query = query
        self.essence = read(query).essence
        """What the statement's costs are known by: a trace id in a comment makes no difference."""
        self.formats = formats or []
        self.types: tuple[int, ...] = ()
        """Those of the latest parameters."""
        self.order = order
        self.parts = parts
        self.count = -1 if formats is None or order else len(formats)
        """The number of parameters in a tuple or list; -1: it takes more than counting."""
        self.shared = may_share(query, has_params=bool(formats))
        self.spare: abc.Transformer | None = None
        """A transformer that is free. It is taken out while it is used, and ``None`` left here,
        because a loader or dumper of the user's may switch greenlets."""

    def transformer(self) -> abc.Transformer:
        """Return a new one, for when there is no spare one."""
        return Transformer(self._context)

    def arrange(self, params: Params | None) -> Any:
        """Return the parameters in the order of the placeholders; raise as psycopg does."""
        if params is None:
            return None
        return in_order(self.parts, params, self.order)


class Planner:
    """The plans of one connection, for as long as its session looks the same."""

    __slots__ = ("_adapters", "_conn", "_settings", "plain", "with_params")

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn
        self._adapters: Any = None
        self._settings: tuple[bytes | None, ...] = ()
        self.with_params: dict[Any, Plan] = {}
        self.plain: dict[Any, Plan] = {}
        """Those that are executed without parameters: a "%" is a "%" there."""

    def refresh(self) -> None:
        """Forget the plans if adapters or settings that loaders look at changed. No I/O."""
        adapters: Any = self._conn.adapters
        adapters = adapters.shared(self._conn)
        pgconn = self._conn.pgconn
        settings = pgconn.parameter_status(b"client_encoding"), *settings_of(pgconn)
        if adapters is not self._adapters or settings != self._settings:
            self._adapters, self._settings = adapters, settings
            self.with_params.clear()
            self.plain.clear()

    def plan(self, text: str, *, has_params: bool) -> Plan:
        """Return the plan of a text, a new one if need be."""
        plans = self.with_params if has_params else self.plain
        plan = plans.get(text)
        if plan is None:
            encoding = encoding_of(self._conn.pgconn)
            query = text.encode(encoding)
            if has_params:
                query, formats, order, parts = query2pg(query, encoding)
                plan = Plan(self._adapters, text, query, (formats, order, parts))
            else:
                plan = Plan(self._adapters, text, query)
            if len(text) <= MAX_CACHED_STATEMENT_LENGTH:
                if len(plans) >= _MOST_PLANS:
                    del plans[next(iter(plans))]
                plans[text] = plan
        return plan


def call_of(plan: Plan, params: Any) -> Call:
    """Adapt the parameters as psycopg does. A dumper of the user's may switch."""
    if params is None:
        return Call(plan, plan.query)
    if not ((params.__class__ is tuple or params.__class__ is list) and len(params) == plan.count):
        params = plan.arrange(params)
    tx = plan.spare
    if tx is None:
        tx = plan.transformer()
    else:
        plan.spare = None
    values = tx.dump_sequence(params, plan.formats)
    types, formats = tx.types or (), tx.formats
    plan.spare = tx
    if types == plan.types:
        types = plan.types  # one for all
    else:
        plan.types = types
    size = 0
    for value in values:
        if value is not None:
            size += len(value)
    return Call(plan, plan.query, values, types, formats, size)


def cursor_with(
    conn: Connection[Any], factory: RowFactory[Any], tx: abc.Transformer, result: pq.abc.PGresult
) -> psycopg.Cursor[Any]:
    """Return a cursor to look at *result* with; it executes nothing."""
    cur: Cursor[Any] = Cursor(conn, row_factory=factory)
    cur.show(tx, result)
    return cur


def error_of(result: pq.abc.PGresult, pgconn: pq.abc.PGconn) -> psycopg.Error:
    """Return the exception that psycopg raises for a result without success."""
    if result.status == FATAL_ERROR:
        return errors.error_from_result(result, encoding=encoding_of(pgconn))
    if result.status == pq.ExecStatus.PIPELINE_ABORTED:
        return errors.PipelineAborted("pipeline aborted")
    return errors.InternalError(f"unexpected result status: {pq.ExecStatus(result.status).name}")


def no_rows(result: pq.abc.PGresult) -> psycopg.Error:
    """Return what psycopg raises when rows are fetched from a statement that returns none."""
    status = (result.command_status or b"").decode()
    return psycopg.ProgrammingError(
        f"the last operation didn't produce records (command status: {status})"
    )
