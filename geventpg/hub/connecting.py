"""Waiting for connections that are being opened, which compute as much as they wait.

The proof of a password takes libpq 3 ms and a TLS handshake one or two, in one go, and a pool that
lost its connections opens several at once: each turn of the hub has room for some of that only.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from time import monotonic
from typing import Any, TypeVar

import gevent.hub
import gevent.monkey
from greenlet import getcurrent

from .loop import DeadlineReached, check_can_wait
from .sockets import MAX_BUSY, switcher

RV = TypeVar("RV")

_half_open: set[int] = set()


# The native thread's, as each has a hub: gevent's own would be the greenlet's.
class _Turn(gevent.monkey.get_original("_thread", "_local")):  # type: ignore[misc]
    """How long (s) attempts to connect have kept this thread's hub busy in its present turn."""

    number = -1
    taken = 0.0

    def is_used_up(self, loop: Any) -> bool:
        # A loop that does not count its turns (libuv) says -1.
        return self.taken > MAX_BUSY and self.number == loop.iteration != -1

    def took(self, loop: Any, seconds: float) -> None:
        if self.number != loop.iteration:
            self.number, self.taken = loop.iteration, 0.0
        self.taken += seconds


_turn = _Turn()


def drive_connecting(gen: Generator[tuple[int, int], int, RV], deadline: float) -> RV:
    """Run a generator that opens a connection (or a cancel request) to its end.

    Such generators yield ``(file descriptor, wanted)`` and are sent what became ready. Block this
    greenlet only; of the hub's time, take little in each turn, all attempts together. Raise
    `DeadlineReached` at *deadline*. On any exception the generator is closed, which closes the
    socket it was working on.
    """
    hub = gevent.hub.get_hub()
    loop = hub.loop
    current = getcurrent()
    check_can_wait(hub, "a connection attempt")
    try:
        fd, wanted = next(gen)
        timer = loop.timer(max(deadline - monotonic(), 0.0))
        try:
            switch = switcher(current)
            timer.start(switch, 0, update=True)
            while True:
                watcher = loop.io(fd, wanted)
                watcher.start(switch, wanted)
                _half_open.add(fd)
                try:
                    ready = hub.switch()
                    while ready and _turn.is_used_up(loop):
                        ready = hub.switch()  # it is ready in the next turn too
                finally:
                    # Before libpq goes on: it may close this descriptor and open another.
                    _half_open.discard(fd)
                    watcher.stop()
                    watcher.close()
                if ready:
                    started = monotonic()
                    try:
                        fd, wanted = gen.send(ready)
                    finally:
                        _turn.took(loop, monotonic() - started)
                elif not timer.active:
                    raise DeadlineReached
        finally:
            timer.stop()
            timer.close()
    except StopIteration as stop:
        value: RV = stop.value
        return value
    finally:
        gen.close()


def abandon_half_open() -> None:
    """In a forked child, take away the sockets on which the parent is connecting.

    The child has copies of the greenlets that do it: they must not speak to the server.
    """
    for fd in _half_open:
        point_at_null(fd)


def point_at_null(fd: int) -> None:
    """Replace a descriptor by one of the null device: libpq can say there what it likes."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(null, fd, inheritable=False)
    finally:
        os.close(null)
