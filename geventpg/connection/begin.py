"""BEGIN and the first statement of a transaction, sent together.

psycopg opens a transaction with a round trip of its own. Here BEGIN and the statement leave in
one packet, in libpq's pipeline mode, and one answer comes back. What the statement sees, and the
state that an error leaves, are the same: BEGIN has succeeded, the statement has failed, the
transaction is aborted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

import psycopg
from psycopg import errors, generators, pq
from psycopg.abc import PQGen

from geventpg import hub

from .abc import PlainLink
from .psycopg_internals import begin_command_of, encoding_of
from .wire import answers_of, check_open, last_words

FATAL_ERROR = pq.ExecStatus.FATAL_ERROR
SQLSTATE = pq.DiagnosticField.SQLSTATE


def begin_with_gen(conn: PlainLink, send: Callable[[], object]) -> PQGen[list[pq.abc.PGresult]]:
    """Send BEGIN together with the statement that *send* sends; return that one's results.

    Raise what *send* raises (libpq refuses too many parameters, for example), when the transaction
    has begun all the same, and what is wrong with BEGIN or the connection. An error of the
    statement is among its results.
    """
    pgconn = conn.pgconn
    check_open(pgconn)
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(begin_command_of(conn), None)
    refused: psycopg.Error | None = None
    try:
        send()
    except psycopg.Error as error:
        refused = error
    pgconn.pipeline_sync()
    answers = yield from _answers_gen(pgconn, 1 + (refused is None))
    pgconn.exit_pipeline_mode()

    if refused is not None:
        raise refused
    _raise_error(answers[0], pgconn)
    return answers[1]


def _answers_gen(pgconn: pq.abc.PGconn, commands: int) -> PQGen[list[list[pq.abc.PGresult]]]:
    """Wait for the answers to *commands* and, behind them, to the Sync."""
    if pgconn.flush():
        yield from generators.send(pgconn)
    answers: list[list[pq.abc.PGresult]] = []
    while len(answers) <= commands:
        yield hub.READ  # type: ignore[misc]  # psycopg's own are an enumeration
        try:
            answers += answers_of(pgconn, 2)
        except psycopg.OperationalError:
            # The server's last words, if it had any, say more than that it is gone. What libpq
            # makes up for commands without an answer has no code.
            words = chain(*answers, *last_words(pgconn))
            _raise_error([word for word in words if word.error_field(SQLSTATE)], pgconn)
            raise
    return answers


def _raise_error(results: Iterable[pq.abc.PGresult], pgconn: pq.abc.PGconn) -> None:
    for result in results:
        if result.status == FATAL_ERROR:
            raise errors.error_from_result(result, encoding=encoding_of(pgconn))
