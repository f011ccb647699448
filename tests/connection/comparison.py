"""One program, run on psycopg's connection and on ours: what it shows is to be equal."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import psycopg

import geventpg


def run(connection_class: Any, dsn: str, program: Callable[..., None]) -> list[Any]:
    """Return what *program* shows on a connection of this class."""
    seen: list[Any] = []
    with connection_class.connect(dsn) as conn:
        conn.add_notice_handler(lambda d: seen.append(("notice", d.severity, d.message_primary)))
        program(conn, seen)
        if not conn.closed:
            conn.rollback()
    return seen


def assert_same(dsn: str, program: Callable[..., None]) -> None:
    """Check that *program*, called with a connection and a list, makes the same list on both."""
    stock = run(psycopg.Connection, dsn, program)
    ours = run(geventpg.Connection, dsn, program)
    assert ours == stock
    assert len(stock) > 0


def state(conn: Any) -> tuple[Any, ...]:
    return (
        conn.info.transaction_status.name,
        "gone" if conn.closed else conn.pgconn.pipeline_status,
        conn.closed,
        conn.broken,
        conn.autocommit,
    )


def describe(cur: Any) -> list[Any] | None:
    description = cur.description
    return (
        [
            (c.name, c.type_code, c.display_size, c.internal_size, c.precision, c.null_ok)
            for c in description
        ]
        if description is not None
        else None
    )


def note_results(cur: Any, seen: list[Any]) -> None:
    while True:
        note = [describe(cur), cur.rowcount, cur.statusmessage, cur.rownumber]
        if cur.pgresult is not None:
            note.append(cur.pgresult.status)
            if cur.description is not None:
                note += [cur.pgresult.fformat(i) for i in range(cur.pgresult.nfields)]
        try:
            note.append(cur.fetchall())
        except psycopg.Error as error:
            note.append((type(error), str(error)))
        seen.append(note)
        if not cur.nextset():
            break


def note_error(error: psycopg.Error, seen: list[Any]) -> None:
    seen.append(
        (
            type(error),
            error.sqlstate,
            re.sub(r"\d{3,}", "N", str(error)),
            error.diag.severity,
            error.diag.message_primary,
            error.diag.statement_position,
            error.diag.context,
        )
    )
