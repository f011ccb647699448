"""A server that cannot be reached: since when, why, and when the next attempt is due."""

from __future__ import annotations

import random

from geventpg.connection.psycopg_internals import backoff
from geventpg.conninfo.faults import Fault

HURRY = 0.25
"""Shortest pause (s) between attempts that new callers can bring about."""

MAX_DELAY = 30.0
"""Longest pause (s) between attempts while no greenlet waits for a connection."""


class Backoff:
    """Growing, jittered pauses, psycopg_pool's: one second, two, four."""

    def __init__(self) -> None:
        self._delay = 0.0

    def pause(self, *, short: bool = False) -> float:
        """Return the next pause (s); if *short*, one like the first. The growth goes on."""
        first, growth, jitter = backoff()
        self._delay = min(self._delay * growth, MAX_DELAY) if self._delay else first
        pause = min(self._delay, first) if short else self._delay
        return pause * random.uniform(1.0 - jitter, 1.0 + jitter)


class Outage:
    """The pool cannot connect. It tries again for ever, one attempt at a time."""

    def __init__(self, reconnect_timeout: float) -> None:
        self.next_at = 0.0
        """When the next attempt is due (``time.monotonic``)."""
        self._reconnect_timeout = reconnect_timeout
        self._refused_since: float | None = None
        self._last_at = 0.0
        self._backoff = Backoff()
        self._give_up_at: float | None = None

    def failed(self, now: float, fault: Fault, *, has_waiters: bool) -> bool:
        """Note a failed attempt; tell whether the ``reconnect_timeout`` has passed (again)."""
        self._last_at = now
        if fault is not Fault.REJECTED:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        gave_up = self._give_up_at is not None and now >= self._give_up_at
        if gave_up:
            self._give_up_at = None
        elif self._give_up_at is None:
            self._give_up_at = now + self._reconnect_timeout
        self.next_at = now + self._backoff.pause(short=has_waiters)
        if self._give_up_at is not None:
            # The last attempt of a series is made at its very end, but never a busy loop.
            self.next_at = max(min(self.next_at, self._give_up_at), now + HURRY / 5)
        return gave_up

    def refused_for(self, now: float) -> float:
        """Return for how long (s) the server has answered, and with nothing but a refusal."""
        return 0.0 if self._refused_since is None else now - self._refused_since

    def hurry(self) -> None:
        """Bring the next attempt forward, because a greenlet began to wait."""
        self.next_at = min(self.next_at, self._last_at + HURRY)
