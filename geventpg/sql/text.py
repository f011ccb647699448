"""The text of statements: as they were written, without the values in them."""

from __future__ import annotations

from typing import Any

from psycopg import sql


def shortened(text: str, length: int) -> str:
    """Return *text* on one line, of *length* characters at most."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def text_of(query: Any) -> str:
    """Return the text of what a cursor was given to execute, without the values in it."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, sql.Composed):
        return "".join(text_of(part) for part in query)
    if isinstance(query, (sql.SQL, sql.Identifier, sql.Placeholder)):
        return query.as_string()
    strings = getattr(query, "strings", None)
    # A template string: what it interpolates is parameters. Or a literal: a value.
    return "?" if strings is None else "?".join(strings)
