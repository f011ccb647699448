"""The bag of a pool's connections: one `Slot` for each, and where it is. No I/O and no policy.

At every instant

    idle + out + connecting = size <= max_size

where *out* are the connections in use, being returned, or reserved for a check. A connection that
is being opened is counted before it exists.

The place of a slot is its state, and only `Bag` moves it::

    (opened) --add--> CHECKING
    IDLE --use--> IN_USE          IDLE --reserve--> CHECKING
    IN_USE --clean--> RETURNING
    IN_USE, RETURNING, CHECKING --rest--> IDLE
    IN_USE, RETURNING, CHECKING --hand_on--> IN_USE
    IDLE, IN_USE, RETURNING, CHECKING --remove--> CLOSED

Each method refuses a slot that is elsewhere. Where no other greenlet waits, `Pool.getconn` and
`Pool.putconn` do what `use` and `rest` do without the call, which would cost a tenth of them: they
take a slot out of `Bag.idle` and put it into `Bag.out`, or back, and so the state follows.
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


IDLE, IN_USE = SlotState.IDLE, SlotState.IN_USE
RETURNING, CHECKING, CLOSED = SlotState.RETURNING, SlotState.CHECKING, SlotState.CLOSED


class Slot:
    """The record of one connection. Times are ``time.monotonic`` seconds."""

    __slots__ = (
        "__weakref__",
        "_occupation",
        "_out",
        "conn",
        "expires_at",
        "fate",
        "idle_since",
        "keeper",
        "lease",
        "old_at",
        "probed_at",
        "since",
        "taker",
    )

    def __init__(
        self, conn: Connection[Any], out: dict[Any, Slot], now: float, old_at: float
    ) -> None:
        self.conn = conn
        self._out = out
        self._occupation: SlotState | None = CHECKING
        """What the pool does with it: ``RETURNING``, ``CHECKING`` or ``CLOSED``."""
        self.old_at = old_at
        """When it reaches its ``max_lifetime``."""
        self.expires_at = old_at
        """When it is to be replaced. An old connection gets a short reprieve while its
        replacement is opened, a drained one is due at once (``0.0``)."""
        self.fate = Cause.EXPIRED
        """Why it is to be replaced once `expires_at` has passed."""
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
        """The greenlet that checked it out. ``None`` if no greenlet may return it: it is not
        checked out, is on its way to a waiter, or is shared by single statements. Weak, because
        the pool must not keep the greenlet from ending."""

    @property
    def state(self) -> SlotState:
        """Where it is; see the picture at the top."""
        if self._occupation is not None:
            return self._occupation
        return IN_USE if self.conn in self._out else IDLE

    @property
    def drained(self) -> bool:
        """Tell whether it is to be replaced whatever its age."""
        return self.expires_at == 0.0

    def drain(self, cause: Cause) -> None:
        """Have it replaced as soon as it is idle. Does not touch the connection."""
        self.expires_at, self.fate = 0.0, cause

    def abandon(self) -> None:
        """End it in a forked child, together with the copy of the greenlet that works on it."""
        self._occupation, self.taker = CLOSED, None
        if self.keeper is not None:
            self.keeper.kill(block=False)

    def occupy(self, occupation: SlotState | None, *before: SlotState) -> None:
        """Note what the pool does with it from now on. Only `Bag` calls it.

        Raise ``AssertionError`` if its state is none of *before*.
        """
        if self.state not in before:
            raise AssertionError(
                f"a connection cannot go from {self.state.value!r} to"
                f" {'the users' if occupation is None else repr(occupation.value)}"
            )
        self._occupation = occupation


class Bag:
    """All slots of one pool, by where they are. Every method is atomic: nothing switches."""

    __slots__ = ("connecting", "idle", "least_idle", "out")

    def __init__(self) -> None:
        self.idle: deque[Slot] = deque()
        """The most recently used connection is on the right."""
        self.least_idle = 0
        """The fewest idle connections since this was last set, counted by `use`."""
        self.out: dict[Any, Slot] = {}
        self.connecting = 0

    @property
    def size(self) -> int:
        """The number of connections that exist or are being opened."""
        return len(self.idle) + len(self.out) + self.connecting

    @property
    def in_use(self) -> int:
        """The number of connections that are checked out."""
        return len(self.taken())

    @property
    def returning(self) -> int:
        """The number of connections that will soon be available: being cleaned or checked."""
        return sum(slot.state is not IN_USE for slot in list(self.out.values()))

    def taken(self) -> list[Slot]:
        """Return the slots that are in use."""
        return [slot for slot in list(self.out.values()) if slot.state is IN_USE]

    def add(self, conn: Connection[Any], now: float, old_at: float) -> Slot:
        """Enter a connection that was just opened in place of its reservation."""
        slot = Slot(conn, self.out, now, old_at)
        self.connecting -= 1
        self.out[conn] = slot
        return slot

    def use(self, slot: Slot) -> None:
        """Check an idle connection out."""
        slot.occupy(None, IDLE)
        if self.idle[-1] is slot:
            self.idle.pop()
        else:
            self.idle.remove(slot)
        self.least_idle = min(self.least_idle, len(self.idle))
        self.out[slot.conn] = slot

    def reserve(self, slot: Slot) -> None:
        """Take an idle connection away for a check, before touching it."""
        slot.occupy(CHECKING, IDLE)
        self.idle.remove(slot)
        self.out[slot.conn] = slot

    def clean(self, slot: Slot) -> None:
        """Have the pool clean a returned connection: it stays out meanwhile."""
        slot.occupy(RETURNING, IN_USE)

    def hand_on(self, slot: Slot) -> None:
        """Give a connection that is out to a waiter: in use, even before the waiter runs."""
        slot.occupy(None, IN_USE, RETURNING, CHECKING)

    def rest(self, slot: Slot, *, cold: bool = False) -> None:
        """Put a slot among the idle ones: by the time it was last used, or on the *cold* end."""
        slot.occupy(None, IN_USE, RETURNING, CHECKING)
        del self.out[slot.conn]
        place = 0 if cold else len(self.idle)
        while place and self.idle[place - 1].idle_since > slot.idle_since:
            place -= 1
        self.idle.insert(place, slot)

    def remove(self, slot: Slot) -> None:
        """Strike out a slot. Its connection is closed, or about to be."""
        was_idle = slot.state is IDLE
        slot.occupy(CLOSED, IDLE, IN_USE, RETURNING, CHECKING)
        if was_idle:
            self.idle.remove(slot)
        else:
            del self.out[slot.conn]

    def __iter__(self) -> Iterator[Slot]:
        yield from list(self.idle)
        yield from list(self.out.values())
