"""The failures that may pass, and the pauses before another attempt. No I/O, no gevent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
from psycopg import errors, pq

from geventpg.connection.loss import is_rolled_back
from geventpg.connection.prepared import is_unusable
from geventpg.errors import CommitUnknown, NotExecuted, StaleStatement

# https://www.postgresql.org/docs/current/mvcc-serialization-failure-handling.html
_CONFLICTS = (errors.SerializationFailure, errors.DeadlockDetected)
# The server went away, or takes no writes: another connection may lead to a better one.
_WRONG_SERVER = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.ReadOnlySqlTransaction,
)

_PASSING = (*_CONFLICTS, *_WRONG_SERVER, StaleStatement, NotExecuted)

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0


def is_transient(error: BaseException, conn: psycopg.Connection[Any] | None = None) -> bool:
    """Tell whether the whole transaction that *error* ended may succeed if it is run again.

    True for serialization failures and deadlocks, for servers that shut down or are
    read-only, for prepared statements that were gone or went stale, and for connections that
    were lost before COMMIT was sent. For a connection that is not geventpg's, pass it as *conn*: it
    tells whether it was lost. False where the work may have succeeded already: for `CommitUnknown`,
    and for a connection that was lost in autocommit mode. Does not block.
    """
    if isinstance(error, CommitUnknown) or not isinstance(error, psycopg.Error):
        return False
    rolled_back = is_rolled_back(error)
    if rolled_back is not None:
        return rolled_back
    if isinstance(error, _PASSING) or is_unusable(error):
        return True
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        pgconn = conn.pgconn if conn is not None else error.pgconn
        return pgconn is not None and pgconn.status == pq.ConnStatus.BAD
    return False


class Attempts:
    """The attempts at one piece of work: their number, their deadline and their pauses.

    There are *max_attempts* at most. No attempt begins later than *timeout* seconds after the
    first one (``None``: no limit).
    """

    def __init__(self, max_attempts: int, timeout: float | None) -> None:
        if max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {max_attempts}")
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout must not be negative, not {timeout:g}")
        self._left = max_attempts
        self._deadline = None if timeout is None else monotonic() + timeout
        self._pause = FIRST_PAUSE
        self.errors: list[BaseException] = []

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, 0 after it; ``None`` if there is none."""
        return None if self._deadline is None else max(self._deadline - monotonic(), 0.0)

    def failed(self, error: BaseException) -> float | None:
        """Note a failed attempt; return the pause (s) before the next, ``None`` after the last.

        A pause is random between 0 and a bound, which doubles each time up to a maximum ("full
        jitter": https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). So
        transactions that collided do not collide again.
        """
        self.errors.append(error)
        self._left -= 1
        pause = random.uniform(0.0, self._pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE)
        remaining = self.remaining
        if not self._left or (remaining is not None and remaining <= pause):
            return None
        return pause

    def attach(self, error: BaseException) -> None:
        """Add the errors of all attempts to *error*: as ``error.attempts``, and as its notes."""
        error.attempts = tuple(self.errors)  # type: ignore[attr-defined]
        if len(self.errors) > 1 and hasattr(error, "add_note"):
            for note in self._notes():
                error.add_note(note)

    def _notes(self) -> Iterator[str]:
        for number, error in enumerate(self.errors, 1):
            words = str(error).strip().splitlines() or [""]
            yield f"attempt {number}: {type(error).__name__}: {words[0]}"
