"""Users of a pool: greenlets in a closed loop, and what they noted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gevent
import psycopg

from tests.support.stalls import HubTicker


class Failure(NamedTuple):
    """A use that ended with an error that is to be expected in an outage."""

    at: float
    user: int
    error: type[BaseException]
    cause: type[BaseException]


class Acquire(NamedTuple):
    """One acquire: its beginning, its end and its deadline (``time.monotonic``)."""

    since: float
    until: float
    deadline: float
    served: bool

    @property
    def waited(self) -> float:
        return self.until - self.since


class Users:
    """*number* greenlets call *use* with their own number, again and again, until they are stopped.

    An error of psycopg or a ``gevent.Timeout`` is noted and the user goes on; anything else is a
    defect, and raised at the end. *pause* is between two uses, *apart* between the first of one
    user and the first of the next: a crowd that comes as one is a hub stall itself.
    """

    def __init__(
        self, number: int, use: Callable[[int], object], pause: float = 0.01, apart: float = 0.0
    ) -> None:
        self.done: list[float] = []
        self.failures: list[Failure] = []
        self._number = number
        self._use = use
        self._pause = pause
        self._apart = apart
        self._stopped = False

    def __enter__(self) -> Users:
        self._greenlets = [
            gevent.spawn_later(self._apart * user, self._run, user) for user in range(self._number)
        ]
        return self

    def __exit__(self, exc_type: object, *rest: object) -> None:
        self._stopped = True
        gevent.joinall(self._greenlets, timeout=30)
        stuck = [greenlet for greenlet in self._greenlets if not greenlet.dead]
        gevent.killall(stuck)
        if exc_type is None:
            assert not stuck, f"{len(stuck)} users never came to an end"
            for greenlet in self._greenlets:
                greenlet.get()

    def _run(self, user: int) -> None:
        while not self._stopped:
            try:
                self._use(user)
            except (psycopg.Error, gevent.Timeout) as error:
                # Their classes: a thousand tracebacks would keep the garbage collector busy.
                failure = Failure(time.monotonic(), user, type(error), type(error.__cause__))
                self.failures.append(failure)
            else:
                self.done.append(time.monotonic())
            gevent.sleep(self._pause)

    def first_success_after(self, moment: float) -> float | None:
        return next((at for at in self.done if at > moment), None)

    def most_failures_of_one(self, since: float, until: float) -> int:
        count: dict[int, int] = {}
        for failure in self.failures:
            if since <= failure.at < until:
                count[failure.user] = count.get(failure.user, 0) + 1
        return max(count.values(), default=0)


class Acquires:
    """Checkouts whose beginning, end and deadline are kept."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.all: list[Acquire] = []

    @contextmanager
    def connection(self, timeout: float) -> Iterator[Any]:
        since, served = time.monotonic(), False
        checkout = self.pool.connection(timeout=timeout)
        try:
            conn = checkout.__enter__()
            served = True
        finally:
            self.all.append(Acquire(since, time.monotonic(), since + timeout, served))
        with _Entered(checkout):
            yield conn

    def latest(self, ticker: HubTicker) -> float:
        """Return by how much (s) the latest one ended after its deadline.

        What the machine kept the hub from running, between the deadline and the end, is not
        counted: nothing of this process could have run then.
        """
        return max(
            (
                acquire.until
                - acquire.deadline
                - ticker.machine_between(acquire.deadline, acquire.until)
                for acquire in self.all
                if acquire.until > acquire.deadline
            ),
            default=0.0,
        )


class _Entered:
    """The second half of a context manager whose first half was timed."""

    def __init__(self, checkout: Any) -> None:
        self.checkout = checkout

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: Any) -> Any:
        return self.checkout.__exit__(*exc_info)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which *share* of *values* are; 0 for none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0
