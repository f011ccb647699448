"""The seam to gevent: hub, watchers, timers and greenlet-local storage live here only.

Everything above this module waits through it. Nothing here knows about pools; the only
thing known about PostgreSQL is the shape of psycopg's generators: they yield what they wait
for (1 read, 2 write, 3 both; for connecting a pair with the file descriptor) and are sent
what became ready, in the same bits. libev uses the same two bits.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

import gevent
import gevent.event
import gevent.hub
import gevent.local
import gevent.monkey
import gevent.socket
from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent, greenlet

from .errors import WrongHub

RV = TypeVar("RV")

READ = 1
WRITE = 2

# How long one greenlet may keep writing to a socket that is always ready (COPY, large
# parameters) before the others get their turn.
MAX_BUSY = 0.002

Event = gevent.event.Event
GreenletLocal = gevent.local.local
spawn = gevent.spawn

# select.poll as it was before any monkey-patching: gevent's would switch.
_poll = gevent.monkey.get_original("select", "poll") if hasattr(select, "poll") else None


class DeadlineReached(Exception):
    """The deadline given to a wait passed. Internal: callers translate it."""


def in_use() -> bool:
    """Tell whether this thread runs under gevent: patched, or with a hub of its own."""
    return (
        gevent.monkey.is_module_patched("socket")
        or gevent.monkey.is_module_patched("threading")
        or get_hub_if_exists() is not None
    )


def current_hub() -> gevent.hub.Hub:
    """Return this thread's hub, making it when there is none. Does not block."""
    return gevent.hub.get_hub()


def check_can_wait(owner: gevent.hub.Hub, what: str) -> None:
    """Raise `WrongHub` unless the current greenlet can wait on *owner*, the hub of *what*."""
    here = gevent.hub.get_hub()
    if here is not owner:
        raise WrongHub(
            f"{what} belongs to the gevent hub of another thread and can only be used there;"
            " open one in this thread"
        )
    if getcurrent() is owner:
        raise WrongHub(f"{what} cannot be waited for inside a callback of the gevent hub itself")


def can_wait(owner: gevent.hub.Hub) -> bool:
    """Tell whether the current greenlet can wait on *owner*: its thread's, and not itself."""
    return gevent.hub.get_hub() is owner and getcurrent() is not owner


def getaddrinfo(host: str, port: str | int, timeout: float) -> list[str]:
    """Resolve *host* with gevent's resolver; return its addresses, best first.

    Block this greenlet only, *timeout* seconds at most. Raise `OSError` if the name does not
    resolve and `DeadlineReached` when time is up.
    """
    late = DeadlineReached(f"name {host!r} not resolved in time")
    with gevent.Timeout(max(timeout, 0.0), late):
        found = gevent.socket.getaddrinfo(
            host, port, type=gevent.socket.SOCK_STREAM, proto=gevent.socket.IPPROTO_TCP
        )
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def run_in_thread(function: Callable[[], object]) -> None:
    """Run a function that would block the hub in gevent's thread pool and wait for it."""
    gevent.hub.get_hub().threadpool.apply(function)


