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

    from .choice import Pipes
    from .pipe import Pipe
    from .plan import Plan

PGresult = pq.PGresult


def run(  # noqa: PLR0917  # a tuple for all that costs a third of a microsecond
    pipes: Pipes,
    take: Take,
    query: Query,
    params: Params | None,
    row_factory: RowFactory[Any] | None,
    outcome: Any = MOVED,
    *,
    prepare: bool | None = None,
    binary: bool = False,
    timeout: float | None = None,
    idempotent: bool = False,
) -> Any:
    """Execute a statement and return what *take* stands for; see `Pool.execute`.

    *outcome* is what came of it so far.
    """
    lender = pipes.lender
    if getcurrent().parent is not lender.hub:
        lender.check_hub()
    deadline = None if timeout is None else monotonic() + timeout
    patience: float | None = None
    attempts = MOST_ATTEMPTS
    preparing = prepare
    plan: Plan | None = None
    while outcome is not SET_APART:
        if deadline is not None and timeout is not None and monotonic() >= deadline:
            raise lender.unserved(timeout)
        limit = deadline
        plan, call = None, None
        pipe = pipes.usual
        if pipe is None or not pipe.taking or monotonic() >= pipe.stale_at:
            pipe = pipes.pipe()
        if pipe is not None:
            if outcome is UNPREPARED:
                preparing = False
            plan, call = _make_call(pipes, pipe, query, params, preparing)
            if call is None:
                break
            call.idempotent = idempotent
            if binary:
                call.format = BINARY
            if not pipe.taking:
                continue  # closed while a parameter was adapted
        elif pipes.unsuitable:
            break
        else:
            lender.check_open()
            call = Call()
            patience = patience or monotonic() + lender.timeout
            limit = limit or patience
        meter = lender.observer.meter
        measure: Callable[[Any], None] | None = None
        if meter is not None:
            measure = partial(_measure, meter, monotonic(), pipe, call, params is not None)
        try:
            _wait_for_answer(pipes, pipe, call, limit, timeout)
        except BaseException as thrown:
            if measure is not None:
                measure(thrown)
            raise
        if call.answer is REPEATED:
            attempts -= 1
            if attempts:
                continue
            call.answer = CommitUnknown("the connection was lost each time the statement was sent")
        if measure is not None and call.answer.__class__ is not Moved:
            measure(call.answer)
        outcome = conclude(pipe, call, row_factory, take)
        if outcome.__class__ is not Moved:
            return outcome
    asked = Asked(query, params, row_factory, prepare, binary, idempotent)
    until = None if deadline is None or timeout is None else (deadline, timeout)
    return _run_alone(pipes, take, asked, plan, until)


def _make_call(
    pipes: Pipes, pipe: Pipe, query: Query, params: Params | None, preparing: bool | None
) -> tuple[Plan | None, Call | None]:
    """Adapt a statement for *pipe*; without a `Call` it needs a connection of its own.

    What is not put into the pipe gives its connection back, if that has nothing else to do.
    """
    plan: Plan | None = None
    call: Call | None = None
    try:
        if query.__class__ is str:
            planner = pipe.planner
            plan = (planner.plain if params is None else planner.with_params).get(query)
        elif query.__class__ is Statement and preparing is None:
            preparing = True
        if plan is None:
            text = text_to_send(query, pipe.conn)
            if text is not None:
                plan = pipe.planner.plan(text, has_params=params is not None)
        costs = pipes.costs
        if (
            plan is not None
            and plan.shared
            and not (costs.penalties and costs.goes_alone(plan.essence))
        ):
            call = call_of(plan, params)
            call.prepare = preparing
            if call.size > LARGE:
                call = None
    finally:
        if call is None:
            pipe.release()
    return plan, call


def _wait_for_answer(
    pipes: Pipes, pipe: Pipe | None, call: Call, limit: float | None, timeout: float | None
) -> None:
    """Put a statement into its pipe, or in line for one, and wait until it has an answer.

    At *limit* the answer is an error, which calls the time *timeout* (s).
    """
    current = getcurrent()
    call.wake = current.switch if current.__class__ is hub.Greenlet else hub.switcher(current)
    if limit is not None:
        pipes.time(call, limit, pipes.lender.timeout if timeout is None else timeout)
    park = pipes.park  # a cached bound method saves a lookup for each wait
    try:
        if pipe is not None:
            pipe.put(call)
        else:
            pipes.queue_up(call)
        while call.answer is None:
            # Parked: woken with the answer, or with word that there is somewhere to go.
            park()
    except BaseException:
        pipes.abandon(call)
        raise
    finally:
        if limit is not None:
            pipes.untime(call)


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


def _run_alone(
    pipes: Pipes,
    take: Take,
    asked: Asked,
    plan: Plan | None,
    until: tuple[float, float] | None,
) -> Any:
    """Execute a statement on a connection of its own.

    *until*: when its time is over (``time.monotonic``), and what the user calls that time (s).
    """
    lender = pipes.lender
    bounded: Callable[[Any], AbstractContextManager[object]] = nullcontext
    checkout: Callable[[], Any] = lender.getconn
    if until is not None:
        bounded = partial(_bounded, *until)
        checkout = partial(_check_out, pipes, *until)
    pipes.spilled += 1
    note = None if plan is None else partial(pipes.costs.alone, plan.essence)
    return Alone(checkout, lender.putconn, bounded, note).run(asked, take)


def _check_out(pipes: Pipes, deadline: float, timeout: float) -> Any:
    lender, remaining = pipes.lender, deadline - monotonic()
    if remaining <= 0:
        raise lender.unserved(timeout)
    return lender.getconn(remaining)


@contextmanager
def _bounded(deadline: float, timeout: float, _conn: object) -> Iterator[None]:
    """End what is done in the block at *deadline*; what runs is cancelled on the server."""
    late = too_late(timeout)
    with gevent.Timeout(max(deadline - monotonic(), 0.0), late):
        yield
