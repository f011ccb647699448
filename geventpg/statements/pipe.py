"""One connection in libpq's pipeline mode, shared by greenlets for as long as they keep it busy.

What all of them ask in one turn of the hub leaves together. Each statement has its own Sync,
which is where its transaction is committed and where its answer is complete: an error is about
that statement only. Answers come in the order of the statements, so the next answer belongs to the
first statement in line, also if its greenlet is gone. Everything here runs in the hub and never
waits.

The connection is checked out of its pool from the first statement to the last answer, and no
longer: idle, it is the pool's like any other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, pq

from geventpg import hub
from geventpg.connection.loss import ends_session
from geventpg.connection.prepared import PREPARED_BEFORE, answered, was_not_prepared
from geventpg.connection.psycopg_internals import encoding_of
from geventpg.connection.wire import PIPELINE_SYNC, answers_of, last_words
from geventpg.errors import CommitUnknown

from .costs import COSTLY
from .plan import MOVED, REPEATED, SET_APART, Call, Planner
from .sending import HEAD_LIMIT, PORTION, ROOM_FOR_PORTION, Sending

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .abc import Dispatcher, Shared

logger = logging.getLogger("geventpg")

BAD = pq.ConnStatus.BAD
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
_CANCELED = b"57014"

_OUT_OF_STEP = (
    "the answers do not fit the statements: what is between here and the server lost one, or mixed"
    " up those of two"
)

FAIR_SHARE = 0.01
"""Seconds for which a connection is kept while greenlets wait for one."""


class Pipe(Sending):
    """The statements of many greenlets on one connection."""

    def __init__(self, pipes: Dispatcher, lent: Shared, planner: Planner) -> None:
        conn: Connection[Any] = lent.conn
        super().__init__(pipes, lent)
        self.planner = planner
        self.row_factory = conn.row_factory
        self.taking = True
        """Whether new statements may be put here."""
        self.cancelling = False
        self.progress = hub.Alarm()
        """Rings when answers came while a statement is cancelled."""
        self._cancelled: Call | None = None
        self._answer: deque[pq.abc.PGresult] = deque()
        """The parts of the answer to the first of those sent that are there."""
        self._out_of_step = False
        """Whether answers came that fit no statement. None after them can be trusted."""
        self._since = monotonic()
        # A greenlet that kept the connection and uses it takes turns with all of this, as ever.
        conn.lock.__enter__()
        conn.pgconn.enter_pipeline_mode()
        conn.watch.attend(self._readable, self._stopped)

    @property
    def load(self) -> int:
        """The number of statements ahead of a new one."""
        return len(self.sent) + len(self.queue)

    def retire(self) -> None:
        """Take nothing new; give the connection back when what was sent is answered."""
        self.taking = False

    def evacuate(self) -> None:
        """Have what was not sent go elsewhere."""
        moving = [call for call in self.queue if call.wake is not None]
        self.queue.clear()
        self._pipes.moved += len(moving)
        for call in moving:
            call.answer = MOVED
        self._hand_out(moving)

    # -- receiving ------------------------------------------------------------------------

    def _readable(self) -> None:
        if self.dead:
            return
        try:
            answers = answers_of(self._pgconn, len(self.sent))
        except psycopg.Error as error:
            self._lose(error)
            return
        done = self._take(answers)
        if self._out_of_step:
            self._lose(errors.OperationalError(_OUT_OF_STEP), done)
            return
        if self._answer and _is_the_end(self._answer[-1]):
            words = errors.error_from_result(self._answer[-1], encoding=encoding_of(self._pgconn))
            self._lose(words, done)
            return
        if not done:
            return
        pipes = self._pipes
        now = monotonic()
        elapsed = now - self.head_since
        if elapsed > COSTLY or pipes.costs.suspects:
            # A hub that was busy did not look for the answer, so the time that this thread used
            # does not count. But with more statements ahead the server was at work all the time.
            seconds = elapsed - (thread_time() - self._busy)
            if self.sent:
                seconds = max(seconds, elapsed / len(done))
            pipes.costs.note(done[0].plan, seconds)
        if self.sent:
            self._begin_head(now)
        if self._cancelled is not None:
            self.progress.ring()
            self._spare_bystanders(done)
        # From here on greenlets run, which may put statements here.
        self.awake = True
        self.at_once = not self.sent and len(done) == 1
        try:
            self._hand_out(done)
        finally:
            self.awake = self.at_once = False
            if not self.dead:
                if self.queue:
                    self._send_portion()
                if now - self._since > FAIR_SHARE and self.taking and pipes.lender.is_wanted_back():
                    self.retire()
                if not self.sent or pipes.homeless:
                    self.settle()

    def _take(self, answers: list[list[pq.abc.PGresult]]) -> list[Call]:
        """Give each answer to its statement; return those that are complete."""
        sent, parts = self.sent, self._answer
        done: list[Call] = []
        for result in chain.from_iterable(answers):
            if result.status != PIPELINE_SYNC:
                parts.append(result)
                continue
            call = sent.popleft()
            if call.how is PREPARED_BEFORE and len(parts) == 1:
                answered = parts.pop()
            elif _fit(call, parts):
                answered = self._examine(call, parts)
                parts.clear()
            else:
                sent.appendleft(call)
                self._out_of_step = True
                break
            self._bytes -= call.size
            if call.wake is None:
                self.abandoned -= 1
            else:
                call.answer = answered
            done.append(call)
        return done

    def _examine(self, call: Call, parts: Sequence[pq.abc.PGresult]) -> pq.abc.PGresult:
        """Return the result that counts: the error, wherever it occurred, or the last one."""
        failed = [result for result in parts if result.status == FATAL_ERROR]
        result = failed[0] if failed else parts[-1]
        answered(self.conn.prepared, call.how, [result])
        if failed and call.how.prepares:
            was_not_prepared(self.conn.prepared, (call.query, call.types), call.how.name)
        return result

    def _spare_bystanders(self, done: list[Call]) -> None:
        """Have those executed again that a cancel request hit and whose greenlets wait for them.

        The server says that they failed: so nothing of them was done.
        """
        for call in done:
            if call.wake is not None and call.answer.status == FATAL_ERROR:
                state = call.answer.error_field(pq.DiagnosticField.SQLSTATE)
                if state == _CANCELED:
                    call.answer = SET_APART if call is self._cancelled else MOVED
                    self._pipes.moved += 1

    def _hand_out(self, done: Iterable[Call]) -> None:
        """Switch to the greenlets that wait for these answers, one after the other."""
        queue, sent, pending = self.queue, self.sent, iter(done)
        try:
            for call in pending:
                wake = call.wake
                if wake is not None:
                    call.wake = None
                    # Its greenlet runs now, and may do anything: to this pipe as well.
                    wake()
                    if len(queue) >= PORTION and len(sent) <= ROOM_FOR_PORTION and not self.dead:
                        self._send()  # so that the server has something to do meanwhile
        finally:
            if rest := list(pending):  # Ctrl-C, in the hub
                self._run_callback(self._hand_out, rest)

    # -- the end --------------------------------------------------------------------------

    def settle(self) -> None:
        """Give the connection back, or take in statements that have none. Called after changes.

        Only in the hub: it may switch.
        """
        self.release()
        if self._pipes.homeless and not self.dead and self.takes(monotonic()):
            self._pipes.welcome()

    def release(self) -> None:
        """Give the connection back if it has nothing to do. Does not switch."""
        if not (self.sent or self.queue or self.cancelling or self.dead):
            self._leave()

    def takes(self, now: float) -> bool:
        """Tell whether a new statement is well off here."""
        if now < self.stale_at:
            return self.taking
        return self.taking and now < self.lent.expires_at and not self.is_stuck(now)

    def is_stuck(self, now: float) -> bool:
        """Tell whether the server has been at one statement for long."""
        if not self.sent or now - self.head_since < HEAD_LIMIT:
            return False
        if hub.poll(self.conn.watch.fd, hub.READ):
            # The answer is there, and the hub was late to look.
            self.stale_at = min(now + HEAD_LIMIT, self.lent.expires_at)
            return False
        return True

    def finished_cancelling(self) -> None:
        """Settle if only a cancel request, which is over now, kept the connection."""
        self.cancelling = False
        self.settle()

    def set_apart(self, head: Call) -> None:
        """Note that a cancel request will be sent for *head*. It may hit another statement."""
        self._cancelled = head

    def _leave(self) -> None:
        """Give the connection back. It is at rest."""
        self.taking, self.dead = False, True
        conn = self.conn
        try:
            conn.pgconn.exit_pipeline_mode()
        except psycopg.Error as error:
            logger.warning("closing %s: it does not leave pipeline mode: %s", conn, error)
            conn.discard()
        conn.watch.unattend()
        conn.lock.__exit__(None, None, None)
        self._pipes.left(self)

    def _stopped(self, error: BaseException) -> None:
        """React to the end of the connection: something else closed it."""
        assert isinstance(error, psycopg.Error)
        self._lose(error)

    def _lose(self, error: psycopg.Error, done: Sequence[Call] = ()) -> None:
        """Give up a lost connection; tell each statement what is known. *done* have answers."""
        if self.dead:
            return
        self.taking, self.dead = False, True
        self._stop_writing()
        conn, pgconn = self.conn, self._pgconn
        done = list(done)
        if pgconn.status == BAD and not conn.watch.stopped:
            done += self._take(last_words(pgconn))
            if self._answer and self._answer[-1].status == FATAL_ERROR:
                words = errors.error_from_result(self._answer[-1], encoding=encoding_of(pgconn))
                error = words if words.sqlstate else error
        conn.watch.unattend()
        conn.discard()
        conn.lock.__exit__(None, None, None)
        for call in self.sent:
            if call.wake is None:
                continue
            call.answer = REPEATED if call.idempotent else _unknown(error)
            done.append(call)
        self.sent.clear()
        moving = [call for call in self.queue if call.wake is not None]
        self.queue.clear()
        for call in moving:
            call.answer = MOVED
        self._pipes.moved += len(moving)
        self._pipes.left(self)
        self._hand_out(done + moving)

    def forget(self) -> None:
        """Do nothing any more, in a forked child: the connection is the parent's."""
        self.taking, self.dead = False, True
        self.queue.clear()
        self.sent.clear()
        self._stop_writing()


def _fit(call: Call, parts: Sequence[pq.abc.PGresult]) -> bool:
    """Tell whether an answer has as many parts as what was sent; COMMIT can add an error."""
    extra = len(parts) - (2 if call.how.prepares else 1)
    return extra == 0 or (extra == 1 and parts[-1].status == FATAL_ERROR)


def _is_the_end(result: pq.abc.PGresult) -> bool:
    """Tell whether an error is that of the connection, and no statement's."""
    if result.status != FATAL_ERROR:
        return False
    return ends_session(result) or result.error_field(pq.DiagnosticField.SQLSTATE) is None


def _unknown(error: psycopg.Error) -> CommitUnknown:
    unknown = CommitUnknown(
        "the connection was lost before the answer to the statement; it was executed and"
        f" committed, or not: {error}"
    )
    unknown.__cause__ = error
    return unknown
