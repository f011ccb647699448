"""What a statement leaves in its session, which a pooler may take away.

Only what fails silently is looked for. What is read is the text of the statement, so what
functions and ``DO`` blocks do inside remains unknown.
"""

from __future__ import annotations

from typing import NamedTuple

from .lexer import COMMENT, MARK, NAME, STRING, WORD, lex


class Lasting(NamedTuple):
    """One kind of session state: what becomes of it between two transactions, and what to do."""

    fate: str
    remedy: str


class Effect(NamedTuple):
    """Something that a statement leaves, and that outlives its transaction."""

    lasting: Lasting
    name: str
    """The statement as far as it can be shown: without values, which may be secret."""


SETTING = Lasting(
    "the setting goes to the client that gets the server connection next, and is lost for this one",
    "use SET LOCAL (set_config(..., true)) in the transaction, or ALTER ROLE ... SET",
)
LISTENING = Lasting(
    "it listens on a server connection that another client gets next, and hears nothing",
    "LISTEN on a connection of its own that leads to the server directly",
)
ADVISORY_LOCK = Lasting(
    "the lock stays with the server connection: another client may find it its own, and unlocking"
    " may fail",
    "use pg_advisory_xact_lock in the transaction",
)
HELD_CURSOR = Lasting(
    "the cursor is not there after its transaction, and stays open on the server connection",
    "fetch from a cursor without hold inside the transaction",
)
TEMPORARY_TABLE = Lasting(
    "the table is not there for the next transaction, and is in the way of another client's",
    "create it with ON COMMIT DROP and use it in that transaction only",
)
PREPARED_STATEMENT = Lasting(
    "the prepared statement is not there for the next transaction, and its name is taken for"
    " another client",
    "leave preparing to the driver, which does it in the protocol",
)

# Reported by the server when they change, therefore kept for each client by PgBouncer:
# https://www.pgbouncer.org/config.html#track_extra_parameters
_TRACKED = frozenset(
    {b"application_name", b"client_encoding", b"datestyle", b"standard_conforming_strings"}
    | {b"timezone", b"time zone", b"names"}
)
_LOCKS = frozenset(
    b"pg_" + attempt + b"advisory_lock" + shared
    for attempt in (b"", b"try_")
    for shared in (b"", b"_shared")
)
_FALSE = frozenset({b"false", b"'f'", b"'false'", b"'off'", b"'no'", b"'n'", b"'0'", b"0"})

# The words that begin statements whose functions are executed.
_EXECUTED = frozenset(
    {"SELECT", "WITH", "VALUES", "INSERT", "UPDATE", "DELETE", "MERGE", "CALL", "COPY"}
)
_OWN = frozenset({"SET", "LISTEN", "DECLARE", "CREATE", "PREPARE"})
"""Words that begin statements with effects of their own."""

# What may follow the target of INTO, and cannot be the name of a table.
_AFTER_TARGET = frozenset(
    {b"from", b"where", b"group", b"having", b"window", b"union", b"intersect", b"except"}
    | {b"order", b"limit", b"offset", b"fetch", b"for", b"on"}
)

Parts = list[tuple[str, bytes]]
"""The tokens of a statement without comments: the kind, and the text with its words in lower case.

A last one, which is empty, saves asking for the end.
"""


def effects_of(statement: bytes, word: str) -> tuple[Effect, ...]:
    """Return what a statement leaves in its session. *word* is its first word."""
    if word in _OWN:
        effect = _effect(word, _parts(statement))
        return () if effect is None else (effect,)
    if word in _EXECUTED:
        # Looking for these first is what keeps this cheap for nearly all statements.
        lower = statement.lower()
        if b"advisory_lock" in lower or b"set_config" in lower or b"temp" in lower:
            return tuple(_effects_of_query(_parts(statement)))
    return ()


def _parts(statement: bytes) -> Parts:
    parts = [
        (kind, statement[start:end].lower() if kind == WORD else statement[start:end])
        for kind, start, end in lex(statement)
        if kind != COMMENT
    ]
    while parts and parts[0][1] == b"(":
        del parts[0]
    return [*parts, (MARK, b"")]


def _effect(word: str, parts: Parts) -> Effect | None:
    if word == "SET":
        return _effect_of_set(parts)
    if word == "CREATE":
        return _effect_of_create(parts)
    name = _shown(parts[1:])
    if not name:
        return None
    if word == "LISTEN":
        return Effect(LISTENING, f"LISTEN {name}")
    if word == "PREPARE":
        is_transaction = parts[1][1] == b"transaction"
        return None if is_transaction else Effect(PREPARED_STATEMENT, f"PREPARE {name}")
    texts = [text for _, text in parts]
    if _follow(texts, [b"cursor", b"with", b"hold"]):
        return Effect(HELD_CURSOR, f"DECLARE {name} CURSOR WITH HOLD")
    return None


