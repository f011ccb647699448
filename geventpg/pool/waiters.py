"""The greenlets that wait for a connection: in which order and until when.

First come, first served. A waiter that dies or gives up leaves the queue at that moment, so
nothing here is ever stale. One timer serves all deadlines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from greenlet import getcurrent

from geventpg import hub
from geventpg.errors import PoolTimeout

# When the deadlines are not in queue order each expiry looks at the whole queue. This is the
# shortest time between two expiries then, and how late a waiter may be told.
_COALESCE = 0.005


class PlaceInLine(hub.Parked):
    """The place in line of one waiter, until its deadline."""

    __slots__ = ("deadline", "since")

    deadline: float
    since: float


_new = PlaceInLine.__new__


class WaitQueue:
    """Waiters, first in, first out. Each gets a plain `PoolTimeout` at its deadline."""

    def __init__(self) -> None:
        self._hub = hub.current_hub()
        self._run_callback = self._hub.loop.run_callback
        self.line: OrderedDict[PlaceInLine, None] = OrderedDict()
        """The waiters, the first in front; for others to look at."""
        self._timer = hub.Timer(self._expire)
        self._last_deadline = 0.0
        self._in_order = True

    def __len__(self) -> int:
        return len(self.line)

    def __bool__(self) -> bool:
        return bool(self.line)

    def __iter__(self) -> Iterator[PlaceInLine]:
        yield from list(self.line)

    def join(self, deadline: float, since: float) -> PlaceInLine:
        """Queue up the current greenlet, which waits from *since*. Does not switch."""
        # The constructor of `Parked` without its calls: in a busy pool four checkouts in five wait.
        waiter = _new(PlaceInLine)
        waiter.deadline, waiter.since = deadline, since
        waiter.hub = owner = self._hub
        waiter.greenlet = current = getcurrent()
        waiter.wake_up = waiter.value = waiter.error = None
        if current is owner:
            hub.check_can_wait(owner, "the pool")
        if not self.line:
            self._in_order = True
            self._timer.keep_alive(True)
        elif deadline < self._last_deadline:
            self._in_order = False
        self._last_deadline = deadline
        self.line[waiter] = None
        due = self._timer.due
        if due is None or deadline < due:
            self._timer.arm(deadline)
        return waiter

    def leave(self, waiter: PlaceInLine) -> None:
        """Take a waiter that was interrupted out of the queue, if it is still there."""
        self.line.pop(waiter, None)
        if not self.line:
            self._timer.keep_alive(False)

    def hand(self, value: Any) -> bool:
        """Hand *value* to the first waiter that still wants it; ``False`` if there is none."""
        line = self.line
        while line:
            waiter, _ = line.popitem(last=False)
            if not line:
                # The timer stays armed, as more waiters are likely, but must not delay an exit.
                self._timer.keep_alive(False)
            # `Parked.hand` without the call.
            waiting = waiter.greenlet
            if waiting is not None and waiter.wake_up is None:
                waiter.value = value
                run_callback = self._run_callback  # a cached bound method saves a lookup
                waiter.wake_up = run_callback(waiting.switch)
                return True
        return False

    def fail_all(self, error: Callable[[], BaseException]) -> int:
        """Make every wait raise; return how many there were."""
        count = 0
        while self.line:
            waiter, _ = self.line.popitem(last=False)
            count += waiter.fail(error())
        self._timer.disarm()
        return count

    def _expire(self) -> None:
        now = monotonic()
        earliest = None
        late: list[PlaceInLine] = []
        for waiter in self.line:
            if waiter.deadline <= now:
                late.append(waiter)
            elif earliest is None or waiter.deadline < earliest:
                earliest = waiter.deadline
                if self._in_order:
                    break
        for waiter in late:
            del self.line[waiter]
            waiter.fail(PoolTimeout())  # the waiter adds the details
        if earliest is not None:
            self._timer.arm(earliest if self._in_order else max(earliest, now + _COALESCE))
