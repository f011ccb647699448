"""When to open a connection, how many at once, and what to do when it fails.

Deciding never switches: a slot is reserved, then a greenlet connects and brings either the
connection or the reservation back, however it ends.

Growth is one connection at a time, as in psycopg_pool: under a spike of short uses most
callers are served by connections that come back before a new one is ready. Missing
connections below ``min_size`` are opened ``num_workers`` at a time. After a failure there is
one attempt at a time, with growing, jittered, capped pauses, for ever: shorter ones while
a greenlet waits.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.connect import connecting_within
from geventpg.connection.connection import adopt, cooperative
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.conninfo.faults import Fault, classify
from geventpg.errors import ConnectRejected

from .core import Core
from .failover import Failover
from .observer import PoolObserver
from .outage import Outage
from .recycler import Recycler
from .settings import Settings
from .slots import Slot, SlotState

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

logger = logging.getLogger("psycopg.pool")

CONNECT_TIMEOUT = 10.0
"""Seconds for an attempt to connect, all addresses together, where the user says nothing; and
for the callables that return conninfo and kwargs.
psycopg's 130 would leave a pool without connections for two minutes after an attempt that
fell into a silent network, though the network works again."""

PATIENCE = 5.0
"""With callable credentials: how long (s) the server may refuse them before the waiters fail.

