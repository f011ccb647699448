"""Which statements take the server so long that they are better not sent with others.

Statements of one connection are executed one after the other: those that take the server long
would take turns there, where on connections of their own they run at the same time. What they
take is seen on the way, by the text without the comments around it. It is a guess, and it is
corrected on the way too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan

COSTLY = 0.002
"""Seconds of the server's time that make a statement costly if it takes them several times."""

SLOW = 0.05
"""Seconds of the server's time that make a statement costly at once."""

_STRIKES = 5
_FIRST_PENALTY, _LONGEST_PENALTY = 4, 256
_MOST_REMEMBERED = 512


class Costs:
    """What is known of the statements of one pool.

    A statement that was costly is executed alone for a number of times, then one is tried with
    others again. That number doubles each time that the trial goes wrong, and is dropped when
    a trial goes well, so that a machine that stood still for a moment does no lasting harm. One
    at a time is tried: of a hundred greenlets with the same statement, all others would be
    delayed by it.
    """

    __slots__ = ("_levels", "_tried", "penalties", "suspects")

    def __init__(self) -> None:
        self.penalties: dict[bytes, int] = {}
        """For each costly text the number of executions until the next trial."""
        self._levels: dict[bytes, int] = {}
        self._tried: dict[bytes, None] = {}
        """Texts of which one is being tried."""
        self.suspects: dict[bytes, int] = {}
        """For each text that was costly, how often in a row; 0 for those that had penalties. Of
        these texts the quick executions are noted, too."""

    def note(self, plan: Plan | None, seconds: float) -> None:
        """Note what a statement took that was sent with others."""
        if plan is None:
            return
        text = plan.essence
        if seconds <= COSTLY:
            if text in self.penalties and text not in self._tried:
                self.suspects[text] = 0  # it was sent before it had them
            else:
                for texts in (self.penalties, self._levels, self._tried, self.suspects):
                    texts.pop(text, None)
            return
        strikes = self.suspects.get(text, 0) + 1
        if seconds > SLOW or strikes >= _STRIKES or text in self._tried:
            self.penalise(text)
        else:
            _make_room(self.suspects)
            self.suspects[text] = strikes

    def goes_alone(self, text: bytes) -> bool:
        """Tell whether a statement is to have a connection of its own this time."""
        penalty = self.penalties.get(text)
        if penalty is None:
            return False
        if penalty > 1:
            self.penalties[text] = penalty - 1
            return True
        # If this one has no answer, because its greenlet is killed, another is tried then.
        self.penalties[text] = _FIRST_PENALTY
        _make_room(self._tried)
        self._tried[text] = None
        return False

    def alone(self, text: bytes, seconds: float) -> None:
        """Note what a statement took on a connection of its own."""
        if seconds > SLOW and text in self._levels:
            self.penalties[text] = self._levels[text]  # no trial is needed to know
            self._tried.pop(text, None)

    def penalise(self, text: bytes) -> None:
        """Have the next executions of a statement take connections of their own."""
        for texts in (self.penalties, self._levels, self.suspects):
            _make_room(texts)
        level = min(max(2 * self._levels.get(text, 0), _FIRST_PENALTY), _LONGEST_PENALTY)
        self.penalties[text] = self._levels[text] = level
        self.suspects[text] = 0
        self._tried.pop(text, None)


def _make_room(texts: dict[bytes, Any]) -> None:
    if len(texts) >= _MOST_REMEMBERED:
        del texts[next(iter(texts))]
