"""One statement of one greenlet: over a pipe, over another one, or on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent
from psycopg import errors, pq
from psycopg._preparing import Prepare
from psycopg.abc import Params, Query
from psycopg.rows import RowFactory, tuple_row

from . import hub
from .errors import CommitUnknown
from .prepared import forget, heal_or_raise, is_unusable
from .statement import Statement
from .statement_alone import (
    MOST_ATTEMPTS,
    Alone,
    Asked,
    Take,
    all_rows,
    everything,
    one_row,
    one_value,
    too_late,
)
from .statement_kinds import text_of
from .statement_plan import (
    BINARY,
    MOVED,
    REPEATED,
    SET_APART,
    TUPLES_OK,
    Call,
    cursor_with,
    error_of,
    maker_of_rows,
    no_rows,
)
from .statement_result import Result

if TYPE_CHECKING:
    from .meter import Meter
    from .pipe import Pipe
    from .statement_plan import Plan
    from .statements import StatementMethods

PGresult = pq.PGresult
SUCCESSES = (TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
READ_ONLY = errors.ReadOnlySqlTransaction.sqlstate

LARGE = 65_536
"""Bytes of parameters that are better sent where nobody waits for them to pass."""


def run(  # noqa: PLR0917  # a tuple for all that costs a third of a microsecond
    pool: StatementMethods[Any],
    take: Take,
    query: Query,
    params: Params | None,
    row_factory: RowFactory[Any] | None,
    prepare: bool | None,
    binary: bool,
    timeout: float | None,
    idempotent: bool,
) -> Any:
    """Execute a statement and return what *take* stands for; see `StatementMethods.execute`."""
    current = getcurrent()
    if current.parent is not pool._hub:
        pool._check_hub()
    pipes = pool._pipes
    meter = pool._meter
    measure: Callable[[Any], None] | None = None
    deadline = None if timeout is None else monotonic() + timeout
    patience: float | None = None
    attempts = MOST_ATTEMPTS
    preparing = prepare
    while True:
        if deadline is not None and monotonic() >= deadline:
            assert timeout is not None
            pool._stats[pool._REQUESTS_ERRORS] += 1
            raise pool._timed_out(timeout)
        limit = deadline
        call = plan = None
        pipe = pipes.usual
        if pipe is None or not pipe.taking or monotonic() >= pipe.stale_at:
            pipe = pipes.pipe()
        if pipe is not None:
            try:
                if query.__class__ is str:
                    planner = pipe.planner
                    plan = (planner.plain if params is None else planner.with_params).get(query)
                elif query.__class__ is Statement and preparing is None:
                    preparing = True
                if plan is None:
                    plan = _plan(pipe, query, params)
                if (
                    plan is None
                    or not plan.shared
                    or (pipes.costs.penalties and pipes.costs.goes_alone(plan.text))
                ):
                    pipe.release()
                    break
                call = _call(plan, params)
            except BaseException:
                pipe.release()
                raise
            if call.size > LARGE:
                pipe.release()
                break
            if preparing is not None:
                call.prepare = preparing
            if binary:
                call.format = BINARY
            if idempotent:
                call.idempotent = True
            if not pipe.taking:
                continue  # closed while a parameter was adapted
        elif pipes.unsuitable:
            break
        else:
            pool._check_open_getconn()
            call = Call()
            if patience is None:
                patience = monotonic() + pool.timeout
            if limit is None:
                limit = patience
        if meter is not None:
            measure = partial(_measure, meter, monotonic(), pipe, call)
        call.wake = current.switch if current.__class__ is hub.Greenlet else hub.switcher(current)
        if limit is not None:
            pipes.time(call, limit, timeout if timeout is not None else pool.timeout)
        park = pipes.park  # a method of somebody else's is found faster this way
        try:
            if pipe is not None:
                pipe.put(call)
            else:
                pipes.queue_up(call)
            while call.answer is None:
                # Parked: woken with the answer, or with word that there is somewhere to go.
                park()
        except BaseException as thrown:
            pipes.abandon(call)
            if measure is not None:
                measure(thrown)
            raise
        finally:
            if limit is not None:
                pipes.untime(call)
        answer = call.answer
        if answer.__class__ is not PGresult:
            if answer is MOVED:
                continue
            if answer is SET_APART:
                break
            if answer is REPEATED:
                attempts -= 1
                if attempts:
                    continue
                answer = CommitUnknown("the connection was lost each time the statement was sent")
            if measure is not None:
                measure(answer)
            raise answer
        assert pipe is not None
        assert plan is not None
        if measure is not None:
            measure(answer)
        if answer.status == TUPLES_OK:
            return _rows(pipe, plan, answer, row_factory, take)
        if answer.status in SUCCESSES:
            if take is everything:
                rowcount = answer.command_tuples
                status = answer.command_status
                words = None if status is None else status.decode()
                return Result(-1 if rowcount is None else rowcount, words)
            raise no_rows(answer)
        error = error_of(answer, pipe.conn.pgconn)
        if call.check[1] is Prepare.NO or not is_unusable(error):
            if error.sqlstate == READ_ONLY and pipe.conn._on_read_only is not None:
                pipe.conn._on_read_only(pipe.conn)
            raise error
        # Its prepared form was of no use, and nothing was done: once more, without.
        forget(pipe.conn, error, call.query)
        heal_or_raise(pipe.conn, error, possible=True)
        preparing = False
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    until = None if deadline is None or timeout is None else (deadline, timeout)
    return _alone(pool, take, asked, plan, until)


def _measure(meter: Meter, started: float, pipe: Pipe | None, call: Call, outcome: Any) -> None:
    """Have a statement measured that was executed, or may have been."""
    if pipe is None or call.plan is None or not call.sent:
        return
    failure: BaseException | None = None
    if outcome.__class__ is not PGresult:
        failure = outcome
    elif outcome.status not in SUCCESSES:
        failure = error_of(outcome, pipe.conn.pgconn)
        if call.check[1] is not Prepare.NO and is_unusable(failure):
            return  # it is executed again
    has_parameters = call.params is not None
    meter.note(pipe.conn, [call.plan.text], has_parameters, started=started, failure=failure)


def _alone(
    pool: StatementMethods[Any],
    take: Take,
    asked: Asked,
    plan: Plan | None,
    until: tuple[float, float] | None,
) -> Any:
    """Execute a statement on a connection of its own, *until* then, and what the user calls it."""
    bounded: Callable[[Any], AbstractContextManager[object]] = nullcontext
    checkout: Callable[[], Any] = pool.getconn
    if until is not None:
        bounded = partial(_bounded, *until)
        checkout = partial(_check_out, pool, *until)
    pipes = pool._pipes
    pipes.spilled += 1
    note = None if plan is None else partial(pipes.costs.alone, plan.text)
    return Alone(pool, checkout, bounded, note).run(asked, take)


def _plan(pipe: Pipe, query: Query, params: Params | None) -> Plan | None:
    """Return the plan of a statement on this connection, ``None`` if it cannot have one."""
    text = text_of(query, pipe.conn)
    return None if text is None else pipe.planner.plan(text, has_params=params is not None)


def _call(plan: Plan, params: Any) -> Call:
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
    types, formats = tx.types, tx.formats
    plan.spare = tx
    size = 0
    for value in values:
        if value is not None:
            size += len(value)
    return Call(plan, plan.query, values, types or (), formats, size)


def _rows(
    pipe: Pipe,
    plan: Plan,
    result: pq.abc.PGresult,
    row_factory: RowFactory[Any] | None,
    take: Take,
) -> Any:
    """Make of a result what the user asked for. A loader of the user's may switch."""
    tx = plan.spare
    if tx is None:
        tx = plan.transformer()
    else:
        plan.spare = None
    tx.set_pgresult(result)
    try:
        if not result.ntuples and take is not everything:
            return [] if take is all_rows else None
        if take is one_value:
            row = tx.load_row(0, tuple)
            return row[0] if row else None
        factory = row_factory or pipe.row_factory
        make_row: Any = (
            tuple if factory is tuple_row else maker_of_rows(pipe.conn, factory, tx, result)
        )
        if take is one_row:
            return tx.load_row(0, make_row)
        rows = tx.load_rows(0, result.ntuples, make_row)
        if take is everything:
            cur = cursor_with(pipe.conn, factory, tx, result)
            return Result(cur.rowcount, cur.statusmessage, cur.description, rows)
        return rows
    finally:
        tx.set_pgresult(None)
        plan.spare = tx


def _check_out(pool: StatementMethods[Any], deadline: float, timeout: float) -> Any:
    remaining = deadline - monotonic()
    if remaining <= 0:
        raise pool._timed_out(timeout)
    return pool.getconn(remaining)


@contextmanager
def _bounded(deadline: float, timeout: float, _conn: object) -> Iterator[None]:
    """End what is done in the block at *deadline*; what runs is cancelled on the server."""
    late = too_late(timeout)
    with gevent.Timeout(max(deadline - monotonic(), 0.0), late):
        yield
