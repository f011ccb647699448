"""Looking at pools from outside: their repr, the server's list of backends, gevent's greenlets."""

from __future__ import annotations

import contextlib
import gc
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import greenlet
import psycopg

from geventpg import Connection
from tests.support.waiting import wait_until

_COUNT = re.compile(r"\b(size|idle|in_use|waiting|connecting|max_size)=(\d+)")


class Counts(NamedTuple):
    """What a pool's repr tells."""

    size: int
    idle: int
    in_use: int
    waiting: int
    connecting: int
    max_size: int


def counts(pool: Any) -> Counts:
    """Return the numbers in *pool*'s repr."""
    return Counts(**{name: int(number) for name, number in _COUNT.findall(repr(pool))})


def settled(pool: Any, size: int) -> bool:
    """Return whether *pool* has *size* connections, all idle, and is connecting no more."""
    now = counts(pool)
    return (now.size, now.idle, now.connecting) == (size, size, 0)


def backend_pid(conn: psycopg.Connection[Any]) -> int:
    """Return the server's process for *conn*, without a round trip."""
    return conn.info.backend_pid


def terminate(admin: psycopg.Connection[Any], *pids: int) -> None:
    """End these backends at the same time; return when the server has forgotten them."""
    admin.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", [list(pids)])
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY(%s)"
    wait_until(lambda: admin.execute(alive, [list(pids)]).fetchone() == (0,))


def hold_all(pool: Any, number: int, timeout: float = 5.0) -> list[Any]:
    """Check out *number* connections at once; all go back if that fails."""
    taken: list[Any] = []
    try:
        while len(taken) < number:
            taken.append(pool.getconn(timeout=timeout))
    except BaseException:
        give_back(pool, taken)
        raise
    return taken


def give_back(pool: Any, conns: list[Any]) -> None:
    """Return all of *conns*."""
    while conns:
        pool.putconn(conns.pop())


@contextlib.contextmanager
def sampling(sample: Callable[[], object], interval: float = 0.002) -> Iterator[None]:
    """Call *sample* again and again in a greenlet; its failure is raised at the end."""
    failures: list[Exception] = []
    done = False

    def run() -> None:
        try:
            while not done:
                sample()
                gevent.sleep(interval)
        except Exception as error:
            failures.append(error)

    sampler = gevent.spawn(run)
    try:
        yield
    finally:
        done = True  # and not a kill, which could hit a statement of the sample
        sampler.join()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def no_switch() -> Iterator[None]:
    """Fail if another greenlet runs before the block ends."""
    switches: list[Any] = []
    previous = greenlet.settrace(lambda event, args: switches.append((event, args)))
    try:
        yield
    finally:
        greenlet.settrace(previous)
    assert not switches, switches


def engine_greenlets() -> list[gevent.Greenlet]:
    """Return the live greenlets whose function is geventpg's own."""
    found = []
    for thing in gc.get_objects():
        # Not isinstance(): that asks lazy objects of others for their class, and wakes them.
        if issubclass(type(thing), gevent.Greenlet) and not thing.dead:
            function = getattr(thing, "_run", None)
            if str(getattr(function, "__module__", "")).startswith("geventpg"):
                found.append(thing)
    return found


def slow_class(delay: float, started: list[float] | None = None) -> type[Connection[Any]]:
    """Return a connection class whose connect takes *delay* seconds more."""

    class Slow(Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            if started is not None:
                started.append(time.monotonic())
            gevent.sleep(delay)
            return super().connect(*args, **kwargs)

    return Slow
