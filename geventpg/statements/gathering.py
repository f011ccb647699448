"""Taking in many answers at a time instead of two or three.

A server that is about as fast as its client sends its answers one by one, and each wakes the
client: the event loop's round then costs more than the answers. While the server has many
statements ahead of it and is quick with them, the socket counts as readable only when some
answers are there (SO_RCVLOWAT, see socket(7)).

That must never be more than what is certain to come. The first of them waits for half a
millisecond at most; if the server is slow all at once, until the timer that looks for slow
statements.
"""

from __future__ import annotations

from geventpg.hub import Watch

_HANDFUL = 800
"""Bytes: eight to ten answers of one row, and no more than 28 of the shortest ones."""

_MOST = 3
"""Handfuls that are worth waiting for. More of them save nothing that can be measured."""

_LEAST = 29
"""Bytes of the shortest answer: BindComplete, NoData, "MERGE 0" and ReadyForQuery."""

_QUICK = 0.00005
"""Seconds for each answer up to which one handful is worth it."""


class Gathering:
    """How many answers of one connection are waited for at once."""

    __slots__ = ("handfuls", "watch")

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.handfuls = 0
        """0: each one that comes wakes the hub."""

    def consider(self, outstanding: int, seconds: float) -> None:
        """Choose: so many statements are the server's, so long took the last ones each.

        Does not block.
        """
        # Of the first answer all but a byte may have been read.
        certain = (outstanding - 1) * _LEAST // _HANDFUL
        handfuls = max(0, min(certain, int(_QUICK / max(seconds, 1e-6)), _MOST))
        if handfuls != self.handfuls:
            self._choose(handfuls)

    def stop(self) -> None:
        """Have what is there, and each answer that comes, wake the hub. Does not block."""
        if self.handfuls:
            self._choose(0)

    def _choose(self, handfuls: int) -> None:
        chosen = self.watch.wait_for_bytes(handfuls * _HANDFUL or 1)
        self.handfuls = handfuls if chosen else 0