class Watch:
    """The watchers of one socket: a read watcher that lives as long as the socket.

    The read watcher is started once; only its callback is swapped, so libev makes no
    ``epoll_ctl`` call per wait. While a greenlet waits, the callback switches to it;
    otherwise *on_stray* is told that the socket became readable by itself. The watcher keeps
    the event loop alive only while a greenlet waits on it.

    *on_stray* runs in the hub: it must not block and must not be a strong reference to the
    connection, because an active watcher is a root for the garbage collector.
    """

    __slots__ = ("_busy_since", "_hub", "_on_stray", "_parked", "_read", "_switch", "fd", "paused")

    def __init__(self, fd: int, on_stray: Callable[[], None]) -> None:
        self.fd = fd
        self.paused = False
        self._hub = gevent.hub.get_hub()
        self._switch = self._hub.switch
        self._on_stray = on_stray
        self._parked: greenlet | None = None
        self._busy_since = 0.0
        self._read = self._hub.loop.io(fd, READ, ref=False)
        self._read.start(on_stray)

    @property
    def hub(self) -> gevent.hub.Hub:
        """The hub whose event loop watches the socket."""
        return self._hub

    def drive(self, gen: Generator[int, int, RV]) -> RV:
        """Run a psycopg generator to its end, waiting on the hub. No timer is involved.

        An exception thrown into the waiting greenlet leaves *gen* suspended where it was, so
        that the caller can finish it; an exception of *gen* itself ends it.
        """
        try:
            wanted = next(gen)
            current = getcurrent()
            if current.parent is not self._hub:
                check_can_wait(self._hub, "the connection")
            read = self._read
            while True:
                if wanted == READ:
                    if self.paused:
                        self.resume()
                    self._parked = current
                    read.callback = current.switch
                    read.ref = True
                    try:
                        # Parked: anything can happen to the connection or to us here.
                        self._switch()
                    finally:
                        read.ref = False
                        read.callback = self._on_stray
                        self._parked = None
                    wanted = gen.send(READ)
                else:
                    wanted = gen.send(self._wait_writable(current, wanted))
        except StopIteration as stop:
            value: RV = stop.value
            return value

    def drive_until(self, gen: Generator[int, int, RV], deadline: float) -> RV:
        """Like `drive`, but raise `DeadlineReached` at *deadline* (``time.monotonic``).

        The generator is resumed once more before giving up, so that what has arrived counts
        and a deadline in the past polls once.
        """
        try:
            wanted = next(gen)
            current = getcurrent()
            check_can_wait(self._hub, "the connection")
            while True:
                wanted = gen.send(self._park(current, wanted, deadline))
                if monotonic() >= deadline:
                    raise DeadlineReached
        except StopIteration as stop:
            value: RV = stop.value
            return value

    def _wait_writable(self, current: greenlet, wanted: int) -> int:
        # A socket to write to is nearly always ready: asking costs a microsecond, waiting
        # for the event loop a round through it.
        ready = poll(self.fd, wanted)
        if not ready:
            ready = self._park(current, wanted, None)
        elif monotonic() - self._busy_since < MAX_BUSY:
            return ready
        else:
            gevent.sleep(0)
        self._busy_since = monotonic()
        return ready

    def _park(self, current: greenlet, wanted: int, deadline: float | None) -> int:
        loop = self._hub.loop
        write = timer = None
        if wanted & WRITE:
            write = loop.io(self.fd, WRITE)
            write.start(current.switch, WRITE)
        if deadline is not None:
            timer = loop.timer(max(deadline - monotonic(), 0.0))
            timer.start(current.switch, 0, update=True)
        if wanted & READ:
            if self.paused:
                self.resume()
            self._read.callback = lambda: current.switch(READ)
            self._read.ref = True
        self._parked = current
        try:
            # Parked: woken by the socket, the timer, `stop()`, or an exception.
            return self._switch() or 0
        finally:
            self._parked = None
            self._read.ref = False
            self._read.callback = self._on_stray
            for watcher in (write, timer):
                if watcher is not None:
                    watcher.stop()
                    watcher.close()

    def pause(self) -> None:
        """Stop watching: data is there that nobody waits for and the loop would spin."""
        self._read.stop()
        self.paused = True

    def resume(self) -> None:
        """Watch again after `pause`."""
        self._read.start(self._on_stray)
        self.paused = False

    def stop(self, error: Callable[[], BaseException] | None = None) -> None:
        """Stop for good, before the file descriptor is closed.

        A greenlet that waits here is woken with *error*: nothing else would ever wake it.
        From another thread the watcher is stopped by its own loop.
        """
        if get_hub_if_exists() is not self._hub:
            if self._hub.loop:
                self._hub.loop.run_callback_threadsafe(self._read.stop)
            return
        self._read.stop()
        self.paused = True
        if error is not None and self._parked not in (None, getcurrent()):
            self._hub.loop.run_callback(self._throw, self._parked, error)

    def abandon(self) -> None:
        """Forget the watcher in a forked child, where the loop starts anew."""
        self._read.stop()
        self.paused = True
        self._parked = None

    def _throw(self, parked: greenlet, error: Callable[[], BaseException]) -> None:
        # It may have been killed, and be elsewhere, since.
        if self._parked is parked:
            parked.throw(error())


def poll(fd: int, wanted: int) -> int:
    """Tell which of *wanted* (`READ`, `WRITE`) are ready now. Does not block or switch."""
    if _poll is None:
        return 0
    poller = _poll()
    poller.register(
        fd, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0)
    )
    ready = 0
    for _fd, events in poller.poll(0):
        # An error or hang-up is for the reader and the writer to find out.
        if events & ~select.POLLOUT:
            ready |= wanted & READ
        if events & ~select.POLLIN:
            ready |= wanted & WRITE
    return ready


