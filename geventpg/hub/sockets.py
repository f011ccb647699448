"""Waiting for sockets: psycopg's generators driven by libev watchers.

psycopg's generators yield what they wait for (1 read, 2 write, 3 both) and are sent what became
ready, in the same bits. libev uses the same two bits.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable, Generator
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, TypeVar

import gevent
import gevent.hub
import gevent.monkey
from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent, greenlet

from .loop import DeadlineReached, check_can_wait

RV = TypeVar("RV")

Greenlet = gevent.Greenlet

READ = 1
WRITE = 2

# Seconds for which one greenlet may keep writing to a socket that is always ready (COPY, large
# parameters). Then the others get their turn.
MAX_BUSY = 0.002

# select.poll as it was before any monkey-patching: gevent's would switch.
_poll = gevent.monkey.get_original("select", "poll") if hasattr(select, "poll") else None


def switcher(current: greenlet) -> Callable[..., Any]:
    """Return a watcher's callback that switches to *current*.

    An error that ends a raw greenlet comes out of the switch to it, in the callback, and
    libev's wrapper would stop the watcher for it. (gevent's own class lets none out.)
    """
    if current.__class__ is Greenlet:
        return current.switch  # type: ignore[no-any-return]

    def switch(*value: Any) -> None:
        try:
            current.switch(*value)
        except BaseException:
            gevent.hub.get_hub().handle_error(current, *sys.exc_info())

    return switch


class _News(NamedTuple):
    pending: bool


_NO_NEWS = _News(pending=False)
"""For a loop that calls back as soon as it knows of data (libuv)."""
_THE_END = _News(pending=True)


class Watch:
    """The watchers of one socket: a read watcher that lives as long as the socket.

    The read watcher is started once; only its callback is swapped, so libev makes no
    ``epoll_ctl`` call per wait. While a greenlet waits, the callback switches to it;
    otherwise *on_stray* is told that the socket became readable by itself. The watcher keeps
    the event loop alive only while a greenlet waits on it.

    *on_stray* runs in the hub: it must not block and must not be a strong reference to the
    connection, because an active watcher is a root for the garbage collector.
    """

    __slots__ = (
        "_busy_since",
        "_hub",
        "_on_stopped",
        "_on_stray",
        "_parked",
        "_read",
        "_switch",
        "fd",
        "news",
        "paused",
        "stopped",
    )

    def __init__(self, fd: int, on_stray: Callable[[], None]) -> None:
        self.fd = fd
        self.paused = self.stopped = False
        self._hub = gevent.hub.get_hub()
        self._switch = self._hub.switch
        self._on_stray = on_stray
        self._on_stopped: Callable[[BaseException], None] | None = None
        self._parked: greenlet | None = None
        self._busy_since = 0.0
        self._read = self._hub.loop.io(fd, READ, ref=False)
        self.news: Any = self._read if hasattr(self._read, "pending") else _NO_NEWS
        """`pending` tells that there is something to read: the hub knows that since its last poll
        and has run other greenlets first. After `stop` it is always set."""
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
        current = getcurrent()
        if current.parent is not self._hub:
            check_can_wait(self._hub, "the connection")
        try:
            wanted = next(gen)
            read = self._read
            while True:
                if wanted == READ:
                    if self.paused:
                        self.resume()
                    self._parked = current
                    read.callback = (
                        current.switch if current.__class__ is Greenlet else switcher(current)
                    )
                    read.ref = True
                    park = self._switch  # a cached bound method saves a lookup for each wait
                    try:
                        # Parked: anything can happen to the connection or to us here.
                        park()
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
        current = getcurrent()
        check_can_wait(self._hub, "the connection")
        try:
            wanted = next(gen)
            while True:
                ready = self._park(current, wanted, deadline) if monotonic() < deadline else 0
                # What is there by now counts, even if the timer was faster.
                wanted = gen.send(ready or poll(self.fd, wanted))
                if monotonic() >= deadline:
                    raise DeadlineReached
        except StopIteration as stop:
            value: RV = stop.value
            return value

    def _wait_writable(self, current: greenlet, wanted: int) -> int:
        # A socket to write to is nearly always ready: asking costs a microsecond, waiting
        # for the event loop a round through it.
        ready = poll(self.fd, wanted)
        if ready and monotonic() - self._busy_since < MAX_BUSY:
            return ready
        # Not gevent.sleep(0): a thousand of those go before timers and sockets get their turn.
        ready = self._park(current, wanted, None)
        self._busy_since = monotonic()
        return ready

    def _park(self, current: greenlet, wanted: int, deadline: float | None) -> int:
        loop = self._hub.loop
        write = timer = None
        if wanted & WRITE:
            write = loop.io(self.fd, WRITE)
            write.start(switcher(current), WRITE)
        if deadline is not None:
            timer = loop.timer(max(deadline - monotonic(), 0.0))
            timer.start(switcher(current), 0, update=True)
        if wanted & READ:
            if self.paused:
                self.resume()
            self._read.callback = partial(switcher(current), READ)
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

    def attend(
        self, on_readable: Callable[[], None], on_stopped: Callable[[BaseException], None]
    ) -> None:
        """Have the hub call *on_readable* whenever data is there, until `unattend`.

        For a connection that several greenlets use at once, so that none of them waits here.
        *on_stopped* is told the error when another greenlet closes the connection.
        """
        if self.paused:
            self.resume()
        self._on_stopped = on_stopped
        self._read.callback = on_readable
        self._read.ref = True

    def unattend(self) -> None:
        """End `attend`. Does not switch."""
        self._on_stopped = None
        self._read.ref = False
        self._read.callback = self._on_stray

    def when_writable(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have the hub call *callback* whenever data can be sent; return what ends that."""
        write = self._hub.loop.io(self.fd, WRITE)
        write.start(callback)

        def end() -> None:
            write.stop()
            write.close()

        return end

    def pause(self) -> None:
        """Stop watching: data is there that no greenlet reads, and the loop would spin."""
        self._read.stop()
        self.paused = True

    def resume(self) -> None:
        """Watch again after `pause`."""
        self._read.start(self._on_stray)
        self.paused = False

    def stop(self, error: Callable[[], BaseException] | None = None) -> None:
        """Stop for good, before the file descriptor is closed.

        A greenlet that waits here is woken with *error*: nothing else would ever wake it.
        Only for the thread of the hub; see `at_home` for the others.
        """
        self._read.stop()
        self.paused = self.stopped = True
        self.news = _THE_END
        parked = self._parked
        if error is not None and parked is not None and parked is not getcurrent():
            self._hub.loop.run_callback(self._throw, parked, error)
        if error is not None and self._on_stopped is not None:
            on_stopped, self._on_stopped = self._on_stopped, None
            self._hub.loop.run_callback(on_stopped, error())

    @property
    def waiting(self) -> bool:
        """Tell whether a greenlet waits on the socket."""
        return self._parked is not None

    @property
    def waiter(self) -> greenlet | None:
        """The greenlet that waits on the socket."""
        return self._parked

    @property
    def is_home(self) -> bool:
        """Tell whether this thread is the one of the hub, or that one is gone."""
        return get_hub_if_exists() is self._hub or not self._hub.loop

    def at_home(self, function: Callable[..., object], *args: object) -> None:
        """Run *function* in the hub, from another thread. Does not wait for it."""
        self._hub.loop.run_callback_threadsafe(function, *args)

    def abandon(self) -> None:
        """Forget the watcher in a forked child, where the loop starts anew."""
        self._read.stop()
        self.paused = self.stopped = True
        self.news = _THE_END
        self._parked = self._on_stopped = None

    def _throw(self, parked: Any, error: Callable[[], BaseException]) -> None:
        # It may have been killed, and be elsewhere, since.
        if self._parked is not None and self._parked is parked:
            self._parked.throw(error())


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
