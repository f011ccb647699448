"""The statements of a batch, executed one after the other.

This is how batches are sent where psycopg is not the one that `exchange` was written for. Results
and errors are the same; it takes a round trip for each statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import psycopg
from psycopg import pq

from geventpg.errors import CommitUnknown, NotExecuted

from .batch import Queued, StatementResult, check_statement, with_index

BAD = pq.ConnStatus.BAD


def execute_all(conn: Any, statements: Sequence[Queued], *, commit: bool) -> list[StatementResult]:
    """Execute *statements* in the open transaction, or in one that is ended here with *commit*.

    Raise the first error, which undoes all of them with their transaction.
    """
    results: list[StatementResult] = []
    try:
        with conn.transaction() if commit else nullcontext():
            for index, statement in enumerate(statements):
                results.append(_execute(conn, index, statement))
    except psycopg.Error as error:
        with_index(error)
        raise
    return results


def execute_each(conn: Any, statements: Sequence[Queued]) -> list[StatementResult]:
    """Execute *statements*, each as a transaction of its own; errors are in the results."""
    results: list[StatementResult] = []
    for index, statement in enumerate(statements):
        error: Exception
        if conn.pgconn.status == BAD:
            error = NotExecuted(f"the connection was lost before statement {index} of the batch")
            results.append(StatementResult(index, with_index(error, index)))
            continue
        try:
            results.append(_execute(conn, index, statement))
        except Exception as failure:
            error = failure
            if conn.pgconn.status == BAD:
                error = CommitUnknown(
                    f"the connection was lost before the answer to statement {index} of the batch;"
                    f" it was executed and committed, or not: {failure}"
                )
                error.__cause__ = failure
            results.append(StatementResult(index, with_index(error, index)))
    return results


def _execute(conn: Any, index: int, statement: Queued) -> StatementResult:
    cur = conn.cursor(
        row_factory=statement.row_factory or conn.row_factory, binary=statement.binary
    )
    result = StatementResult(index)
    try:
        if isinstance(statement.query, (str, bytes)):
            text = statement.query
            check_statement(text.encode() if isinstance(text, str) else text)
        cur.execute(statement.query, statement.params)
        result.statusmessage = cur.statusmessage
        result.rowcount = cur.rowcount
        if cur.description is not None:
            result.description = cur.description
            result.fetched = cur.fetchall()
    except Exception as error:
        with_index(error, index)
        raise
    return result
