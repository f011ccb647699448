"""Reports on a pool: its numbers, the holders of its connections, and its waiters.

Everything is found out when a report is asked for: a checkout only notes the time and the greenlet.
The statement is read from the frames of the greenlet that waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

import psycopg
from gevent import Greenlet
from psycopg import pq

from geventpg.sql.reading import read_text
from geventpg.sql.text import text_of
from geventpg.statements.stats import Kind, StatementStats

from .core import Core
from .counters import Counters
from .slots import Slot
from .stats import STATISTICS, Histogram, Holder, PoolStats, Waiter
from .work import work_of

if TYPE_CHECKING:
    from geventpg.statements.pipe import Pipe

_COMMANDS = {"commit": "COMMIT", "rollback": "ROLLBACK"}


def stats(core: Core, statements: StatementStats) -> PoolStats:
    """Return what a pool counted and measured, and its sizes now."""
    bag, settings, counters = core.bag, core.settings, core.counters
    now = time.monotonic()
    at_once = counters.requests - counters.queued - counters.at_once_errors
    first, *others = counters.wait.counts
    hold = counters.hold
    return PoolStats(
        name=settings.name,
        min_size=settings.min_size,
        max_size=settings.max_size,
        size=bag.size,
        idle=len(bag.idle),
        in_use=bag.in_use,
        returning=bag.returning,
        connecting=bag.connecting,
        waiting=len(core.waiting),
        longest_hold=max((now - slot.since for slot in bag.taken()), default=0.0),
        longest_wait=max((now - waiter.since for waiter in core.waiting), default=0.0),
        **counters.counted(),
        statements=statements,
        wait=Histogram((first + max(at_once, 0), *others), counters.wait.sum),
        connect=counters.connect.snapshot(),
        validate=counters.validate.snapshot(),
        hold=None if hold is None else Histogram(tuple(hold), counters.usage_seconds),
        statement=None if counters.statement is None else counters.statement.snapshot(),
    )


def by_key(stats: PoolStats, counters: Counters) -> tuple[dict[str, int], dict[str, int]]:
    """Return the counters, and the rest, of ``get_stats()`` by their keys there."""
    counted: dict[str, int] = counters.of_psycopg_pool()
    others: dict[str, int] = {}
    for one in STATISTICS:
        if one.key is not None:
            (counted if one.kind is Kind.COUNTER else others)[one.key] = one.of(stats)
    return counted, others


def holders(core: Core, pipes: Iterable[Pipe]) -> tuple[Holder, ...]:
    """Return the holders, the longest first. Single statements share the connections of *pipes*."""
    now, clock = time.monotonic(), time.time()
    taken = sorted(core.bag.taken(), key=lambda slot: slot.since)
    shared = {pipe.conn: pipe for pipe in pipes}
    return tuple(_holder(slot, shared.get(slot.conn), now, clock) for slot in taken)


def waiters(core: Core) -> tuple[Waiter, ...]:
    """Return the waiters for a connection, the first in line first."""
    now, clock = time.monotonic(), time.time()
    found = []
    for waiter in core.waiting:
        greenlet = waiter.greenlet
        seconds = now - waiter.since
        task, task_id = work_of(greenlet)
        found.append(
            Waiter(
                since=clock - seconds,
                seconds=seconds,
                remaining=max(waiter.deadline - now, 0.0),
                greenlet=name_of(greenlet),
                task=task,
                task_id=task_id,
            )
        )
    return tuple(found)


def _holder(slot: Slot, pipe: Pipe | None, now: float, clock: float) -> Holder:
    # Without one it was handed to a waiter a moment ago, which did not run since.
    greenlet = slot.taker and slot.taker()
    task, task_id = work_of(greenlet)
    conn = slot.conn
    seconds = max(now - slot.since, 0.0)
    return Holder(
        pid=conn.server_pid,
        since=clock - seconds,
        seconds=seconds,
        greenlet=name_of(greenlet) if pipe is None else "single statements",
        task=task,
        task_id=task_id,
        statement=(
            running_statement(_frame_of(conn.watch.waiter)) if pipe is None else _head_of(pipe)
        ),
        transaction=pq.TransactionStatus(conn.pgconn.transaction_status).name,
    )


def _head_of(pipe: Pipe) -> str | None:
    """Return the statement that the server executes on a shared connection, without literals."""
    plan = pipe.sent[0].plan if pipe.sent else None
    return None if plan is None else read_text(plan.text).without_literals


def name_of(greenlet: Any) -> str:
    """Return what to call *greenlet*: without its arguments, which may be secret."""
    if greenlet is None:
        return "ended"
    if isinstance(greenlet, Greenlet):
        function = getattr(greenlet, "_run", None)
        name = getattr(function, "__qualname__", None) or type(function).__name__
        return f"{greenlet.name} {name}" if function is not None else str(greenlet.name)
    return "main" if greenlet.parent is None else f"greenlet {id(greenlet):#x}"


def _frame_of(greenlet: Any) -> FrameType | None:
    return None if greenlet is None else greenlet.gr_frame


def running_statement(frame: FrameType | None) -> str | None:
    """Return the statement that a greenlet or thread waits for, without its parameters.

    *frame* is its innermost one. ``None`` if there is none, or it cannot be told: a batch, for
    instance.
    """
    # From the wait on the socket outwards, to the method that the user called.
    while frame is not None:
        code = frame.f_code
        if code.co_name in _STATEMENT_METHODS:
            local = frame.f_locals
            if isinstance(local.get("self"), psycopg.Cursor):
                query = local.get("query", local.get("statement"))
                return None if query is None else text_of(query)
        elif code.co_name in _COMMANDS and isinstance(
            frame.f_locals.get("self"), psycopg.Connection
        ):
            return _COMMANDS[code.co_name]
        frame = frame.f_back
    return None


_STATEMENT_METHODS = frozenset({"execute", "executemany", "stream", "copy"})
