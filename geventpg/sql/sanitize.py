"""Statements without the literals in them, and in a few words."""

from __future__ import annotations

import re

from .lexer import BLANKS, COMMENT, MARK, NAME, NUMBER, STRING, WORD, lex

_LONGEST_SUMMARY = 255

# Psycopg's placeholders may have any name: quotes in one are not the server's.
_ODD_PLACEHOLDER = re.compile(rb"""%\((?:[^)'"$/-]|-(?!-)|/(?!\*)){0,99}(?:['"$]|--|/\*)""")

# The words that the target of a statement follows.
_BEFORE_TARGET = {
    "SELECT": b"FROM",
    "INSERT": b"INTO",
    "UPDATE": b"UPDATE",
    "DELETE": b"FROM",
    "MERGE": b"INTO",
    "COPY": b"COPY",
    "TABLE": b"TABLE",
}


def without_literals(statement: bytes, certain_until: int | None) -> str:
    """Return a statement with ``?`` in place of each literal, and without comments.

    It ends with "…" where it is not certain what is inside of strings and what is not.
    """
    odd = _ODD_PLACEHOLDER.search(statement)
    if odd is not None and (certain_until is None or odd.start() < certain_until):
        certain_until = odd.start()
    shown: list[bytes] = []
    shown_until = 0
    for kind, start, end in lex(statement):
        if certain_until is not None and end > certain_until:
            shown.append(statement[shown_until:start])
            break
        if kind in (COMMENT, STRING, NUMBER):
            shown += statement[shown_until:start], b" " if kind == COMMENT else b"?"
            shown_until = end
    else:
        shown.append(statement[shown_until:certain_until])
    text = b"".join(shown).rstrip(BLANKS).decode(errors="replace")
    return text if certain_until is None else f"{text}…"


def summary_of(statement: bytes, word: str) -> str:
    """Return the first word of a statement and what it works on: ``SELECT orders``."""
    before = _BEFORE_TARGET.get(word)
    target = None if before is None else _target(statement, before)
    summary = word if target is None else f"{word} {target.decode(errors='replace')}"
    return summary[:_LONGEST_SUMMARY]


def _target(statement: bytes, before: bytes) -> bytes | None:
    """Return the name behind the word *before*; one outside of parentheses is preferred."""
    inner: bytes | None = None
    previous = b""
    name: bytes | None = None
    """What was read of a name; ``None``: no name is expected here."""
    depth = outside = name_depth = 0
    begun = False
    for kind, start, end in lex(statement + b" ;"):
        if kind == COMMENT:
            continue
        text = statement[start:end]
        if name is not None:
            if kind in (WORD, NAME) and (not name or name.endswith(b".")):
                if name or text.upper() not in (b"ONLY", b"LATERAL"):
                    name += text
                continue
            if kind == MARK and text == b"." and name:
                name += text
                continue
            if name:
                if name_depth == outside:
                    return name
                inner = inner or name
            name = None
        if kind == MARK:
            depth += (text == b"(") - (text == b")")
        elif kind == WORD:
            if not begun:
                begun, outside = True, depth
            text = text.upper()
            if text == before and previous != b"DISTINCT":  # a IS DISTINCT FROM b
                name, name_depth = b"", depth
        previous = text
    return inner
