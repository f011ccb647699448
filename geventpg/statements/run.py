"""One statement of one greenlet: over a pipe, over another one, or on a connection of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent
from psycopg import pq
from psycopg.abc import Params, Query
from psycopg.rows import RowFactory

from geventpg import hub
from geventpg.errors import CommitUnknown
from geventpg.sql.statement import Statement

from .alone import MOST_ATTEMPTS, Alone, Asked, Take, too_late
from .answer import SUCCESSES, conclude, was_useless
from .plan import (
    BINARY,
    LARGE,
    MOVED,
    REPEATED,
    SET_APART,
    UNPREPARED,
    Call,
    Moved,
    call_of,
    error_of,
)
from .sharing import text_to_send

if TYPE_CHECKING:
    from geventpg.connection.meter import Meter

    from .methods import StatementMethods
    from .pipe import Pipe
    from .plan import Plan

PGresult = pq.PGresult


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
    outcome: Any = MOVED,
) -> Any:
    """Execute a statement and return what *take* stands for; see `StatementMethods.execute`.

    *outcome* is what came of it so far.
    """
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
    plan: Plan | None = None
    while outcome is not SET_APART:
        if outcome is UNPREPARED:
            preparing = False
        if deadline is not None and monotonic() >= deadline:
            assert timeout is not None
            pool._stats[pool._REQUESTS_ERRORS] += 1
            raise pool._timed_out(timeout)
        limit = deadline
        plan = None
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
                call = call_of(plan, params)
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
            measure = partial(_measure, meter, monotonic(), pipe, call, params is not None)
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
        if answer is REPEATED:
            attempts -= 1
            if attempts:
                continue
            call.answer = answer = CommitUnknown(
                "the connection was lost each time the statement was sent"
            )
        if measure is not None and answer.__class__ is not Moved:
            measure(answer)
        outcome = conclude(pipe, call, row_factory, take)
        if outcome.__class__ is not Moved:
            return outcome
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    until = None if deadline is None or timeout is None else (deadline, timeout)
    return _alone(pool, take, asked, plan, until)


def _measure(  # noqa: PLR0917  # all but the last are given beforehand
    meter: Meter,
    started: float,
    pipe: Pipe | None,
    call: Call,
    has_parameters: bool,
    outcome: Any,
) -> None:
    """Have a statement measured that was executed, or may have been."""
    if pipe is None or call.plan is None or not call.sent:
        return
    failure: BaseException | None = None
    if outcome.__class__ is not PGresult:
        failure = outcome
    elif outcome.status not in SUCCESSES:
        failure = error_of(outcome, pipe.conn.pgconn)
        if was_useless(call, failure):
            return  # it is executed again
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
    text = text_to_send(query, pipe.conn)
    return None if text is None else pipe.planner.plan(text, has_params=params is not None)


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