def _effect_of_set(parts: Parts) -> Effect | None:
    rest = parts[1:]
    if rest[0][1] == b"session" and rest[1][1] not in (b"authorization", b"characteristics"):
        del rest[0]
    texts = [text for _, text in rest]
    # SET LOCAL, SET TRANSACTION and SET CONSTRAINTS end with their transaction.
    if texts[0] in (b"local", b"transaction", b"constraints", b""):
        return None
    two = texts[0] in (b"session", b"time", b"xml")  # their names are two words
    name = b" ".join(texts[:2]) if two else _name(rest)
    setting = name.replace(b'"', b"").lower()
    resets = texts[-2] == b"default" or (setting == b"role" and texts[-2] == b"none")
    if not name or setting in _TRACKED or resets:
        return None
    return Effect(SETTING, f"SET {setting.decode(errors='replace')}")


def _effect_of_create(parts: Parts) -> Effect | None:
    texts = [text for _, text in parts]
    if _follow(texts, [b"on", b"commit", b"drop"]):
        return None
    at = 1
    if texts[at : at + 2] == [b"or", b"replace"]:
        at += 2
    is_temporary = False
    while texts[at] in (b"global", b"local", b"temp", b"temporary", b"recursive", b"unlogged"):
        is_temporary = is_temporary or texts[at].startswith(b"temp")
        at += 1
    what = texts[at].decode(errors="replace").upper()
    at += 1
    if texts[at : at + 3] == [b"if", b"not", b"exists"]:
        at += 3
    name = _shown(parts[at:])
    if name and (is_temporary or texts[at : at + 2] == [b"pg_temp", b"."]):
        return Effect(TEMPORARY_TABLE, f"CREATE TEMPORARY {what} {name}")
    return None


def _effects_of_query(parts: Parts) -> list[Effect]:
    effects: list[Effect] = []
    for at, (kind, text) in enumerate(parts):
        if kind not in (WORD, NAME):
            continue
        function = text.strip(b'"')
        called = parts[at + 1][1] == b"("
        if called and function in _LOCKS:
            effects.append(Effect(ADVISORY_LOCK, f"{function.decode()}(...)"))
        elif called and function == b"set_config":
            effect = _effect_of_set_config(parts[at + 2 :])
            if effect is not None:
                effects.append(effect)
        elif text == b"into" and parts[at - 1][1] not in (b"insert", b"merge"):
            name = _temporary_target(parts[at + 1 :])
            if name:
                effects.append(Effect(TEMPORARY_TABLE, f"SELECT INTO TEMPORARY {name}"))
    return effects


def _effect_of_set_config(parts: Parts) -> Effect | None:
    """Return the effect of ``set_config`` by its arguments, which begin *parts*."""
    arguments: list[Parts] = [[]]
    depth = 0
    for part in parts:
        if part[1] == b")" and not depth:
            break
        depth += (part[1] == b"(") - (part[1] == b")")
        if part[1] == b"," and not depth:
            arguments.append([])
        else:
            arguments[-1].append(part)
    if len(arguments) != 3 or not arguments[2] or arguments[2][0][1].lower() not in _FALSE:
        return None
    if len(arguments[2]) > 1 and arguments[2][1][1] not in (b"bool", b"boolean"):
        return None  # it may become true
    setting = b"..."  # an expression may have a value in it
    if len(arguments[0]) == 1:
        kind, text = arguments[0][0]
        setting = text[1:-1].lower() if kind == STRING and text.startswith(b"'") else text
        if kind == STRING and not setting.replace(b".", b"").replace(b"_", b"").isalnum():
            setting = b"..."
    if setting in _TRACKED:
        return None
    return Effect(SETTING, f"set_config({setting.decode(errors='replace')}, ..., false)")


def _temporary_target(parts: Parts) -> str:
    """Return the temporary table that begins *parts*, which follow INTO; else an empty string."""
    texts = [text for _, text in parts]
    at = 1 if texts[0] in (b"local", b"global") else 0
    if texts[at] not in (b"temp", b"temporary") or texts[at + 1] in _AFTER_TARGET:
        return ""
    at += 1 + (texts[at + 1] == b"table")
    return _shown(parts[at:])


def _name(parts: Parts) -> bytes:
    """Return the name, with its schema, that begins *parts*; empty if none does."""
    name = b""
    for kind, text in parts:
        wanted = kind in (WORD, NAME) if not name or name.endswith(b".") else text == b"."
        if not wanted:
            break
        name += text
    return name


def _shown(parts: Parts) -> str:
    return _name(parts).decode(errors="replace")


def _follow(texts: list[bytes], wanted: list[bytes]) -> bool:
    """Tell whether the texts *wanted* follow one another among *texts*."""
    return any(texts[at : at + len(wanted)] == wanted for at in range(len(texts)))
