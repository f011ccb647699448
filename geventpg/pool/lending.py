"""What a pool does for single statements: see `geventpg.statements.abc.Lender`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any
from weakref import ref

from geventpg.errors import PoolTimeout, TooManyRequests

from .core import Core
from .leaks import LeakDetector
from .observer import PoolObserver
from .slots import Slot

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection
    from geventpg.statements.abc import Shared


class Lending:
    """Lends a pool's connections to many greenlets at a time.

    :param getconn: `Pool.getconn`.
    :param putconn: `Pool.putconn`.
    """

    def __init__(
        self,
        core: Core,
        leaks: LeakDetector,
        observer: PoolObserver,
        getconn: Callable[..., Any],
        putconn: Callable[[Any], None],
    ) -> None:
        self._core = core
        self._leaks = leaks
        self.observer = observer
        self.getconn = getconn
        self.putconn = putconn
        self.hub = core.hub
        self.check_hub = core.check_hub
        self.check_open = core.check_open

    @property
    def name(self) -> str:
        """The pool's name."""
        return self._core.settings.name

    @property
    def timeout(self) -> float:
        """The pool's ``timeout`` (s)."""
        return self._core.settings.timeout

    @property
    def max_waiting(self) -> int:
        """The pool's ``max_waiting``."""
        return self._core.settings.max_waiting

    @property
    def statement_connections(self) -> int:
        """The pool's ``statement_connections``."""
        return self._core.settings.statement_connections

    @property
    def has_idle(self) -> bool:
        """Whether any connection is idle."""
        return bool(self._core.bag.idle)

    def next_idle(self) -> Connection[Any] | None:
        """Return the connection that `getconn` would give now; ``None`` if it may have to wait."""
        core = self._core
        if not (core.plain_checkout and core.bag.idle):
            return None
        conn = core.bag.idle[-1].conn
        # With news it may have ended: `getconn` would give another one, or wait for it.
        return None if conn.watch.news.pending else conn

    def share(self, conn: Connection[Any]) -> Shared:
        """Let many greenlets use a connection that is checked out."""
        slot = self._core.bag.out[conn]
        self._leaks.returned(slot)  # a connection that is always busy is no leak
        slot.since, slot.taker = monotonic(), None
        return slot

    def unshare(self, shared: Shared) -> None:
        """Return a connection that was shared; do nothing if the pool has it no more."""
        slot: Slot | None = self._core.bag.out.get(shared.conn)
        if slot is not None:
            slot.taker = ref(self)
            self.putconn(shared.conn)

    def is_wanted_back(self) -> bool:
        """Tell whether the pool shrinks, or a waiter can be served by a return only."""
        core = self._core
        if not core.waiting.line and core.plain_return:
            return False  # which says that it does not shrink
        size, limit = core.bag.size, core.settings.max_size
        return size > limit or (size == limit and bool(core.waiting.line))

    def unserved(self, timeout: float) -> PoolTimeout:
        """Count a statement that got no connection within *timeout* s; return its error."""
        self._core.counters.request_errors += 1
        return self._core.timed_out(timeout)

    def turned_away(self, waiting: int) -> TooManyRequests:
        """Count a statement that is refused because *waiting* others wait; return its error."""
        core = self._core
        core.counters.request_errors += 1
        return TooManyRequests(
            f"the pool {core.settings.name!r} has already {waiting} statements waiting for"
            f" a connection (max_waiting={core.settings.max_waiting}; {core.counts()})"
        )
