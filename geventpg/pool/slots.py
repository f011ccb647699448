"""Who holds what: the bag of a pool's connections. No I/O, no waiting, no policy.

Every connection has one `Slot`, which lives as long as it does. The bag knows where each
slot is; a connection that is being opened is counted before it exists. So at every instant

    idle + out + connecting = size <= max_size

where *out* are the slots in use, being returned, or reserved for maintenance.
"""

from __future__ import annotations

import enum
import weakref
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .causes import Cause

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection


class SlotState(enum.Enum):
    """Where a connection is in its life."""

    IDLE = "idle"
    IN_USE = "in use"
    RETURNING = "returning"
    CHECKING = "checking"
    CLOSED = "closed"


_MOVES: dict[SlotState, frozenset[SlotState]] = {
    SlotState.IDLE: frozenset({SlotState.IN_USE, SlotState.CHECKING, SlotState.CLOSED}),
    SlotState.IN_USE: frozenset({SlotState.IDLE, SlotState.RETURNING, SlotState.CLOSED}),
    SlotState.RETURNING: frozenset({SlotState.IDLE, SlotState.IN_USE, SlotState.CLOSED}),
    SlotState.CHECKING: frozenset({SlotState.IDLE, SlotState.IN_USE, SlotState.CLOSED}),
    SlotState.CLOSED: frozenset(),
}


class Slot:
    """The record of one connection. Times are ``time.monotonic`` seconds."""

    __slots__ = (
        "__weakref__",
        "conn",
        "expires_at",
        "fate",
        "idle_since",
        "keeper",
        "lease",
        "probed_at",
        "since",
        "state",
        "taker",
    )

    def __init__(self, conn: Connection[Any], now: float, expires_at: float) -> None:
        self.conn = conn
        self.state = SlotState.CHECKING
        self.expires_at = expires_at
        self.idle_since = now
        """When it was last returned."""
        self.probed_at = now
        self.keeper: Any = None
        """The pool's own greenlet that works on it while it is returned or checked."""
        self.lease: Any = None
        """What the leak detector keeps about the current checkout."""
        self.since = now
        """When it was last checked out."""
        self.taker: weakref.ref[Any] | None = None
        """The greenlet that checked it out. ``None``: nobody may return it, because it is not
        checked out, is on its way to who waits, or is shared by statements. Weak: nothing here may
        keep the greenlet from ending."""
        self.fate = Cause.EXPIRED
        """Why it is to be replaced once `expires_at` has passed."""

    def move(self, state: SlotState) -> None:
        """Change the state; raise ``AssertionError`` for a change that cannot be."""
        if state not in _MOVES[self.state]:
            raise AssertionError(f"a connection cannot go from {self.state} to {state}")
        self.state = state

    @property
    def drained(self) -> bool:
        """Tell whether it is to be replaced whatever its age."""
        return self.expires_at == 0.0

    def drain(self, cause: Cause) -> None:
        """Have it replaced as soon as it is idle. Does not touch the connection."""
        self.expires_at, self.fate = 0.0, cause

    def forget(self) -> None:
        """End it in a forked child, together with the copy of whoever works on it."""
        self.state, self.taker = SlotState.CLOSED, None
        if self.keeper is not None:
            self.keeper.kill(block=False)


class Bag:
    """All slots of one pool, by where they are. Every method is atomic: nothing switches."""

    __slots__ = ("connecting", "idle", "out")

    def __init__(self) -> None:
        self.idle: deque[Slot] = deque()
        """The most recently used connection is on the right."""
        self.out: dict[Any, Slot] = {}
        self.connecting = 0

    @property
    def size(self) -> int:
        """Connections that exist or are being opened."""
        return len(self.idle) + len(self.out) + self.connecting

    @property
    def in_use(self) -> int:
        """Connections checked out by somebody."""
        return sum(slot.state is SlotState.IN_USE for slot in list(self.out.values()))

    @property
    def returning(self) -> int:
        """Connections that will soon be available: being cleaned or checked."""
        return sum(slot.state is not SlotState.IN_USE for slot in list(self.out.values()))

    def add(self, slot: Slot) -> None:
        """Enter a connection that was just opened in place of its reservation."""
        self.connecting -= 1
        self.out[slot.conn] = slot

    def reserve(self, slot: Slot) -> None:
        """Take an idle slot away for maintenance, before touching its connection."""
        self.idle.remove(slot)
        slot.move(SlotState.CHECKING)
        self.out[slot.conn] = slot

    def rest(self, slot: Slot, *, cold: bool = False) -> None:
        """Put a slot among the idle ones: by the time it was last used, or on the *cold* end."""
        slot.move(SlotState.IDLE)
        del self.out[slot.conn]
        place = 0 if cold else len(self.idle)
        while place and self.idle[place - 1].idle_since > slot.idle_since:
            place -= 1
        self.idle.insert(place, slot)

    def remove(self, slot: Slot) -> None:
        """Forget a slot whose connection is closed or about to be."""
        if slot.state is SlotState.IDLE:
            self.idle.remove(slot)
        else:
            del self.out[slot.conn]
        slot.move(SlotState.CLOSED)

    def __iter__(self) -> Iterator[Slot]:
        yield from list(self.idle)
        yield from list(self.out.values())
