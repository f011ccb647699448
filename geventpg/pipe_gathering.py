"""Taking in several answers at a time instead of two or three.

A server that is about as fast as its client sends its answers one by one, and each wakes the
client: the event loop's round then costs more than the answers. While the server has many
statements ahead of it and is quick with them, the socket counts as readable only when a handful
of answers are there (SO_RCVLOWAT, see socket(7)).

That must never be more than what is certain to come. It is a quarter of a millisecond's wait for
the first of them, or so; if the server is slow all at once, it is ended by the timer that looks
for slow statements.
"""

from __future__ import annotations

from .hub import Watch

_HANDFUL = 800
"""Bytes: eight to ten answers of one row."""

_LEAST = 29
"""Bytes of the shortest answer: BindComplete, NoData, "MERGE 0" and ReadyForQuery."""

_ENOUGH = _HANDFUL // _LEAST + 2
"""Statements whose answers are more than that, even if all of one answer but a byte was read."""

_QUICK = 0.00005
"""Seconds for each answer up to which it is worth it."""


class Gathering:
    """Whether the answers of one connection are waited for until there are some."""

    __slots__ = ("_watch", "on")

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.on = False

    def consider(self, outstanding: int, seconds: float) -> None:
        """Begin or end it: so many statements are the server's, so long took the last ones each.

        Does not block.
        """
        if (outstanding >= _ENOUGH and seconds <= _QUICK) != self.on:
            if self.on:
                self.stop()
            else:
                self.on = self._watch.wait_for_bytes(_HANDFUL)

    def stop(self) -> None:
        """Have what is there, and each answer that comes, wake the hub. Does not block."""
        if self.on:
            self.on = False
            self._watch.wait_for_bytes(1)
