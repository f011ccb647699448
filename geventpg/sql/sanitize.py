"""Statements without the literals in them, and in a few words."""

from __future__ import annotations

import re
from functools import lru_cache


def _comment(depth: int) -> str:
    """Return the pattern of a comment with others in it, so deep. It cannot fail half-way."""
    if not depth:
        return r"/\*.*?(?:\*/|\Z)"
    return rf"/\*(?: [^*/]+ | \*(?!/) | /(?!\*) | {_comment(depth - 1)} )*(?:\*/|\Z)"


_LITERALS = re.compile(
    rf"""
      (?P<comment> --[^\n]* | {_comment(3)} )
    | (?P<name> "(?:[^"]|"")*" )                              # a quoted identifier stays
    | (?P<text>
        [eE]'(?:[^'\\]|\\.|'')*(?:'|\Z)                       # with backslashes
      | (?:\b[bBxXnN]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z)
      | (?<![\w$])\$(?P<tag>[^\W\d]\w*|)\$.*?(?:\$(?P=tag)\$|\Z)
      )
    | (?P<number> (?<![\w$%])(?:\d[\w.]*|\.\d[\w.]*) )
    """,
    re.VERBOSE | re.DOTALL,
)

_NAME = r'((?:[\w$]+|"(?:[^"]|"")*")(?:\.(?:[\w$]+|"(?:[^"]|"")*"))*)'

# Where each kind of statement names what it works on.
_TARGETS = {
    "SELECT": re.compile(rf"\bFROM\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE),
    "INSERT": re.compile(rf"\bINTO\s+{_NAME}", re.IGNORECASE),
    "UPDATE": re.compile(rf"\bUPDATE\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE),
    "DELETE": re.compile(rf"\bFROM\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE),
    "MERGE": re.compile(rf"\bINTO\s+(?:ONLY\s+)?{_NAME}", re.IGNORECASE),
    "COPY": re.compile(rf"\bCOPY\s+{_NAME}", re.IGNORECASE),
}

_FIRST_WORD = re.compile(r"[\s(;]*([A-Za-z]+)")

_LONGEST = 255


@lru_cache(maxsize=512)
def sanitized(text: str) -> str:
    """Return a statement with ``?`` in place of each literal, and without comments."""
    return _LITERALS.sub(_mask, text)


@lru_cache(maxsize=512)
def summary_of(text: str) -> str:
    """Return the first word of a statement and what it works on: ``SELECT orders``."""
    plain = sanitized(text)
    first = _FIRST_WORD.match(plain)
    if first is None:
        return ""
    word = first[1].upper()
    target = _TARGETS[word].search(plain) if word in _TARGETS else None
    return (word if target is None else f"{word} {target[1]}")[:_LONGEST]


def _mask(match: re.Match[str]) -> str:
    if match["name"] is not None:
        return match["name"]
    return " " if match["comment"] is not None else "?"
