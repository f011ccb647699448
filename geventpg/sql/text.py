"""The text of statements: as they were written, without the values in them."""

from __future__ import annotations

import re
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


# What may come before the first word of a statement. Comments nest.
_SPACE = re.compile(rb"(?:[\s;]|--[^\n]*)+")
_COMMENT_EDGE = re.compile(rb"/\*|\*/")


def first_word(query: bytes) -> int:
    """Return where the first word begins."""
    start = 0
    while True:
        if space := _SPACE.match(query, start):
            start = space.end()
        if not query.startswith(b"/*", start):
            return start
        depth = 0
        for edge in _COMMENT_EDGE.finditer(query, start):
            depth += 1 if edge[0] == b"/*" else -1
            if not depth:
                start = edge.end()
                break
        else:
            return len(query)
