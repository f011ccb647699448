"""The way out: what greenlets put into a pipe in one turn of the hub leaves together.

While the server has enough to do, it waits until there is more of it: a portion costs the client
and the server one system call each, and what is not sent yet can still go elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic, thread_time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from geventpg.connection.prepared import PREPARED_BEFORE, send
from geventpg.connection.psycopg_internals import sync_of

from .plan import Call

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .abc import Dispatcher, Shared

BAD = pq.ConnStatus.BAD

MOST_OUTSTANDING = 128
"""Maximum of statements in flight on one connection, and of those that a slow one can delay."""

MOST_BYTES = 262_144
"""Maximum of bytes of parameters in flight on one connection."""

PORTION = 32
"""Number of statements that are worth sending together. With that many in flight the server is busy
until the next ones come. So these wait here: for company, or to go elsewhere."""

ROOM_FOR_PORTION = MOST_OUTSTANDING - PORTION
"""Maximum of statements in flight that leaves room for a portion more."""

HEAD_LIMIT = 0.005
"""Seconds with one statement after which new ones are better sent elsewhere."""


_SAMPLED_FOR = 0.001
"""Seconds for which a reading of the processor time is used again: it is a system call."""

GRACE = 0.05
"""Seconds after which a statement is cancelled whose caller is gone, or that delays others."""


class Sending(ABC):
    """The half of `Pipe` that sends."""

    def __init__(self, pipes: Dispatcher, lent: Shared) -> None:
        conn: Connection[Any] = lent.conn
        self.conn = conn
        self.queue: deque[Call] = deque()
        """Not sent yet."""
        self.sent: deque[Call] = deque()
        """Sent and not answered."""
        self.stale_at = lent.expires_at
        """From when on (``time.monotonic``) new ones are better put elsewhere."""
        self.head_since = 0.0
        """When the server got to the first of those sent, as far as can be known."""
        self.abandoned = 0
        """The number of those sent whose greenlets are gone."""
        self.awake = False
        """Whether it will look into the queue by itself soon."""
        self.at_once = False
        """Whether its turn ends with the greenlet that runs now, and may put one statement."""
        self.dead = False
        self._busy = self._busy_read_at = 0.0
        """Processor time that this thread had used shortly before, which is not the server's."""
        self._pipes = pipes
        self.lent = lent
        self._pgconn = conn.pgconn
        self._sync = sync_of(conn.pgconn)
        self._bytes = 0
        self._end_writing: Callable[[], None] | None = None
        self._run_callback = conn.watch.hub.loop.run_callback

    @abstractmethod
    def settle(self) -> None:
        """Give the connection back, or take in statements that have none."""

    @abstractmethod
    def _lose(self, error: psycopg.Error) -> None:
        """Give up a lost connection."""

    @abstractmethod
    def _hand_out(self, done: Iterable[Call]) -> None:
        """Switch to the greenlets that wait for these answers."""

    def put(self, call: Call) -> None:
        """Have a statement sent at the end of this turn of the hub, or soon. Does not switch.

        If no other statement can join it, it leaves at once. Then the server is at work already
        while the last answer is dealt with here.
        """
        self.queue.append(call)
        if not self.awake:
            self.awake = True
            self._run_callback(self._turn)
        elif self.at_once:
            self.at_once = False
            self._send()

    def _turn(self) -> None:
        """Send what was put here: the turn of the hub is over."""
        self.awake = False
        if not self.dead:
            self._send_portion()
            self.settle()

    def _send_portion(self) -> None:
        """Send what there is, if it is a portion or the server needs something to do."""
        outstanding = len(self.sent)
        has_portion = len(self.queue) >= PORTION and outstanding <= ROOM_FOR_PORTION
        if outstanding < PORTION or has_portion:
            self._send()
        else:
            self._pipes.look_at(self.head_since + HEAD_LIMIT)

    def _send(self) -> None:
        """Hand statements to libpq, as many as may be on their way, and those to the kernel."""
        if self._end_writing is not None:
            return  # the kernel has not taken the last ones yet
        queue, sent, pgconn, pipes = self.queue, self.sent, self._pgconn, self._pipes
        prepared = self.conn.prepared
        names = prepared.names
        usable = prepared.prepare_threshold is not None
        before = len(sent)
        # psycopg's own flushes, as is done next.
        sync = self._sync if len(queue) > 1 else pgconn.pipeline_sync
        room = MOST_OUTSTANDING - before
        latest = name = None
        try:
            if prepared.to_flush:
                self._deallocate()
            while queue and room > 0 and self._bytes < MOST_BYTES:
                call = queue.popleft()
                if call.wake is None:
                    continue  # killed meanwhile: not sent at all
                key = call.query, call.types
                if key != latest:  # looking it up takes longer than comparing
                    latest, name = key, names.get(key) if usable else None
                    if name is not None:
                        names.move_to_end(key)
                try:
                    if name is not None and call.prepare is not False:
                        pgconn.send_query_prepared(name, call.params, call.formats, call.format)
                        call.how = PREPARED_BEFORE
                    else:
                        latest = None  # it may be prepared now, and another one given up
                        call.how = send(pgconn, prepared, call, call.prepare, call.format)
                except Exception as error:
                    if pgconn.status == BAD:
                        queue.appendleft(call)
                        raise
                    call.answer = error  # too many parameters, for example
                    self._run_callback(self._hand_out, [call])
                    continue
                call.sent = True
                # Freed here, while it is in the processor's cache.
                call.params = call.formats = None
                self._bytes += call.size
                sent.append(call)
                sync()
                room -= 1
            if pgconn.flush() and not self.dead:
                self._end_writing = self.conn.watch.when_writable(self._writable)
        except psycopg.Error as error:
            self._run_callback(self._lose, error)  # which switches, and this may be a greenlet
        # From here on the server is at work.
        if not before:
            self._begin_head(monotonic())
        number = len(sent) - before
        if number:
            pipes.sent += number
            pipes.batches += 1
            if number > pipes.batch_max:  # noqa: PLR1730  # a call less
                pipes.batch_max = number
        if queue:
            # If the head turns out to be slow, the others are better off elsewhere.
            pipes.look_at(self.head_since + HEAD_LIMIT)
        elif len(sent) > 1:
            pipes.look_at(self.head_since + GRACE)

    def _begin_head(self, now: float) -> None:
        """Note that the server gets to the first of those sent. New ones are welcome now."""
        self.head_since = now
        stale_at, expires_at = now + HEAD_LIMIT, self.lent.expires_at
        self.stale_at = stale_at if stale_at < expires_at else expires_at
        if now - self._busy_read_at > _SAMPLED_FOR:
            self._busy, self._busy_read_at = thread_time(), now

    def _deallocate(self) -> None:
        """Hand over what psycopg wants to be rid of, before anything is prepared again."""
        prepared = self.conn.prepared
        while prepared.to_flush:
            name = prepared.to_flush.popleft()
            if name is None:  # all of them, also what was prepared behind that decision
                prepared.names.clear()
            command = b"DEALLOCATE " + (b"ALL" if name is None else name)
            self._pgconn.send_query_params(command, None)
            self._sync()
            call = Call()
            call.how, call.sent = PREPARED_BEFORE, True
            self.abandoned += 1
            self.sent.append(call)

    def _writable(self) -> None:
        try:
            if self._pgconn.flush():
                return
        except psycopg.Error as error:
            self._lose(error)
            return
        self._stop_writing()
        self._send()
        self.settle()

    def _stop_writing(self) -> None:
        end, self._end_writing = self._end_writing, None
        if end is not None:
            end()
