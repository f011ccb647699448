"""Which connection carries a statement: the pipes of one pool, and what makes them change.

There are ``statement_connections`` pipes that take statements, opened when they are needed. One
whose head is slow, or whose connection is to go, takes no more and is replaced by another one
on another connection of the pool. A statement that finds none waits until there is one. One
greenlet waits for a connection in the name of all of them, in line with the pool's other waiters.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Any

import psycopg

from geventpg import hub
from geventpg.connection.connection import Connection
from geventpg.connection.cursor import Cursor
from geventpg.connection.pooler import is_pooled
from geventpg.connection.psycopg_internals import (
    PIPELINES_STATEMENTS,
    autocommit_of,
    begin_command_of,
    has_handlers,
)
from geventpg.errors import PoolTimeout

from .abc import Lender
from .alone import too_late
from .cancel import cancel_head
from .costs import Costs
from .pipe import Pipe
from .plan import MOVED, Call, Planner
from .sending import GRACE, HEAD_LIMIT
from .stats import StatementStats

logger = logging.getLogger("geventpg")

_SPREAD = 8
"""Statements on a pipe that make a second one worth its connection, if there may be one."""


class Pipes:
    """The shared connections of one pool."""

    def __init__(self, lender: Lender) -> None:
        self.lender = lender
        self._opener: Any = None
        self.park = lender.hub.switch
        """Lets other greenlets run until one switches back."""
        self.costs = Costs()
        self._timed: dict[Call, None] = {}
        """The statements that have a deadline."""
        self._timer = hub.Timer(self._tick)
        self._timer.keep_alive(False)  # the waiting greenlets keep the loop running
        self.pipes: list[Pipe] = []
        self.usual: Pipe | None = None
        """The one there is, if there is to be one: nearly always the one to take."""
        self.homeless: deque[Call] = deque()
        """Statements without a pipe, in the order in which they came."""
        self.unsuitable = False
        """The pool's connections cannot be shared: every statement has one of its own."""
        self.moved = 0
        self.spilled = 0
        self.abandoned = 0
        self.sent = 0
        self.batches = 0
        self.batch_max = 0

    # -- which pipe -----------------------------------------------------------------------

    def pipe(self) -> Pipe | None:
        """Return a pipe that takes a statement now; ``None``: there will be one later.

        Does not switch.
        """
        now = monotonic()
        best: Pipe | None = None
        taking = 0
        for pipe in self.pipes:
            if pipe.takes(now):
                taking += 1
                if best is None or pipe.load < best.load:
                    best = pipe
        if best is not None and (
            taking >= self.lender.statement_connections or best.load < _SPREAD
        ):
            return best
        found = self._take_idle()
        if found is None and best is not None and self.lender.has_idle and self._opener is None:
            self._open_another()  # no statement waits for it, but it will be ready for the next
        return found or best

    def _take_idle(self) -> Pipe | None:
        """Make a pipe of an idle connection if that needs no waiting."""
        conn = self.lender.next_idle()
        if conn is None:
            return None
        if conn.pooled is None:
            return None  # asking whether a pooler is in between takes a round trip
        if conn.lock.locked():
            return None  # by a greenlet that kept it though it was returned
        if not is_suitable(conn):
            self.unsuitable = True
            return None
        self.lender.getconn()  # that one
        return self._make(conn)

    def _make(self, conn: Connection[Any]) -> Pipe:
        planner: Planner | None = conn.planner
        if planner is None:
            planner = conn.planner = Planner(conn)
        planner.refresh()
        pipe = Pipe(self, self.lender.share(conn), planner)
        self.pipes.append(pipe)
        self._find_usual()
        return pipe

    def _find_usual(self) -> None:
        is_alone = len(self.pipes) == 1 == self.lender.statement_connections
        self.usual = self.pipes[0] if is_alone else None

    def left(self, pipe: Pipe) -> None:
        """Take the connection of a pipe that ended back into the pool. Does not switch."""
        self.pipes.remove(pipe)
        self._find_usual()
        self.lender.unshare(pipe.lent)

    def retire_all(self) -> None:
        """Take no statements any more: the pool is closed. What was sent is answered."""
        for pipe in self.pipes:
            pipe.retire()

    def forget(self) -> None:
        """End everything in a forked child: no greenlet waits there, the sockets are not ours."""
        for pipe in self.pipes:
            pipe.forget()
        self.pipes.clear()
        self.usual = None
        self.homeless.clear()
        self._timed.clear()
        if self._opener is not None:
            self._opener.kill(block=False)

    # -- waiting for a pipe ---------------------------------------------------------------

    def queue_up(self, call: Call) -> None:
        """Have a statement wait for a pipe. Does not switch."""
        limit = self.lender.max_waiting
        if limit and len(self.homeless) >= limit:
            raise self.lender.turned_away(len(self.homeless))
        self.homeless.append(call)
        if self._opener is None:
            self._open_another()

    def welcome(self) -> None:
        """Have all statements that wait for a pipe choose again: there is one. Only in the hub."""
        for _ in range(len(self.homeless)):
            if self.homeless:
                self._wake(self.homeless.popleft(), MOVED)

    def _move_in(self, pipe: Pipe) -> None:
        self.welcome()
        pipe.settle()  # perhaps no statement came

    def _open_another(self) -> None:
        opener = self._opener = hub.spawn(self._open)
        # A link and not a `finally`: a greenlet killed before it ran executes no code.
        opener.rawlink(self._opened)

    def _open(self) -> None:
        """Wait for a connection, in line, and make a pipe of it."""
        lender = self.lender
        # A greenlet that is switched to from the hub comes back to the hub, and not to this one.
        run_in_hub = lender.hub.loop.run_callback
        try:
            conn: Any = lender.getconn()
        except PoolTimeout as error:
            if type(error) is not PoolTimeout:
                run_in_hub(self._refuse, error)  # waiting will not help
            return
        except Exception as error:
            run_in_hub(self._refuse, error)
            return
        try:
            is_pooled(conn)
        except psycopg.Error as error:
            logger.info("pool %r: a connection for statements was lost: %s", lender.name, error)
            lender.putconn(conn)
            return
        except BaseException:
            lender.putconn(conn)
            raise
        self.unsuitable = not is_suitable(conn)
        if self.unsuitable or not self.homeless:
            lender.putconn(conn)
            run_in_hub(self.welcome)
            return
        run_in_hub(self._move_in, self._make(conn))

    def _opened(self, ended: Any) -> None:
        if self._opener is ended:
            self._opener = None
            if self.homeless:
                self._open_another()

    def _refuse(self, error: Exception) -> None:
        for _ in range(len(self.homeless)):
            if not self.homeless:
                return
            refusal = type(error)(*error.args)
            refusal.__cause__ = error.__cause__
            self._wake(self.homeless.popleft(), refusal)

    @staticmethod
    def _wake(call: Call, answer: Any) -> None:
        wake, call.wake = call.wake, None
        if wake is not None:
            call.answer = answer
            wake()

    # -- deadlines, kills, and slow statements --------------------------------------------

    def time(self, call: Call, deadline: float, timeout: float) -> None:
        """End a statement's wait at *deadline*, unless `untime` comes before. Does not switch.

        *timeout* (s) is what the user calls it.
        """
        call.deadline, call.timeout = deadline, timeout
        self._timed[call] = None
        self.look_at(deadline)

    def untime(self, call: Call) -> None:
        """Forget a statement's deadline."""
        self._timed.pop(call, None)

    def look_at(self, due: float) -> None:
        """Do what is due at that time."""
        if self._timer.due is None or due < self._timer.due:
            self._timer.arm(due)

    def abandon(self, call: Call) -> None:
        """Note that no greenlet waits for a statement any more. Does not switch."""
        if call.wake is None:
            return  # it was answered just now
        call.wake = None
        if not call.sent:
            if call in self.homeless:
                self.homeless.remove(call)
            return  # in a pipe's queue it is passed over
        self.abandoned += 1
        now = call.abandoned_at = monotonic()
        for pipe in self.pipes:
            if call in pipe.sent:
                pipe.abandoned += 1
        self.look_at(now + GRACE)

    def _tick(self) -> None:
        now = monotonic()
        late = [call for call in self._timed if call.deadline <= now]
        for call in late:
            del self._timed[call]
            wake = call.wake
            if wake is not None:
                call.answer = self._timed_out(call)
                self.abandon(call)
                wake()
        if self._timed:
            self.look_at(max(min(call.deadline for call in self._timed), now + 0.005))
        for pipe in list(self.pipes):
            if pipe.queue and pipe.sent:
                if pipe.is_stuck(now):
                    pipe.stale_at = now
                    pipe.evacuate()
                else:
                    self.look_at(max(pipe.head_since, now) + HEAD_LIMIT)
            if not pipe.cancelling:
                self._attend_to_head(pipe, now)

    def _attend_to_head(self, pipe: Pipe, now: float) -> None:
        """Cancel the running statement in time if its caller is gone, or if it delays others."""
        sent = pipe.sent
        if not sent or sent[0].plan is None:
            return
        head_is_wanted = sent[0].wake is not None
        if head_is_wanted and len(sent) == 1:
            return
        since = pipe.head_since
        if not head_is_wanted:
            since = max(since, sent[0].abandoned_at)
        if now < since + GRACE:
            self.look_at(since + GRACE)
        elif not pipe.is_stuck(now) or (head_is_wanted and not any(c.wake for c in pipe.sent)):
            self.look_at(now + GRACE)
        else:
            self._cancel_head(pipe)

    def _timed_out(self, call: Call) -> psycopg.Error:
        if not call.sent:
            return self.lender.unserved(call.timeout)
        return too_late(call.timeout)

    def _cancel_head(self, pipe: Pipe) -> None:
        pipe.retire()
        pipe.cancelling = True
        head = pipe.sent[0]
        pipe.set_apart(head)
        if head.plan is not None:
            self.costs.penalise(head.plan.essence)
        canceller = hub.spawn(cancel_head, pipe)
        canceller.rawlink(lambda _ended: pipe.finished_cancelling())
        pipe.evacuate()

    # -- statistics -----------------------------------------------------------------------

    def stats(self) -> StatementStats:
        """Return the numbers as they are now."""
        return StatementStats(
            sent=self.sent,
            batches=self.batches,
            batch_max=self.batch_max,
            spilled=self.spilled,
            moved=self.moved,
            abandoned=self.abandoned,
            outstanding=sum(len(pipe.sent) for pipe in self.pipes),
            waiting=len(self.homeless) + sum(len(pipe.queue) for pipe in self.pipes),
            connections=len(self.pipes),
        )


def is_suitable(conn: Connection[Any]) -> bool:
    """Tell whether statements of others may go over *conn* as they would over their own."""
    return (
        PIPELINES_STATEMENTS
        and conn.cursor_factory is Cursor
        # A pooler may give the server to another client between two statements that are on their
        # way, when it has read a part of the second: an answer is lost, or goes to the wrong
        # client (PgBouncer's issue 759). One at a time is certain.
        and conn.pooled is False
        # They would be called in the hub.
        and not has_handlers(conn)
        and type(conn).execute is Connection.execute
        and type(conn).cursor is psycopg.Connection.cursor
        # BEGIN would say so, and there is none.
        and (autocommit_of(conn) or begin_command_of(conn) == b"BEGIN")
    )
