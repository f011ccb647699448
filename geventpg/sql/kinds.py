"""What kind of statement a text is: by its first word, and by the next ones where they matter."""

from __future__ import annotations

import re
from enum import Enum
from itertools import islice

from .lexer import COMMENT, STRING, WORD, lex


class Kind(Enum):
    """Kinds of statements, as far as the way they are executed depends on it."""

    NOTHING = "nothing"
    """There is no statement: the text is empty, or has nothing but comments."""
    QUERY = "query"
    """It reads or writes rows. libpq's pipeline mode is certain to accept it."""
    TRANSACTION = "transaction"
    """It begins a transaction, or ends one."""
    SAVEPOINT = "savepoint"
    """It makes a savepoint, releases it, or rolls back to it."""
    COPY = "copy"
    """COPY from or to the client, which pipeline mode does not have."""
    SERVER_COPY = "server copy"
    """COPY from or to a file or a program of the server."""
    SESSION = "session"
    """It is about the session: executed on another connection it would mean something else."""
    OTHER = "other"


_KINDS_BY_WORD = {
    **dict.fromkeys(
        (b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"MERGE", b"WITH", b"VALUES", b"TABLE"),
        Kind.QUERY,
    ),
    **dict.fromkeys((b"BEGIN", b"START", b"END", b"ABORT"), Kind.TRANSACTION),
    **dict.fromkeys((b"SAVEPOINT", b"RELEASE"), Kind.SAVEPOINT),
    **dict.fromkeys(
        (b"SET", b"RESET", b"LISTEN", b"UNLISTEN", b"DISCARD", b"DEALLOCATE", b"DECLARE"),
        Kind.SESSION,
    ),
}
_KNOWN = {word: (kind, word.decode()) for word, kind in _KINDS_BY_WORD.items()}
_AMBIGUOUS = frozenset({b"COMMIT", b"ROLLBACK", b"PREPARE", b"COPY"})
"""Words that begin statements of several kinds."""

_FIRST_WORD = re.compile(rb"[ \t\n\r\f\v(]*([A-Za-z_\x80-\xff][0-9$A-Za-z_\x80-\xff]*)")


def kind_of(statement: bytes) -> tuple[Kind, str]:
    """Return the kind of a statement that no comment precedes, and its first word."""
    # Nearly all statements begin with a known word and a blank.
    known = _KNOWN.get(statement.split(None, 1)[0].upper()) if statement else None
    if known is not None:
        return known
    first = _FIRST_WORD.match(statement)
    if first is not None:
        word = first[1].upper()
    elif statement.startswith(b"("):  # comments follow
        word = next(iter(words_of(statement)), b"")
    else:
        return Kind.OTHER if statement else Kind.NOTHING, ""
    known = _KNOWN.get(word)
    if known is not None:
        return known
    kind = _kind_by_next_words(statement) if word in _AMBIGUOUS else Kind.OTHER
    return kind, word.decode(errors="replace")


def words_of(statement: bytes, most: int | None = None) -> list[bytes]:
    """Return the key words and unquoted names of a statement, in upper case."""
    words = (statement[start:end].upper() for kind, start, end in lex(statement) if kind == WORD)
    return list(islice(words, most))


def _kind_by_next_words(statement: bytes) -> Kind:
    word, *rest = words_of(statement, 3)
    following = rest[:1]
    if word == b"COPY":
        return _kind_of_copy(statement)
    if word == b"PREPARE":
        return Kind.TRANSACTION if following == [b"TRANSACTION"] else Kind.SESSION
    if following == [b"PREPARED"]:
        return Kind.OTHER  # it ends a transaction of another session
    if following in ([b"WORK"], [b"TRANSACTION"]):
        following = rest[1:]
    return Kind.SAVEPOINT if word == b"ROLLBACK" and following == [b"TO"] else Kind.TRANSACTION


def _kind_of_copy(statement: bytes) -> Kind:
    """Look for the place that COPY copies from or to: STDIN, STDOUT, or a string."""
    depth = 0
    previous = b""
    for kind, start, end in lex(statement):
        if kind == COMMENT:
            continue
        text = statement[start:end].upper()
        if text == b"(":
            depth += 1
        elif text == b")":
            depth -= 1
        elif not depth and previous in (b"FROM", b"TO"):
            return Kind.SERVER_COPY if kind == STRING or text == b"PROGRAM" else Kind.COPY
        previous = text
    return Kind.COPY
