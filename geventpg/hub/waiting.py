"""Waiting for each other: hand-overs, locks, alarms and deadlines of greenlets."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any

import gevent.hub
from greenlet import getcurrent, greenlet

from geventpg.errors import WrongHub

from .loop import get_ident

# libev cannot wait until infinity: a timer for later than this (s) fires early, once.
_FAR = 1e6


class Parked:
    """One greenlet that waits until it is handed something, exactly once.

    `hand` and `fail` tell whether it was accepted: a greenlet that was killed or gave up in
    the meantime refuses. After `wait` was interrupted, `value` says whether something had
    been handed over already: the interrupted greenlet must pass that on.
    """

    __slots__ = ("error", "greenlet", "hub", "value", "wake_up")

    def __init__(self, hub: gevent.hub.Hub | None = None) -> None:
        self.hub = gevent.hub.get_hub() if hub is None else hub
        self.greenlet: greenlet | None = getcurrent()
        """The greenlet that waits, or is about to; ``None`` when that is over."""
        self.wake_up: Any = None
        """gevent's callback that will switch to it; ``None`` until something is handed over."""
        self.value: Any = None
        self.error: BaseException | None = None
        if self.greenlet is self.hub:
            raise WrongHub("cannot wait inside a callback of the gevent hub itself")

    def wait(self) -> Any:
        """Wait until handed something and return it; raise what `fail` was given."""
        switch = self.hub.switch
        try:
            while self.value is None and self.error is None:
                # Parked: woken by `hand` or `fail`; an exception can be thrown in.
                switch()
        finally:
            self.greenlet = None
            if self.wake_up is not None:
                self.wake_up.stop()  # it must not wake us out of something else
        if self.error is not None:
            raise self.error
        return self.value

    def hand(self, value: Any) -> bool:
        """Hand *value* over. Do not switch. Return ``False`` if the greenlet waits no more."""
        waiting = self.greenlet
        if waiting is None or self.wake_up is not None:
            return False
        self.value = value
        self.wake_up = self.hub.loop.run_callback(waiting.switch)
        return True

    def fail(self, error: BaseException) -> bool:
        """Make `wait` raise *error*. Do not switch. Return ``False`` if nobody waits."""
        waiting = self.greenlet
        if waiting is None or self.wake_up is not None:
            return False
        self.error = error
        self.wake_up = self.hub.loop.run_callback(waiting.switch)
        return True


class HubLock:
    """Mutual exclusion of the greenlets of one hub; free, it costs an attribute write.

    It stands in for the lock that psycopg takes from `threading` at import, which blocks the
    whole hub if psycopg was imported before monkey-patching. First come, first served; a
    greenlet that is killed while it waits is skipped.
    """

    __slots__ = ("held", "queue", "thread")

    def __init__(self) -> None:
        self.held = False
        """Whether a greenlet holds it. A greenlet of its `thread` that finds it free may set it."""
        self.thread = get_ident()
        self.queue: deque[Parked] = deque()
        """The greenlets that wait. The holder may unset `held` if there are none."""

    def locked(self) -> bool:
        """Tell whether a greenlet holds the lock."""
        return self.held

    def acquire(self) -> bool:
        """Take the lock, waiting for it without limit. Always return ``True``."""
        self.__enter__()
        return True

    def release(self) -> None:
        """Give the lock to the next in line, or free it."""
        self.__exit__(None, None, None)

    def __enter__(self) -> None:
        if get_ident() != self.thread:
            raise WrongHub(
                "the connection belongs to the gevent hub of another thread and can only be used"
                " there; open one in this thread"
            )
        if not self.held:
            self.held = True
        else:
            self._wait()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self.queue:
            # It stays held: it is handed over, so that no newcomer can overtake the line.
            if self.queue.popleft().hand(True):
                return
        self.held = False

    def _wait(self) -> None:
        parked = Parked()
        self.queue.append(parked)
        try:
            parked.wait()
        except BaseException:
            if parked.value:
                self.release()
            else:
                self.queue.remove(parked)
            raise


class Alarm:
    """A greenlet's sleep that others can cut short; it does not keep the event loop alive."""

    __slots__ = ("_parked", "_rung")

    def __init__(self) -> None:
        self._parked: Parked | None = None
        self._rung = False

    def ring(self) -> None:
        """Wake the sleeper, or make its next `sleep` return at once. Does not switch."""
        self._rung = True
        if self._parked is not None:
            self._parked.hand(True)

    def clear(self) -> None:
        """Take the ring back."""
        self._rung = False

    def sleep(self, seconds: float) -> None:
        """Sleep until `ring` is called or *seconds* have passed."""
        if not self._rung and seconds > 0:
            self._parked = Parked()
            timer = gevent.hub.get_hub().loop.timer(seconds, ref=False)
            timer.start(self.ring, update=True)
            try:
                self._parked.wait()
            finally:
                self._parked = None
                timer.stop()
                timer.close()
        self._rung = False


class Timer:
    """One timer for many deadlines: armed for the earliest, moved when that changes.

    *method*, a bound one, is held weakly: an armed timer is a root for the garbage collector.
    """

    __slots__ = ("_keep_alive", "_method", "_timer", "due")

    def __init__(self, method: Callable[[], None]) -> None:
        self._method = weakref.WeakMethod(method)
        self._keep_alive = True
        self._timer: Any = None
        self.due: float | None = None

    def arm(self, due: float) -> None:
        """Make the method run in the hub at *due* (``time.monotonic``), replacing any other."""
        self.disarm()
        self.due = due
        self._timer = gevent.hub.get_hub().loop.timer(
            min(max(due - monotonic(), 0.0), _FAR), ref=self._keep_alive
        )
        self._timer.start(self._fire, update=True)

    def keep_alive(self, keep: bool) -> None:
        """Tell whether the armed timer keeps the event loop running (a greenlet waits)."""
        self._keep_alive = keep
        if self._timer is not None:
            self._timer.ref = keep

    def disarm(self) -> None:
        """Do not run the method."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = self.due = None

    def _fire(self) -> None:
        self.disarm()
        method = self._method()
        if method is not None:
            method()
