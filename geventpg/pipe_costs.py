"""Which statements cost the server so much time that they are better not sent with others.

Statements of one connection are executed one after the other: those that take the server long
would take turns there, where on connections of their own they run at the same time. What they
take is seen on the way, by the text. It is a guess, and it is corrected on the way too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .statement_plan import Plan

COSTLY = 0.002
"""Seconds of the server, several times in a row, that make a statement costly."""

SLOW = 0.05
"""Seconds of the server that do so at once."""

_STRIKES = 5
_FIRST_PENALTY, _LONGEST_PENALTY = 4, 256
_MOST_REMEMBERED = 512


class Costs:
    """What is known of the statements of one pool.

    A statement that was costly is executed alone for a number of times, then tried with others
    again. That number doubles each time that the trial goes wrong, and is forgotten when one goes
    well: so a machine that stood still for a moment does no lasting harm.
    """

    __slots__ = ("_levels", "penalties", "suspects")

    def __init__(self) -> None:
        self.penalties: dict[str, int] = {}
        """Texts that are costly: how many executions have to go by until the next trial."""
        self._levels: dict[str, int] = {}
        self.suspects: dict[str, int] = {}
        """Texts that were costly: how often in a row, 0 for those that had penalties. It is worth
        knowing of them that they did not take long."""

    def note(self, plan: Plan | None, seconds: float) -> None:
        """Note what a statement took that was sent with others."""
        if plan is None:
            return
        text = plan.text
        if seconds <= COSTLY:
            if text in self.penalties:
                self.suspects[text] = 0
            else:
                self.suspects.pop(text, None)
                self._levels.pop(text, None)
            return
        strikes = self.suspects.get(text, 0) + 1
        if seconds > SLOW or strikes >= _STRIKES:
            self.penalise(text)
        else:
            _make_room(self.suspects)
            self.suspects[text] = strikes

    def goes_alone(self, text: str) -> bool:
        """Tell whether a statement is to have a connection of its own this time."""
        penalty = self.penalties.get(text)
        if penalty is None:
            return False
        if penalty > 1:
            self.penalties[text] = penalty - 1
        else:
            del self.penalties[text]
        return True

    def alone(self, text: str, seconds: float) -> None:
        """Note what a statement took on a connection of its own."""
        if seconds > SLOW and text in self._levels:
            self.penalties[text] = self._levels[text]  # no trial is needed to know

    def penalise(self, text: str) -> None:
        """Have the next executions of a statement take connections of their own."""
        for texts in (self.penalties, self._levels, self.suspects):
            _make_room(texts)
        level = min(max(2 * self._levels.get(text, 0), _FIRST_PENALTY), _LONGEST_PENALTY)
        self.penalties[text] = self._levels[text] = level
        self.suspects[text] = 0


def _make_room(texts: dict[str, int]) -> None:
    if len(texts) >= _MOST_REMEMBERED:
        del texts[next(iter(texts))]
