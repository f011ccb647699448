"""The lexer: it cuts the text of statements into tokens where PostgreSQL's own scanner does.

It reads bytes. As for the server, each byte above 0x7f is a letter. Spaces and operators are not
among the tokens. A string or a comment that never ends goes on to the end of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COMMENT = "comment"
STRING = "string"
NUMBER = "number"
PARAMETER = "parameter"
WORD = "word"
"""A key word, or a name without quotes."""
NAME = "name"
"""A name in double quotes."""
MARK = "mark"
"""One of ``; , . = ( )``."""

BLANKS = b" \t\n\r\f\v"
_BLANK = rb"[ \t\n\r\f\v]"
_LINE_COMMENT = rb"--[^\n\r]*"
_LETTER = rb"A-Za-z_\x80-\xff"


Token = tuple[str, int, int]
"""The kind of a token, and the places in the text where it begins and ends."""


def _strings(prefix: bytes, inside: bytes) -> bytes:
    """Return the pattern of strings that begin with *prefix* and consist of *inside*.

    After a line break, the string goes on at the next quote. No pattern here can match the same
    text in two ways, and each takes what is there up to the end: none of them backtracks.
    """
    body = rb"'(?:" + inside + rb")*(?:'|\Z)"
    line_break = (
        rb"[ \t\f\v]*(?:" + _LINE_COMMENT + rb")?[\n\r]"
        rb"(?:" + _BLANK + rb"|" + _LINE_COMMENT + rb"[\n\r])*"
    )
    return prefix + body + rb"(?:" + line_break + body + rb")*"


_DOUBLED = rb"[^']+|''"
_ESCAPED = rb"[^'\\]+|\\(?:.|\Z)|''"


def _pattern(plain: bytes) -> re.Pattern[bytes]:
    """Return the pattern of all tokens; strings without a prefix consist of *plain*."""
    return re.compile(
        rb"(?P<comment>" + _LINE_COMMENT + rb")|(?P<block>/\*)"
        rb"|(?P<string>"
        + _strings(rb"[eE]", _ESCAPED)
        + rb"|"
        + _strings(rb"(?:[bBxX]|[uU]&)", _DOUBLED)
        + rb"|"
        + _strings(rb"[nN]?", plain)
        + rb"|\$(?P<tag>(?:["
        + _LETTER
        + rb"][0-9"
        + _LETTER
        + rb"]*)?)\$.*?(?:\$(?P=tag)\$|\Z))"
        rb'|(?P<name>(?:[uU]&)?"(?:[^"]+|"")*(?:"|\Z))'
        rb"|(?P<word>[" + _LETTER + rb"][0-9$" + _LETTER + rb"]*)"
        rb"|(?P<parameter>\$[0-9]+)"
        rb"|(?P<number>\.?[0-9](?:[eE][-+]?[0-9]|[0-9." + _LETTER + rb"])*)"
        rb"|(?P<mark>[;,.=()])",
        re.DOTALL,
    )


_STANDARD = _pattern(_DOUBLED)
_ESCAPING = _pattern(_ESCAPED)

_COMMENT_EDGE = re.compile(rb"/\*|\*/")

# What may be in front of a statement, and how that can begin.
_AROUND = BLANKS + b";"
_BEFORE = re.compile(rb"(?:[ \t\n\r\f\v;]+|" + _LINE_COMMENT + rb")*")
_STARTS = b"/*", b"--", *(_AROUND[at : at + 1] for at in range(len(_AROUND)))


def lex(text: bytes, *, standard_strings: bool = True) -> Iterator[Token]:
    """Yield the tokens of *text*.

    *standard_strings* is the session's ``standard_conforming_strings``: if it is off, a backslash
    in a string without a prefix escapes the next character.
    """
    scan = (_STANDARD if standard_strings else _ESCAPING).finditer
    start = 0
    while True:
        for match in scan(text, start):
            kind = match.lastgroup
            if kind == "block":
                start = end_of_comment(text, match.start())
                yield COMMENT, match.start(), start
                break
            yield kind, match.start(), match.end()  # type: ignore[misc]  # all groups have names
        else:
            return


def end_of_comment(text: bytes, start: int) -> int:
    """Return where the block comment ends that begins at *start*. Comments nest."""
    end = text.find(b"*/", start + 2)
    if end < 0:
        return len(text)
    if text.find(b"/*", start + 2, end + 1) < 0:  # nearly always
        return end + 2
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == b"/*" else -1
        if not depth:
            return edge.end()
    return len(text)


def first_difference(text: bytes) -> int | None:
    """Return where the two settings of ``standard_conforming_strings`` begin to differ.

    Up to there the text has the same tokens for both of them; ``None``: all of it has. In an
    encoding other than UTF-8 a byte that looks like a backslash may be part of a character:
    what follows one is not certain either.
    """
    backslash = text.find(b"\\")
    if backslash < 0:
        return None
    try:
        text.decode()
    except UnicodeDecodeError:
        return backslash
    others = lex(text, standard_strings=False)
    for token in lex(text):
        if token != next(others, None):
            return token[1]
    return None


def essence(text: bytes) -> bytes:
    """Return *text* without blanks, semicolons and comments in front of it and behind it."""
    text = text.strip(_AROUND)
    start = 0
    while text.startswith(_STARTS, start):
        if text.startswith(b"/*", start):
            start = end_of_comment(text, start)
        else:
            before = _BEFORE.match(text, start)
            assert before is not None  # it matches nothing, too
            start = before.end()
    if start:
        text = text[start:]
    while (end := _start_of_last_comment(text)) is not None:
        text = text[:end].rstrip(_AROUND)
    return text


def _start_of_last_comment(text: bytes) -> int | None:
    """Return where the comment begins that *text* ends with, ``None`` if it ends with none.

    Looking from the end is enough: if what looks like the start of a comment is inside a string,
    the string has to end behind it. Else the text is not valid SQL, and what it is cut into does
    not matter.
    """
    if text.endswith(b"*/"):
        start = text.rfind(b"/*", 0, len(text) - 2)
        return start if start >= 0 and b"*/" not in text[start + 2 : -2] else _last_by_lexer(text)
    start = text.rfind(b"--")
    if start < 0:
        return None
    rest = text[start:]
    if b"\n" in rest or b"\r" in rest or b"*/" in rest:
        return None
    if b"'" in rest or b'"' in rest or b"$" in rest:
        return _last_by_lexer(text)
    while start and text[start - 1 : start] == b"-":
        start -= 1
    return start


def _last_by_lexer(text: bytes) -> int | None:
    if first_difference(text) is not None:
        return None
    kind, start, end = "", 0, 0
    for kind, start, end in lex(text):  # noqa: B007  # the last one is what is wanted
        pass
    return start if kind == COMMENT and end == len(text) else None


_BLOCK_KEYWORDS = frozenset({b"BEGIN", b"CASE", b"END"})


def split(text: bytes, *, standard_strings: bool = True) -> list[bytes]:
    """Return the statements of *text*, each without comments around it; empty ones are left out.

    A semicolon in parentheses (CREATE RULE) or between BEGIN ATOMIC and END (the body of a
    function) does not end a statement.
    """
    statements: list[bytes] = []
    start = parentheses = blocks = 0
    words: list[bytes] = []
    for kind, token_start, token_end in lex(text, standard_strings=standard_strings):
        if kind == WORD:
            word = text[token_start:token_end].upper()
            if len(words) < 4:
                words.append(word)
            if word in _BLOCK_KEYWORDS and not parentheses and _makes_routine(words):
                # As in psql: CASE ends with END, too.
                if word == b"BEGIN" or (word == b"CASE" and blocks):
                    blocks += 1
                elif word == b"END" and blocks:
                    blocks -= 1
        elif kind == MARK:
            mark = text[token_start:token_end]
            if mark == b"(":
                parentheses += 1
            elif mark == b")":
                parentheses -= parentheses > 0
            elif mark == b";" and not parentheses and not blocks:
                statements.append(essence(text[start:token_start]))
                start = token_end
                words = []
    statements.append(essence(text[start:]))
    return [statement for statement in statements if statement]


def _makes_routine(words: list[bytes]) -> bool:
    """Tell whether a statement makes a function or procedure, by its first four words."""
    if words[1:3] == [b"OR", b"REPLACE"]:
        words = words[2:]
    return words[1:2] in ([b"FUNCTION"], [b"PROCEDURE"])
