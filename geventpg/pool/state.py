"""What a pool is made of, and what it tells about itself: state, no behaviour.

`PoolLife` adds what happens on opening and closing, `Pool` on checkout, return and eviction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, SupportsIndex, cast

from psycopg_pool import ConnectionPool
from psycopg_pool.abc import CT, ConnectFailedCB, ConnectionCB, ConninfoParam, KwargsParam
from psycopg_pool.base import BasePool

from geventpg import hub
from geventpg.connection.adoption import cooperative
from geventpg.connection.connection import Connection
from geventpg.connection.meter import Meter
from geventpg.connection.pooler import Warnings
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.errors import PoolTimeout
from geventpg.hub import get_ident
from geventpg.statements.choice import Pipes

from . import introspection
from .connector import Connector
from .counters import Tally
from .events import Listener, Listeners
from .failover import Failover
from .leaks import LeakDetector, NoLeakDetector
from .observer import PoolObserver
from .options import check_options
from .recycler import Recycler
from .slots import Bag
from .stats import Holder, PoolStats, Waiter
from .waiters import WaitQueue
from .watchdog import Watchdog

if TYPE_CHECKING:
    from .pool import Pool


class PoolState(ConnectionPool[CT]):
    """The constructor, the parts, the statistics and the messages of `Pool`."""

    __module__ = "geventpg"

    _waiting: WaitQueue  # type: ignore[assignment]

    # Keys of the statistics that psycopg_pool does not have.
    _STATEMENTS_HEALED = "statements_healed"
    _STATEMENTS_LOST = "statements_lost"

    @discreet
    def __init__(
        self,
        conninfo: ConninfoParam = "",
        *,
        connection_class: type[CT] = cast("type[CT]", Connection),
        kwargs: KwargsParam | None = None,
        min_size: int = 4,
        max_size: int | None = None,
        open: bool | None = None,
        configure: ConnectionCB[CT] | None = None,
        check: ConnectionCB[CT] | None = None,
        reset: ConnectionCB[CT] | None = None,
        name: str | None = None,
        close_returns: bool = False,
        timeout: float = 30.0,
        max_waiting: int = 0,
        max_lifetime: float = 60 * 60.0,
        max_idle: float = 10 * 60.0,
        reconnect_timeout: float = 5 * 60.0,
        reconnect_failed: ConnectFailedCB | None = None,
        num_workers: int = 3,
        keepalive_interval: float = 30.0,
        probe_timeout: float = 2.0,
        cancel_timeout: float = 5.0,
        leak_threshold: float = 0.0,
        prepare: str = "auto",
        statement_connections: int = 1,
        use_lifo: bool = True,
        timings: bool = False,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "conninfo", "__class__")}
        self._closed = True  # for __del__, should the next lines raise
        check_conninfo(conninfo)
        check_options(options)
        # The engine of ConnectionPool is not wanted, so its __init__ is left out.
        BasePool.__init__(
            self,
            min_size=min_size,
            max_size=max_size,
            name=name,
            close_returns=close_returns,
            timeout=timeout,
            max_waiting=max_waiting,
            max_lifetime=max_lifetime,
            max_idle=max_idle,
            reconnect_timeout=reconnect_timeout,
            num_workers=num_workers,
        )
        self.conninfo = conninfo
        self.kwargs = kwargs
        self.connection_class = connection_class
        self.keepalive_interval = keepalive_interval
        self.probe_timeout = probe_timeout
        self.cancel_timeout = cancel_timeout
        self.leak_threshold = leak_threshold
        self.prepare_mode = prepare
        self.statement_connections = statement_connections
        self.use_lifo = use_lifo
        self._timings = timings
        self._configure = configure
        self._check = check
        self._reset = reset
        self._reconnect_failed = reconnect_failed
        self._sched_runner, self._workers = None, []  # inherited; this engine has neither

        self._open_class = cooperative(connection_class)
        self._leaks: LeakDetector | NoLeakDetector = (
            LeakDetector(self.name, leak_threshold) if leak_threshold else NoLeakDetector()
        )
        self._warnings = Warnings(f"pool {self.name!r}")
        self._listeners = Listeners(self.name)
        self._start_afresh()
        if open is None:
            open = self._open_implicit = True
        if open:
            self._open()

    def _start_afresh(self) -> None:
        """Make an empty engine: at first, and in a child process after a fork."""
        self._hub, self._thread = hub.current_hub(), get_ident()
        self._bag: Bag = Bag()
        self._idle, self._out = self._bag.idle, self._bag.out
        self._waiting = WaitQueue(self._timed_out)
        self._line = self._waiting.line
        self._filling = WaitQueue(self._not_filled)
        this = cast("Pool[CT]", self)
        self._connector = Connector(this)
        self._recycler = Recycler(this)
        self._watchdog = Watchdog(this)
        self._failover = Failover(this)
        self._observer = PoolObserver(this)
        self._pipes = Pipes(this)
        # Set by the registry: takes back what ended raw greenlets still hold.
        self._reclaim: Callable[[], bool] | None = None
        # Open, but not at work: nothing was asked of it since a fork.
        self._dormant = True
        # Checkouts and returns that need none of the questions of the slow path.
        self._plain_checkout = False
        self._plain_return = False
        self._start_counting()

    def _start_counting(self) -> None:
        self._stats.clear()
        self._requests = self._queued = 0
        self._wait_seconds = self._usage_seconds = 0.0
        self._popped: dict[str, int] = {}
        """The counters as `pop_stats` last saw them."""
        self._tally = Tally()
        self._wait_counts = self._tally.waits
        self._tells_waits = False
        self._hold_counts: list[int] | None = None
        self._meter: Meter | None = None
        self._recording_changed()

    # -- what it tells ---------------------------------------------------------------------

    def __repr__(self) -> str:
        bag = self._bag
        state = "closed" if self._closed else "open"
        return (
            f"<{type(self).__module__}.{type(self).__name__} {self.name!r} [{state}]"
            f" {self._counts()} connecting={bag.connecting}"
            f" min_size={self._min_size} max_size={self._max_size} at 0x{id(self):x}>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")

    @property
    def _pool(self) -> deque[CT]:
        """psycopg_pool's name for the idle connections; read by its users' tests and tools."""
        return cast("deque[CT]", deque(slot.conn for slot in self._bag.idle))

    @_pool.setter
    def _pool(self, value: deque[CT]) -> None:
        """Ignore what BasePool initialises: the bag knows."""

    @property
    def _nconns(self) -> int:
        """psycopg_pool's name for the current size."""
        return self._bag.size

    @_nconns.setter
    def _nconns(self, value: int) -> None:
        """Ignore what BasePool initialises: the bag knows."""

    def get_stats(self) -> dict[str, int]:
        """Return psycopg_pool's statistics: counters since the start, and current sizes.

        Some keys are ours. ``statements_healed``: prepared statements that were gone and were
        executed all the same; ``statements_lost``: those that took their transaction along. The
        other ``statements_`` keys are those of `StatementStats`. `stats` tells more.
        """
        return self._since_popped(self._counters())

    def pop_stats(self) -> dict[str, int]:
        """Like `get_stats`, and set the counters to zero; those of `stats` run on."""
        counters = self._counters()
        stats = self._since_popped(counters)
        self._popped = counters
        return stats

    def stats(self) -> PoolStats:
        """Return sizes, counters and histograms of this instant. Does not block or switch.

        The histograms of holding and of statements need `timings`. To be called
        in the pool's thread, or from any if rough figures will do.
        """
        return introspection.stats(cast("Pool[CT]", self))

    def holders(self) -> tuple[Holder, ...]:
        """Return who has a connection now, the longest first, and what each executes.

        Does not block or switch; to be called in the pool's thread. It is found out now, and
        costs nothing while nobody asks.
        """
        return introspection.holders(cast("Pool[CT]", self))

    def waiters(self) -> tuple[Waiter, ...]:
        """Return who waits for a connection now, the first in line first.

        Does not block or switch; to be called in the pool's thread.
        """
        return introspection.waiters(cast("Pool[CT]", self))

    def add_listener(self, listener: Listener, *kinds: str) -> None:
        """Call *listener* with an `Event` whenever one of *kinds* happens; without any: of all.

        It is called on the spot, in whatever greenlet it happens in, or in the hub: it must not
        block. What it raises is logged, once, and hurts nobody. Raise `OptionError` for an
        unknown kind. Kinds that nobody asked for cost nothing; ``checked_out``, ``returned`` and
        ``statement`` slow each checkout, return and statement down.
        """
        self._listeners.add(listener, kinds)
        self._recording_changed()

    def remove_listener(self, listener: Listener) -> None:
        """Undo `add_listener`; no-op for one that was not added."""
        self._listeners.remove(listener)
        self._recording_changed()

    @property
    def timings(self) -> bool:
        """Whether holding and statements are measured; it may be changed while the pool runs.

        What was measured until it was turned off stays in `stats`.
        """
        return self._timings

    @timings.setter
    def timings(self, timings: bool) -> None:
        self._timings = timings
        self._recording_changed()

    def _recording_changed(self) -> None:
        self._update_fast_paths()
        self._tells_waits = "waited" in self._listeners.kinds
        if self._timings:
            self._tally.start_timing()
        self._hold_counts = self._tally.holds if self._timings else None
        statements = self._tally.statement if self._timings else None
        wanted = self._timings or not self._listeners.kinds.isdisjoint(("statement", "batch"))
        self._meter = Meter(statements, self._listeners) if wanted else None
        self._observer.meter = self._meter

    def _since_popped(self, counters: dict[str, int]) -> dict[str, int]:
        popped = self._popped
        return {
            **{key: value - popped.get(key, 0) for key, value in counters.items()},
            **self._get_measures(),
        }

    def _counters(self) -> dict[str, int]:
        counters = dict.fromkeys(
            (
                self._REQUESTS_ERRORS,
                self._RETURNS_BAD,
                self._CONNECTIONS_NUM,
                self._CONNECTIONS_MS,
                self._CONNECTIONS_ERRORS,
                self._CONNECTIONS_LOST,
                self._STATEMENTS_HEALED,
                self._STATEMENTS_LOST,
            ),
            0,
        )
        return {
            **counters,
            **self._stats,
            self._REQUESTS_NUM: self._requests,
            self._REQUESTS_QUEUED: self._queued,
            self._REQUESTS_WAIT_MS: int(1000 * self._wait_seconds),
            self._USAGE_MS: int(1000 * self._usage_seconds),
            **self._pipes.stats().counters(),
        }

    def _get_measures(self) -> dict[str, int]:
        return {
            self._POOL_MIN: self._min_size,
            self._POOL_MAX: self._max_size,
            self._POOL_SIZE: self._bag.size,
            self._POOL_AVAILABLE: len(self._bag.idle),
            self._REQUESTS_WAITING: len(self._waiting),
            **self._pipes.stats().measures(),
        }

    def _update_fast_paths(self) -> None:
        is_open = not self._closed and not self._open_implicit
        self._plain_checkout = (
            is_open
            and self._check is None
            and self.use_lifo
            and not self.leak_threshold
            and "checked_out" not in self._listeners.kinds
        )
        self._plain_return = (
            not self._closed
            and self._reset is None
            and not self.leak_threshold
            and "returned" not in self._listeners.kinds
            and not self._filling
            and self._bag.size <= self._max_size
        )

    def _check_hub(self) -> None:
        hub.check_can_wait(self._hub, f"the pool {self.name!r}")

    def _counts(self) -> str:
        bag = self._bag
        return (
            f"size={bag.size} idle={len(bag.idle)} in_use={bag.in_use} waiting={len(self._waiting)}"
        )

    def _why(self) -> str:
        if self._connector.outage is None:
            return ""
        return f"; last connection failure: {self._connector.last_error}"

    def _timed_out(self, timeout: float | None = None) -> PoolTimeout:
        if timeout is None:
            return PoolTimeout()  # the waiter adds the details
        return PoolTimeout(
            f"couldn't get a connection after {timeout:.2f} sec: pool {self.name!r} has"
            f" {self._counts()} max_size={self._max_size}{self._why()}"
        )

    def _not_filled(self) -> PoolTimeout:
        return PoolTimeout()