They may just have been changed, and the callable may learn of it later than the server does.
"""


class _Job:
    """One reservation on its way to becoming a connection."""

    __slots__ = ("growing", "replaces", "settled")

    def __init__(self, *, growing: bool, replaces: Slot | None) -> None:
        self.growing = growing
        self.replaces = replaces
        self.settled = False


class Connector:
    """Opens a pool's connections in the background.

    :param give_up: called when no connection could be opened for ``reconnect_timeout``.
    """

    def __init__(
        self,
        core: Core,
        recycler: Recycler,
        failover: Failover,
        observer: PoolObserver,
        give_up: Callable[[], None],
    ) -> None:
        self._core = core
        self._failover = failover
        self._recycler = recycler
        self._observer = observer
        self._give_up = give_up
        self._growing = False
        self._jobs: dict[Any, _Job] = {}
        core.plan = self.plan

    @property
    def next_at(self) -> float | None:
        """When to call `plan` again after a failure, ``None`` if there was none."""
        core = self._core
        if core.outage is None or core.bag.connecting or self._want() is None:
            return None
        return core.outage.next_at

    def plan(self) -> None:
        """Start as many attempts as are wanted and allowed now. Does not switch."""
        core = self._core
        if core.outage is not None and monotonic() < core.outage.next_at:
            core.alarm.ring()
            return
        limit = core.settings.num_workers if core.outage is None else 1
        while core.bag.connecting < limit:
            growing = self._want()
            if growing is None:
                return
            self._start(_Job(growing=growing, replaces=None))

    def replace(self, slot: Slot) -> bool:
        """Open a connection that *slot* will make room for; ``False`` if there is no space.

        ``True`` also says: it is being done, or not now, ask again soon.
        """
        bag, settings = self._core.bag, self._core.settings
        if any(job.replaces is slot for job in self._jobs.values()):
            return True
        if self._core.outage is not None:
            return True  # better an old connection than none
        if bag.size >= settings.max_size:
            return bag.connecting > 0
        if bag.connecting < settings.num_workers:
            self._start(_Job(growing=False, replaces=slot))
        return True

    def stop(self) -> list[Any]:
        """Return the greenlets of the attempts under way, for the pool to wait for.

        During an outage they are killed: they would only run into their time-outs.
        """
        greenlets = list(self._jobs)
        if self._core.outage is not None:
            for greenlet in greenlets:
                greenlet.kill(block=False)
        return greenlets

    def abandon(self) -> None:
        """End the copies of the attempts in a forked child."""
        for greenlet, job in self._jobs.items():
            job.settled = True
            greenlet.kill(block=False)
        self._jobs.clear()

    def _want(self) -> bool | None:
        """Tell what a new connection would be for: ``False`` min_size, ``True`` growth."""
        core, bag, settings = self._core, self._core.bag, self._core.settings
        if core.closed or bag.size >= settings.max_size:
            return None
        if bag.size < settings.min_size:
            return False
        if self._growing or len(core.waiting) <= bag.connecting + bag.returning:
            return None
        return True

    # -- one attempt ----------------------------------------------------------------------

    def _start(self, job: _Job) -> None:
        bag = self._core.bag
        bag.connecting += 1
        if job.growing:
            self._growing = True
            logger.info("growing pool %r to %s", self._core.settings.name, bag.size)
        greenlet = hub.spawn(self._run, job)
        self._jobs[greenlet] = job
        # A link and not a `finally`: a greenlet killed before it ran executes no code. It is
        # called a round of the hub later and must not keep the pool alive until then.
        ended = weakref.WeakMethod(self._ended)

        def on_end(greenlet: Any) -> None:
            if (method := ended()) is not None:
                method(greenlet, job)

        greenlet.rawlink(on_end)

    def _run(self, job: _Job) -> None:
        core = self._core
        try:
            conn = self._open()
        except Exception as error:
            if self._release(job):
                self._failed(error, classify(error))
            return
        try:
            self._configure(conn)
        except Exception as error:
            if self._release(job):
                self._failed(error, Fault.UNREACHABLE)
            return
        outage, core.outage, core.last_error = core.outage, None, None
        job.settled = True
        self._admit(conn, job.replaces)
        if outage is not None:
            logger.info("pool %r can connect again", core.settings.name)

    def _open(self) -> Connection[Any]:
        """Open one connection. Block this greenlet only; killed, leave nothing open."""
        core, settings = self._core, self._core.settings
        core.counters.connect_attempts += 1
        started = monotonic()
        try:
            conn = _connect(settings)
        except BaseException:
            core.counters.connect_errors += 1
            raise
        core.counters.connect.record(monotonic() - started)
        conn.begun_at = started
        conn.cancel_timeout = settings.cancel_timeout
        conn.pooler_warnings = core.pooler_warnings
        if settings.prepare == "never":
            conn.prepare_threshold = None
        elif settings.prepare == "always":
            conn.prepares_always = True
        return conn

    def _configure(self, conn: Connection[Any]) -> None:
        """Let the user's ``configure`` set the connection up; close it if that fails."""
        configure = self._core.settings.configure
        conn.pool = self._core.owner
        if configure is None:
            return
        try:
            with conn.close_is_final():
                configure(conn)
            status = conn.pgconn.transaction_status
            if status != TransactionStatus.IDLE:
                raise psycopg.ProgrammingError(
                    f"connection left in status {TransactionStatus(status).name}"
                    f" by configure function {configure}: discarded"
                )
        except BaseException:
            self._core.close_connection(conn)
            raise

    def _admit(self, conn: Connection[Any], replaces: Slot | None) -> None:
        """Take a connection that was just opened into the pool. Does not switch."""
        core = self._core
        now = monotonic()
        slot = core.bag.add(conn, now, now + core.settings.lifetime())
        conn.observer = self._observer
        self._failover.watch(conn)
        if replaces is not None and replaces.state is SlotState.IDLE:
            core.evict(replaces, replaces.fate)
        self._recycler.returned(slot)
        core.alarm.ring()
        logger.info("adding new connection to the pool")
        core.listeners.tell("connected", conn, seconds=now - conn.begun_at)

    def _release(self, job: _Job) -> bool:
        """Give a reservation back; ``False`` if there is none, as in a copy in a forked child.

        Such a copy may still run once before it is killed, and find its socket gone.
        """
        if job.settled:
            return False
        job.settled = True
        self._core.bag.connecting -= 1
        return True

    def _ended(self, greenlet: Any, job: _Job) -> None:
        if self._jobs.pop(greenlet, None) is None:
            return
        self._release(job)
        if job.growing:
            self._growing = False
        self.plan()

    # -- failures ---------------------------------------------------------------------------

    def _failed(self, error: Exception, fault: Fault) -> None:
        core, settings = self._core, self._core.settings
        # Record first: a log handler may raise, or switch.
        core.last_error = error
        if core.outage is None:
            core.outage = Outage(settings.reconnect_timeout)
        gave_up = core.outage.failed(monotonic(), fault, has_waiters=bool(core.waiting))
        logger.warning("error connecting in %r: %s", settings.name, error)
        if fault is Fault.REJECTED and self._is_hopeless():
            text = f"connections of pool {settings.name!r} are refused: {error}"

            def rejected() -> BaseException:
                refusal = ConnectRejected(text)
                refusal.__cause__ = error
                return refusal

            core.waiting.fail_all(rejected)
            core.filling.fail_all(rejected)
        if gave_up:
            logger.warning(
                "reconnection attempt in pool %r failed after %s sec",
                settings.name,
                settings.reconnect_timeout,
            )
            # The user's callback may take its time: it must not hold up the next attempt.
            hub.spawn(self._tell_reconnect_failed)

    def _tell_reconnect_failed(self) -> None:
        try:
            self._give_up()
        except Exception:
            logger.exception(
                "reconnect_failed callback of pool %r failed", self._core.settings.name
            )

    def _is_hopeless(self) -> bool:
        """Tell whether only the refusing server could serve the waiters."""
        core = self._core
        if core.bag.size:
            return False
        # Time decides and not the number of attempts: several may fail in the same moment.
        assert core.outage is not None
        return (
            not core.settings.asks_where_to_connect
            or core.outage.refused_for(monotonic()) >= PATIENCE
        )


@discreet
def _connect(settings: Settings) -> Connection[Any]:
    # The callables may ask a service for a secret, which may never answer.
    silent = errors.ConnectionTimeout(
        f"the callables for conninfo and kwargs took more than {CONNECT_TIMEOUT:g} s"
    )
    with gevent.Timeout(CONNECT_TIMEOUT, silent):
        conninfo, kwargs = settings.where_to_connect()
    check_conninfo(conninfo)  # before libpq quotes parts of it
    with connecting_within(CONNECT_TIMEOUT):
        return adopt(cooperative(settings.connection_class).connect(conninfo, **kwargs))
