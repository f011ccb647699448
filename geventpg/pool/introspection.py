"""Who holds a pool's connections, who waits, and what the statements are.

Everything is found out when somebody asks: a checkout only notes the time and the greenlet.
The statement is read from the frames of the greenlet that waits for it.
"""

from __future__ import annotations

import time
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

import psycopg
from gevent import Greenlet
from psycopg import pq
from psycopg._cursor_base import BaseCursor

from geventpg.sql.reading import read_text
from geventpg.sql.text import text_of

from .causes import EVICTIONS, RETIREMENTS
from .slots import Slot, SlotState
from .stats import Histogram, Holder, PoolStats, Waiter
from .work import work_of

if TYPE_CHECKING:
    from geventpg.statements.pipe import Pipe

    from .pool import Pool

_COMMANDS = {"commit": "COMMIT", "rollback": "ROLLBACK"}


def stats(pool: Pool[Any]) -> PoolStats:
    """Return what *pool* counted and measured, and its sizes now."""
    bag, tally = pool._bag, pool._tally
    now = time.monotonic()
    at_once = pool._requests - pool._queued - tally.at_once_errors
    counters = pool._stats
    first, *others = tally.waits
    return PoolStats(
        name=pool.name,
        min_size=pool.min_size,
        max_size=pool.max_size,
        size=bag.size,
        idle=len(bag.idle),
        in_use=bag.in_use,
        returning=bag.returning,
        connecting=bag.connecting,
        waiting=len(pool._waiting),
        longest_hold=max((now - slot.since for slot in _taken(pool)), default=0.0),
        longest_wait=max((now - waiter.since for waiter in pool._waiting), default=0.0),
        requests=pool._requests,
        queued=pool._queued,
        timed_out=tally.timed_out,
        shed=tally.shed,
        rejected=tally.rejected,
        interrupted=tally.interrupted,
        created=sum(tally.connect.counts),
        connect_errors=counters[pool._CONNECTIONS_ERRORS],
        evicted=MappingProxyType({c.value: tally.left[c] for c in EVICTIONS}),
        retired=MappingProxyType({c.value: tally.left[c] for c in RETIREMENTS}),
        healed=counters[pool._STATEMENTS_HEALED],
        lost=counters[pool._STATEMENTS_LOST],
        cancelled=tally.cancelled,
        leaked=tally.leaked,
        statements=pool._pipes.stats(),
        wait=Histogram((first + max(at_once, 0), *others), pool._wait_seconds),
        connect=tally.connect.snapshot(),
        validate=tally.validate.snapshot(),
        hold=None if tally.holds is None else Histogram(tuple(tally.holds), pool._usage_seconds),
        statement=None if tally.statement is None else tally.statement.snapshot(),
    )


def holders(pool: Pool[Any]) -> tuple[Holder, ...]:
    """Return who has a connection of *pool*, the longest first."""
    now, clock = time.monotonic(), time.time()
    taken = sorted(_taken(pool), key=lambda slot: slot.since)
    pipes = {pipe.conn: pipe for pipe in pool._pipes.pipes}
    return tuple(_holder(slot, pipes.get(slot.conn), now, clock) for slot in taken)


def _taken(pool: Pool[Any]) -> list[Slot]:
    return [slot for slot in list(pool._bag.out.values()) if slot.state is SlotState.IN_USE]


def waiters(pool: Pool[Any]) -> tuple[Waiter, ...]:
    """Return who waits for a connection of *pool*, the first in line first."""
    now, clock = time.monotonic(), time.time()
    found = []
    for waiter in pool._waiting:
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
    # Handed over a moment ago, it has nobody yet who knows of it.
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
    """Return what the server is at for those who share the connection, without literals."""
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
            if isinstance(local.get("self"), BaseCursor):
                query = local.get("query", local.get("statement"))
                return None if query is None else text_of(query)
        elif code.co_name in _COMMANDS and isinstance(
            frame.f_locals.get("self"), psycopg.Connection
        ):
            return _COMMANDS[code.co_name]
        frame = frame.f_back
    return None


_STATEMENT_METHODS = frozenset({"execute", "executemany", "stream", "copy"})
