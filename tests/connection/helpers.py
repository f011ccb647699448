"""What the tests of the connection share."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import gevent.resolver.blocking

from geventpg.testing import Backend

_tokens = itertools.count(1)


def token() -> str:
    """Return a text that no other statement of this process carries."""
    return f"token-{next(_tokens)}"


def assert_clean_or_closed(conn: Any) -> None:
    """Check that *conn* is closed, or answers the next statement with that statement's result."""
    if conn.closed:
        return
    conn.rollback()
    for _ in range(2):
        expected = token()
        assert conn.execute("select %s::text", [expected]).fetchone() == (expected,)
    conn.rollback()


def active(backends: Callable[[], list[Backend]]) -> list[Backend]:
    """Return the test's backends that are executing something."""
    return [backend for backend in backends() if backend.state == "active"]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class Ticker:
    """A greenlet that ticks every few milliseconds and notes the longest time without a tick."""

    def __init__(self) -> None:
        self.ticks = 0
        self.longest_gap = 0.0

    def __enter__(self) -> Ticker:
        self._greenlet = gevent.spawn(self._run)
        gevent.sleep(0)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._greenlet.kill()

    def _run(self) -> None:
        last = time.monotonic()
        while True:
            gevent.sleep(0.005)
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - last)
            last = now
            self.ticks += 1


class Attempt:
    """A function run in a greenlet of its own, whose end is kept, whatever it is.

    A ``BaseException`` in a plain greenlet would be thrown on into the main one.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.took = 0.0
        self._greenlet = gevent.spawn(self._run, function, args)

    def _run(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        started = time.monotonic()
        try:
            self.result = function(*args)
        except BaseException as error:
            self.error = error
        self.took = time.monotonic() - started

    @property
    def over(self) -> bool:
        return self._greenlet.dead

    def throw(self, error: BaseException) -> None:
        """Raise *error* in the greenlet, wherever it waits, and return at once."""
        self._greenlet.kill(error, block=False)

    def join(self, timeout: float = 20.0) -> Attempt:
        self._greenlet.join(timeout)
        assert self._greenlet.dead, f"still running after {timeout} s"
        return self


class FakeResolver(gevent.resolver.blocking.Resolver):
    """A resolver that knows *names*; each look-up takes *delay* seconds."""

    def __init__(self, names: dict[str, Sequence[str]], delay: float = 0.0) -> None:
        super().__init__()
        self.names = names
        self.delay = delay
        self.asked: list[str] = []

    def getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        if self.delay:
            gevent.sleep(self.delay)
        found = self.names.get(name, [name])
        return [
            entry
            for address in found
            for entry in super(FakeResolver, self).getaddrinfo(address, port, *args, **kwargs)
        ]


@contextlib.contextmanager
def resolving(
    names: dict[str, Sequence[str]] | None = None, delay: float = 0.0
) -> Iterator[FakeResolver]:
    """Make the hub resolve *names* so, for a while."""
    hub = gevent.get_hub()
    original = hub.resolver
    hub.resolver = fake = FakeResolver(names or {}, delay)
    try:
        yield fake
    finally:
        hub.resolver = original
