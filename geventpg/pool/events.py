"""Telling others of a connection's life, of waiting and of statements, if they asked for it."""

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
"""What a listener can be told of."""


@dataclass(frozen=True)
class Event:
    """One thing that happened in a pool."""

    kind: str
    """One of `KINDS`."""
    pool: str
    """The pool's name."""
    connection: Connection[Any] | None = None
    """To be looked at only: it may be somebody else's by now, or closed."""
    pid: int = 0
    """The connection's server process, as in ``pg_stat_activity``; 0 if there is none."""
    cause: str | None = None
    """Why a connection was evicted or retired."""
    seconds: float | None = None
    """What it took: to connect (``connected``), from asking to having (``checked_out``), in line
    (``waited``), from checkout to return (``returned``), or until now (``leaked``), and for the
    answers (``statement``, ``batch``)."""
    error: BaseException | None = None
    """What a wait, a statement or a batch ended with, if it failed. Of a batch whose statements
    are each for themselves it is the error of the first that has one."""
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
    """One listener and what it asked for."""

    __slots__ = ("failed", "kinds", "listener")

    def __init__(self, listener: Listener, kinds: frozenset[str]) -> None:
        self.listener = listener
        self.kinds = kinds
        self.failed = False


class Listeners:
    """The listeners of one pool. `kinds` is what any of them wants: look there first."""

    __slots__ = ("_entries", "_pool_name", "kinds")

    def __init__(self, pool_name: str) -> None:
        self._pool_name = pool_name
        self._entries: tuple[_Entry, ...] = ()
        self.kinds: frozenset[str] = frozenset()

    def add(self, listener: Listener, kinds: tuple[str, ...]) -> None:
        """Have *listener* told of *kinds*; none: of all."""
        if not callable(listener):
            raise OptionError(f"a listener must be callable, not {type(listener).__name__}")
        for kind in kinds:
            if kind not in KINDS:
                raise OptionError(f"unknown kind of event {kind!r} (known: {', '.join(KINDS)})")
        self._set((*self._entries, _Entry(listener, frozenset(kinds or KINDS))))

    def remove(self, listener: Listener) -> None:
        """Tell *listener* nothing more; no-op if it was not told of anything."""
        self._set(tuple(entry for entry in self._entries if entry.listener != listener))

    def _set(self, entries: tuple[_Entry, ...]) -> None:
        self._entries = entries
        self.kinds = frozenset().union(*(entry.kinds for entry in entries))

    def tell(self, kind: str, conn: Connection[Any] | None = None, **fields: Any) -> None:
        """Tell those who asked for *kind*. An exception of a listener is logged, once."""
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
