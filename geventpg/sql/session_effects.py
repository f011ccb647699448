"""What a statement leaves in its session, which a pooler may take away. Values only: no I/O.

Only what fails silently is looked for. What is read is the text of the statement, so what
functions and ``DO`` blocks do inside remains unknown.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

LOOKED_AT = 4096
"""How many bytes of a statement are looked at; longer statements are not remembered either."""


class Trace(NamedTuple):
    """Something that outlives its statement and its transaction."""

    kind: Kind
    name: str
    """The statement as far as it can be shown: without values, which may be secret."""


class Kind(NamedTuple):
    """One kind of session state: what becomes of it between two transactions, and what to do."""

    fate: str
    remedy: str


SETTING = Kind(
    "the setting goes to whoever has the server connection next, and is lost for this one",
    "use SET LOCAL (set_config(..., true)) in the transaction, or ALTER ROLE ... SET",
)
LISTENING = Kind(
    "it listens on a server connection that is somebody else's next, and hears nothing",
    "LISTEN on a connection of its own that leads to the server directly",
)
ADVISORY_LOCK = Kind(
    "the lock stays with the server connection: others may find it theirs, and unlocking may fail",
    "use pg_advisory_xact_lock in the transaction",
)
HELD_CURSOR = Kind(
    "the cursor is not there after its transaction, and stays open on the server connection",
    "fetch from a cursor without hold inside the transaction",
)
TEMPORARY_TABLE = Kind(
    "the table is not there for the next transaction, and in the way of somebody else's",
    "create it with ON COMMIT DROP and use it in that transaction only",
)

# Reported by the server when they change, therefore kept for each client by PgBouncer:
# https://www.pgbouncer.org/config.html#track_extra_parameters
_TRACKED = {"application_name", "client_encoding", "datestyle", "standard_conforming_strings"} | {
    *("timezone", "time", "names"),  # SET TIME ZONE, SET NAMES
}
# SET LOCAL, SET TRANSACTION and SET CONSTRAINTS end with their transaction.
_NO_SETTINGS = {"local", "transaction", "constraints"}

# No way to match the same text twice in these: a statement must not take long to look at.
_COMMENT = r"--[^\n]*|/\*(?:[^*]|\*(?!/))*\*/"
_QUOTED = re.compile(rf"""'[^']*'|"[^"]*"|\$(\w*)\$.*?\$\1\$|{_COMMENT}""", re.DOTALL)
_FIRST_WORD = re.compile(rf"(?:\s|\(|{_COMMENT})*([a-z]+)")
_SET = re.compile(
    r'\s+(?:session\s+(?!authorization\b|characteristics\b))?"?(session\s+\w+|[\w.]+)'
)
_TO_DEFAULT = re.compile(r"(?:=|\bto)\s*default\s*$")
_LISTEN = re.compile(r'\s+("[^"]*"|\w+)')
_HOLD = re.compile(r'\s+("[^"]*"|\w+)\s[\w\s]*?\bcursor\s+with\s+hold\b')
_TEMPORARY = re.compile(
    r"\s+(?:or\s+replace\s+)?(?:global\s+|local\s+)?temp(?:orary)?\s+"
    r'(?:recursive\s+|unlogged\s+)?(\w+\s+(?:if\s+not\s+exists\s+)?(?:"[^"]*"|[\w.]+))'
)
_IN_PG_TEMP = re.compile(r"\s+(\w+\s+(?:if\s+not\s+exists\s+)?pg_temp\.\S+)")
_INTO_TEMPORARY = re.compile(
    r'\binto\s+(?:global\s+|local\s+)?temp(?:orary)?\s+(?:table\s+)?("[^"]*"|[\w.]+)'
)
_LOCK = re.compile(r"\bpg_(?:try_)?advisory_lock(?:_shared)?(?=\s*\()")
_SET_CONFIG = re.compile(r"\bset_config\s*\(\s*('[^']*'|[^,]+),[^;]*?,\s*(?:false|'f(?:alse)?')")
_PLAIN_NAME = re.compile(r"[\w.$]+")


def left_behind(query: bytes) -> Trace | None:
    """Return what *query* leaves in its session, or ``None``. Remembered for short statements."""
    return _remembered(query) if len(query) <= LOOKED_AT else _find(query[:LOOKED_AT])


def _find(query: bytes) -> Trace | None:
    text = query.decode("latin1").lower().rstrip("; \n")
    if ";" in text:
        text = _QUOTED.sub(lambda quoted: quoted[0].replace(";", " "), text)
    for statement in text.split(";"):
        first = _FIRST_WORD.match(statement)
        trace = first and _trace(first[1], statement[first.end() :])
        if trace:
            return trace
    return None


_remembered = lru_cache(maxsize=512)(_find)


def _trace(word: str, rest: str) -> Trace | None:
    """Return the trace of the statement that begins with *word* and goes on with *rest*."""
    if word in ("select", "with", "values"):
        return _trace_of_query(rest)
    if word == "set":
        match = _SET.match(rest)
        if match and match[1] not in _TRACKED | _NO_SETTINGS and not _TO_DEFAULT.search(rest):
            return Trace(SETTING, f"SET {match[1]}")
    elif word == "listen":
        match = _LISTEN.match(rest)
        if match:
            return Trace(LISTENING, f"LISTEN {match[1]}")
    elif word == "declare":
        match = _HOLD.match(rest)
        if match:
            return Trace(HELD_CURSOR, f"DECLARE {match[1]} CURSOR WITH HOLD")
    elif word == "create":
        match = _TEMPORARY.match(rest) or _IN_PG_TEMP.match(rest)
        if match and "on commit drop" not in " ".join(rest.split()):
            return Trace(TEMPORARY_TABLE, f"CREATE TEMPORARY {match[1]}")
    return None


def _trace_of_query(rest: str) -> Trace | None:
    # Looking for a plain substring first is what keeps this cheap for nearly all statements.
    if "advisory_lock" in rest and (match := _LOCK.search(rest)):
        return Trace(ADVISORY_LOCK, f"{match[0]}(...)")
    if "set_config" in rest and (match := _SET_CONFIG.search(rest)):
        name = match[1].strip("' ")
        if not _PLAIN_NAME.fullmatch(name):
            name = "..."  # an expression may have a value in it
        if name not in _TRACKED:
            return Trace(SETTING, f"set_config({name}, ..., false)")
    if "temp" in rest and (match := _INTO_TEMPORARY.search(rest)):
        return Trace(TEMPORARY_TABLE, f"SELECT INTO TEMPORARY {match[1]}")
    return None
