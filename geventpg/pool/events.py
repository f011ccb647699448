"""Events: what listeners are told of connections, of waiting and of statements."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from geventpg.errors import OptionError
from geventpg.sql.text import text_of

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

logger = logging.getLogger("geventpg")

KINDS = (
    *("connected", "checked_out", "returned", "evicted", "retired", "waited", "leaked"),
    *("healed", "lost", "cancelled", "statement", "batch"),
)
"""The kinds of events that a listener can ask for."""


@dataclass(frozen=True)
class Event:
    """One thing that happened in a pool."""

    kind: str
    """One of `KINDS`."""
    pool: str
    """The pool's name."""
    connection: Connection[Any] | None = None
    """To be looked at only: another user may have it by now, or it is closed."""
    pid: int = 0
    """The connection's server process, as in ``pg_stat_activity``; 0 if there is none."""
    cause: str | None = None
    """Why a connection was evicted or retired."""
    seconds: float | None = None
    """The time it took: to connect (``connected``), from asking for a connection to having it
    (``checked_out``), in line (``waited``), from checkout to return (``returned``) or until now
    (``leaked``), and until the answer was there (``statement``, ``batch``)."""
    error: BaseException | None = None
    """The error of a wait, a statement or a batch that failed. Of a batch that is not atomic it
    is the first error of a statement."""
    has_parameters: bool = False
    """Whether the statement, or each statement of the batch, was given parameters."""
    _queries: Sequence[Any] = field(default=(), repr=False)

    @property
    def statement(self) -> str | None:
        """The text of a ``statement`` as it was written, without parameters."""
        return text_of(self._queries[0]) if self.kind == "statement" else None

    @property
    def statements(self) -> list[str]:
        """The text of each statement of a ``statement`` or ``batch``; empty for other kinds."""
        return [text_of(query) for query in self._queries]


Listener = Callable[[Event], object]


class _Entry:
    """One listener and the kinds that it asked for."""

    __slots__ = ("failed", "kinds", "listener")

    def __init__(self, listener: Listener, kinds: frozenset[str]) -> None:
        self.listener = listener
        self.kinds = kinds
        self.failed = False


class Listeners:
    """The listeners of one pool. `kinds` are those that any of them wants: look there first."""

    __slots__ = ("_entries", "_pool_name", "kinds")

    def __init__(self, pool_name: str) -> None:
        self._pool_name = pool_name
        self._entries: tuple[_Entry, ...] = ()
        self.kinds: frozenset[str] = frozenset()

    def add(self, listener: Listener, kinds: tuple[str, ...]) -> None:
        """Have *listener* told of *kinds*, or of all if there are none."""
        if not callable(listener):
            raise OptionError(f"a listener must be callable, not {type(listener).__name__}")
        for kind in kinds:
            if kind not in KINDS:
                raise OptionError(f"unknown kind of event {kind!r} (known: {', '.join(KINDS)})")
        self._set((*self._entries, _Entry(listener, frozenset(kinds or KINDS))))

    def remove(self, listener: Listener) -> None:
        """Tell *listener* nothing more. No-op if it was not added."""
        self._set(tuple(entry for entry in self._entries if entry.listener != listener))

    def _set(self, entries: tuple[_Entry, ...]) -> None:
        self._entries = entries
        self.kinds = frozenset().union(*(entry.kinds for entry in entries))

    def tell(self, kind: str, conn: Connection[Any] | None = None, **fields: Any) -> None:
        """Tell the listeners that asked for *kind*. The first exception of each is logged."""
        if kind not in self.kinds:
            return
        pid = 0 if conn is None else conn.server_pid
        event = Event(kind, self._pool_name, conn, pid, **fields)
        for entry in self._entries:
            if kind not in entry.kinds:
                continue
            try:
                entry.listener(event)
            except Exception:
                if not entry.failed:
                    entry.failed = True
                    logger.exception(
                        "pool %r: a listener failed at %r; its next failures are not logged",
                        self._pool_name,
                        kind,
                    )
