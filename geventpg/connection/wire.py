"""libpq's pipeline mode in the fewest calls: Syncs that wait for the flush, all answers at once."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from psycopg import errors, generators, pq
from psycopg.waiting import Ready

from .session_end import ends_session

PIPELINE_SYNC = int(pq.ExecStatus.PIPELINE_SYNC)
COPIES = {pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH}

_NOTHING: deque[Any] = deque()
_READY = Ready.RW
_FEW = 4  # from eight answers on psycopg's generator is as fast


def take_in(pgconn: Any) -> None:
    """Read what arrived; hand notifications over. Does not block."""
    pgconn.consume_input()
    while notification := pgconn.notifies():
        if pgconn.notify_handler:
            pgconn.notify_handler(notification)


def answers_of(pgconn: pq.abc.PGconn, expected: int) -> list[list[pq.abc.PGresult]]:
    """Read what arrived, send what is left to send, return all complete answers.

    *expected* is about how many there will be. A Sync is an answer of its own. Does not block.
    Raise ``psycopg.OperationalError`` if the connection is lost; answers that came before are
    left for `last_words`.
    """
    if expected <= _FEW:
        return _few_answers(pgconn)
    communicate: Any = generators.pipeline_communicate(pgconn, _NOTHING)
    next(communicate)
    try:
        communicate.send(_READY)
    except StopIteration as stop:
        answers: list[list[pq.abc.PGresult]] = stop.value
        return answers
    raise AssertionError("psycopg's pipeline went on with nothing to send")


def _few_answers(pgconn: Any) -> list[list[pq.abc.PGresult]]:
    """Do what psycopg's generator does; starting and ending one takes longer than a few calls."""
    take_in(pgconn)
    answers: list[list[pq.abc.PGresult]] = []
    parts: list[pq.abc.PGresult] = []
    while not pgconn.is_busy():
        result = pgconn.get_result()
        if result is None:
            if not parts:
                break
            answers.append(parts)
            parts = []
        elif (status := result.status) == PIPELINE_SYNC:
            answers.append([result])
        elif status in COPIES:  # libpq would give that for ever
            raise errors.NotSupportedError("COPY cannot be used in pipeline mode")
        else:
            parts.append(result)
    return answers


def last_words(pgconn: pq.abc.PGconn) -> list[list[pq.abc.PGresult]]:
    """Return what a server that is gone had sent before. Does not block or raise."""
    answers: list[list[pq.abc.PGresult]] = []
    parts: list[pq.abc.PGresult] = []
    nothing = 0
    # libpq makes up an error for everything that is left: the first of two NULLs in a row ends.
    while nothing < 2:
        result = pgconn.get_result()
        if result is None:
            nothing = 0 if parts else nothing + 1
            if parts:
                answers.append(parts)
                parts = []
        elif result.status == PIPELINE_SYNC:
            answers.append([result])
        else:
            parts.append(result)
            if ends_session(result):
                break
    return [*answers, parts] if parts else answers


def _plain_sync(pgconn: pq.abc.PGconn) -> Callable[[], object]:
    return pgconn.pipeline_sync


def _find_sync() -> Callable[[pq.abc.PGconn], Callable[[], object]]:
    """Return what makes the function that queues a Sync on a connection.

    psycopg's ``pipeline_sync`` makes a system call of its own each time. libpq 17 has a function
    that waits for the next flush; psycopg does not offer it, so it is looked up in the very
    libpq that psycopg is linked with.
    """
    if pq.version() < 170000:
        return _plain_sync
    try:
        if pq.__impl__ == "python":
            from psycopg.pq import _pq_ctypes

            libpq: Any = _pq_ctypes
            send = libpq.pq.PQsendPipelineSync
        else:
            # Looking a name up in a library looks in those it depends on, too.
            module = sys.modules[pq.PGconn.__module__]
            send = ctypes.PyDLL(module.__file__ or "").PQsendPipelineSync
    except (AttributeError, OSError, KeyError):
        return _plain_sync
    send.argtypes, send.restype = [ctypes.c_void_p], None

    def sync_of(pgconn: Any) -> Callable[[], object]:
        pointer = ctypes.c_void_p(pgconn.pgconn_ptr)
        return partial(send, pointer)

    return sync_of


sync_of: Callable[[pq.abc.PGconn], Callable[[], object]] = _find_sync()
"""Return the function that queues a Sync; it may be called while the connection is open only.

It tells nothing: a connection on which it fails is one on which the next flush fails too.
"""
