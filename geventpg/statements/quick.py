"""The short way of a single statement: nearly all of them, when many come.

Nothing special is asked for, its plan is known, and the usual pipe takes it. What does not fit
goes the long way, `run.run`; the same happens to it, in more steps. This is where a
greenlet waits, so it is also about little memory: with a thousand greenlets, what each of them
needs to wait does not stay in the processor's cache.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent
from psycopg import pq
from psycopg.abc import Params, Query
from psycopg.rows import RowFactory

from geventpg.hub import Greenlet

from .alone import Take
from .answer import conclude, rows_of
from .plan import LARGE, MOVED, TUPLES_OK, Moved, call_of
from .run import run

if TYPE_CHECKING:
    from .choice import Pipes

PGresult = pq.PGresult


def run_quick(
    pipes: Pipes,
    take: Take,
    query: Query,
    params: Params | None,
    row_factory: RowFactory[Any] | None,
) -> Any:
    """Execute a statement and return what *take* stands for; see `Pool.execute`."""
    outcome: Any = MOVED
    current: Any = getcurrent()
    pipe = pipes.usual
    if (
        pipe is not None
        and monotonic() < pipe.stale_at
        and not pipes.costs.penalties
        and pipes.lender.observer.meter is None
        and current.__class__ is Greenlet
        and current.parent is pipes.lender.hub
        and query.__class__ is str
    ):
        planner = pipe.planner
        plan = (planner.plain if params is None else planner.with_params).get(query)
        if plan is not None and plan.shared:
            call = call_of(plan, params)
            if pipe.taking and call.size <= LARGE:
                call.wake = current.switch
                park = pipes.park  # a cached bound method saves a lookup for each wait
                try:
                    pipe.put(call)
                    while call.answer is None:
                        park()
                except BaseException:
                    pipes.abandon(call)
                    raise
                answer = call.answer
                if answer.__class__ is PGresult and answer.status == TUPLES_OK:
                    return rows_of(pipe, plan, answer, row_factory, take)
                outcome = conclude(pipe, call, row_factory, take)
                if outcome.__class__ is not Moved:
                    return outcome
    return run(pipes, take, query, params, row_factory, outcome)
