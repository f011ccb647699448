"""The one answer for each text: `read` gives a `Reading`, and keeps it in a bounded cache."""

from __future__ import annotations

import re

from .kinds import Kind, kind_of
from .lexer import BLANKS, PARAMETER, essence, first_difference, lex, split
from .recent import Recent
from .sanitize import summary_of, without_literals
from .session_effects import Effect, effects_of

LONGEST = 4096
"""How many bytes of a text are read with care. A reading of a longer text is not kept either."""

_PARAMETER = re.compile(rb"\$[0-9]")


class Reading:
    """What a text says, without what the server knows. It never changes.

    Texts that differ only in blanks, semicolons and comments in front of the first statement and
    behind the last one have the same reading.
    """

    __slots__ = (
        "_certain_until",
        "_effects",
        "_is_plain",
        "_others",
        "_summary",
        "_without_literals",
        "essence",
        "kind",
        "word",
    )

    def __init__(self, text: bytes) -> None:
        beginning = text[:LONGEST]
        self.essence = beginning
        """The text without what is around it; of a long one, `LONGEST` bytes."""
        self._others: list[bytes] = []
        """The statements behind the first one."""
        if b";" in beginning:
            beginning, *self._others = split(beginning) or [b""]
        self.kind, self.word = kind_of(beginning)
        """The kind of the first statement, and its first word in upper case."""
        self._certain_until = first_difference(self.essence) if b"\\" in self.essence else None
        self._effects: tuple[Effect, ...] | None = None
        self._is_plain: bool | None = None
        """Whether it is one query, and has no parameters; ``None``: it was not asked so far."""
        if len(text) > LONGEST:  # one look, without the lexer
            special = any(byte in text for byte in (b";", b"$", b"\\"))
            self._is_plain = self.kind is Kind.QUERY and not special
            if self._certain_until is None:
                self._certain_until = LONGEST
        self._without_literals: str | None = None
        self._summary: str | None = None

    @property
    def statements(self) -> list[tuple[Kind, str]]:
        """The kind and the first word of each statement of the text."""
        return [(self.kind, self.word), *map(kind_of, self._others)]

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What the text leaves in its session."""
        effects = self._effects
        if effects is None:
            first = split(self.essence)[0] if self._others else self.essence
            effects = effects_of(first, self.word)
            for statement in self._others:
                effects += effects_of(statement, kind_of(statement)[1])
            self._effects = effects
        return effects

    def pipelines(self, *, has_params: bool) -> bool:
        """Tell whether the text may be executed in pipeline mode, and means the same there."""
        # With parameters psycopg uses the extended protocol anyway, which takes one statement and
        # gives "$1" a meaning; without, it must not make a difference.
        if has_params:
            return self.kind is Kind.QUERY
        if self._is_plain is None:
            self._is_plain = self._looks_plain()
        return self._is_plain

    def may_share(self, *, has_params: bool) -> bool:
        """Tell whether the text may be sent on a connection that others use at the same time."""
        return not self.effects and self.pipelines(has_params=has_params)

    @property
    def without_literals(self) -> str:
        """The text with ``?`` for each literal and without comments.

        It ends with "…" where `LONGEST` bytes end, or where it is not certain what is a literal:
        behind a backslash, that depends on the session's ``standard_conforming_strings``.
        """
        shown = self._without_literals
        if shown is None:
            shown = self._without_literals = without_literals(self.essence, self._certain_until)
        return shown

    @property
    def summary(self) -> str:
        """The first word and what the statement works on: ``SELECT orders``."""
        if self._summary is None:
            self._summary = summary_of(self.essence, self.word)
        return self._summary

    def _looks_plain(self) -> bool:
        if self.kind is not Kind.QUERY or self._others or self._certain_until is not None:
            return False
        text = self.essence
        if b"$" not in text or _PARAMETER.search(text) is None:
            return True
        return all(kind != PARAMETER for kind, _, _ in lex(text))


_readings: Recent[Reading] = Recent(entries=512, size=1 << 20)

# By whole texts, for those that share a reading with others because of their comments. A tracing
# tool may write another comment each time: that must not push out what is in the other one.
_commented: Recent[Reading] = Recent(entries=128, size=1 << 18)


def read(query: bytes) -> Reading:
    """Return the reading of *query*, as it is sent to the server. Does not block."""
    reading = _readings.get(query)
    return _read_anew(query) if reading is None else reading


def read_text(text: str) -> Reading:
    """Return the reading of *text*: as it was written, or as the server shows it."""
    return read(text.encode(errors="replace"))


def _read_anew(query: bytes) -> Reading:
    """Return the reading of a text that is not known in exactly this form."""
    reading = _commented.get(query)
    if reading is not None:
        return reading
    if not isinstance(query, bytes):  # psycopg passes on what a user gave it
        raise TypeError(f"a statement cannot be of the type {type(query).__name__}")
    text = essence(query)
    if len(text) > LONGEST:
        return Reading(text)
    reading = None if text == query else _readings.get(text)
    if reading is None:
        reading = Reading(text)
        _readings.put(text, reading)
    if query != text and len(query) <= LONGEST:
        has_comments = query.strip(BLANKS + b";") != text
        (_commented if has_comments else _readings).put(query, reading)
    return reading