def drive_connecting(gen: Generator[tuple[int, int], int, RV], deadline: float) -> RV:
    """Run a generator that opens a connection (or a cancel request) to its end.

    Such generators yield ``(file descriptor, wanted)``. Block this greenlet only. Raise
    `DeadlineReached` at *deadline*. On any exception the generator is closed, which closes
    the socket it was working on.
    """
    hub = gevent.hub.get_hub()
    try:
        fd, wanted = next(gen)
        current = getcurrent()
        check_can_wait(hub, "a connection attempt")
        timer = hub.loop.timer(max(deadline - monotonic(), 0.0))
        try:
            timer.start(current.switch, 0, update=True)
            while True:
                watcher = hub.loop.io(fd, wanted)
                watcher.start(current.switch, wanted)
                try:
                    ready = hub.switch()
                finally:
                    # Before libpq goes on: it may close this descriptor and open another.
                    watcher.stop()
                    watcher.close()
                if not ready and monotonic() >= deadline:
                    raise DeadlineReached
                if ready:
                    fd, wanted = gen.send(ready)
        finally:
            timer.stop()
            timer.close()
    except StopIteration as stop:
        value: RV = stop.value
        return value
    finally:
        gen.close()


class Parked:
    """One greenlet that waits until it is handed something, exactly once.

    `hand` and `fail` tell whether it was accepted: a greenlet that was killed or gave up in
    the meantime refuses. After `wait` was interrupted, `value` says whether something had
    been handed over already: the interrupted greenlet must pass that on.
    """

    __slots__ = ("_greenlet", "_hub", "error", "value")

    def __init__(self) -> None:
        self._hub = gevent.hub.get_hub()
        self._greenlet: greenlet | None = getcurrent()
        self.value: Any = None
        self.error: BaseException | None = None
        if self._greenlet is self._hub:
            raise WrongHub("cannot wait inside a callback of the gevent hub itself")

    def wait(self) -> Any:
        """Wait until handed something and return it; raise what `fail` was given."""
        switch = self._hub.switch
        try:
            while self.value is None and self.error is None:
                # Parked: woken by `hand` or `fail`; an exception can be thrown in.
                switch()
        finally:
            self._greenlet = None
        if self.error is not None:
            raise self.error
        return self.value

    def hand(self, value: Any) -> bool:
        """Hand *value* over. Do not switch. Return ``False`` if nobody waits any more."""
        if self._greenlet is None or self._greenlet.dead or self._settled():
            return False
        self.value = value
        self._hub.loop.run_callback(self._wake)
        return True

    def fail(self, error: BaseException) -> bool:
        """Make `wait` raise *error*. Do not switch. Return ``False`` if nobody waits."""
        if self._greenlet is None or self._greenlet.dead or self._settled():
            return False
        self.error = error
        self._hub.loop.run_callback(self._wake)
        return True

    def _settled(self) -> bool:
        return self.value is not None or self.error is not None

    def _wake(self) -> None:
        # It may have been killed, and be elsewhere, since.
        if self._greenlet is not None:
            self._greenlet.switch()


class HubLock:
    """Mutual exclusion of the greenlets of one hub; free, it costs an attribute write.

    It stands in for the lock that psycopg takes from `threading` at import, which blocks the
    whole hub if psycopg was imported before monkey-patching. First come, first served; a
    greenlet that is killed while it waits is skipped.
    """

    __slots__ = ("_held", "_queue")

    def __init__(self) -> None:
        self._held = False
        self._queue: deque[Parked] = deque()

    def locked(self) -> bool:
        """Tell whether somebody holds the lock."""
        return self._held

    def acquire(self) -> bool:
        """Take the lock, waiting for it without limit. Always return ``True``."""
        self.__enter__()
        return True

    def release(self) -> None:
        """Give the lock to the next in line, or free it."""
        self.__exit__(None, None, None)

    def __enter__(self) -> None:
        if not self._held:
            self._held = True
        else:
            self._wait()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._queue:
            # It stays held: handed over, so that nobody can barge in.
            if self._queue.popleft().hand(True):
                return
        self._held = False

    def _wait(self) -> None:
        parked = Parked()
        self._queue.append(parked)
        try:
            parked.wait()
        except BaseException:
            if parked.value:
                self.release()
            else:
                self._queue.remove(parked)
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
        """Forget that it rang."""
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
    """One timer for many deadlines: armed for the earliest, moved when that changes."""

    __slots__ = ("_callback", "_keep_alive", "_timer", "due")

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._keep_alive = True
        self._timer: Any = None
        self.due: float | None = None

    def arm(self, due: float) -> None:
        """Make the callback run in the hub at *due* (``time.monotonic``), replacing any other."""
        self.disarm()
        self.due = due
        self._timer = gevent.hub.get_hub().loop.timer(
            max(due - monotonic(), 0.0), ref=self._keep_alive
        )
        self._timer.start(self._fire, update=True)

    def keep_alive(self, keep: bool) -> None:
        """Tell whether the armed timer keeps the event loop running (somebody waits)."""
        self._keep_alive = keep
        if self._timer is not None:
            self._timer.ref = keep

    def disarm(self) -> None:
        """Do not run the callback."""
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = self.due = None

    def _fire(self) -> None:
        self.disarm()
        self._callback()
