"""Talking to the server without a cursor: one plain question, and libpq's pipeline mode."""

from __future__ import annotations

from collections import deque
from typing import Any

from psycopg import errors, generators, pq
from psycopg.abc import PQGen
from psycopg.waiting import Ready

from .loss import ends_session
from .psycopg_internals import encoding_of

OK = pq.ConnStatus.OK
FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
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


def check_open(pgconn: pq.abc.PGconn) -> None:
    """Raise ``psycopg.OperationalError`` if the connection is closed."""
    if pgconn.status != OK:
        raise errors.OperationalError("the connection is closed")


def ask_gen(pgconn: pq.abc.PGconn, query: bytes) -> PQGen[list[pq.abc.PGresult]]:
    """Send *query*, which may be several statements, and return a result for each.

    As plainly as can be: a cursor would open a transaction, count for preparing, and take part in
    the user's row factories. Raise the server's error, after which it executed none of the rest.
    """
    check_open(pgconn)
    pgconn.send_query(query)
    results: list[pq.abc.PGresult] = yield from generators.execute(pgconn)
    if results and results[-1].status == FATAL_ERROR:
        raise errors.error_from_result(results[-1], encoding=encoding_of(pgconn))
    return results
