"""When to open a connection, how many at once, and what to do when it fails.

Deciding never switches: a slot is reserved, then a greenlet connects and brings either the
connection or the reservation back, however it ends.

Growth is one connection at a time, as in psycopg_pool: under a spike of short uses most
callers are served by connections that come back before a new one is ready. Missing
connections below ``min_size`` are opened ``num_workers`` at a time. After a failure there is
one attempt at a time, with growing, jittered, capped pauses, for ever: shorter ones while
somebody waits.
"""

from __future__ import annotations

import logging
import random
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg_pool.base import AttemptWithBackoff

from geventpg import hub
from geventpg.connection.adoption import adopt
from geventpg.connection.connect import connecting_within
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.conninfo.faults import Fault, classify
from geventpg.errors import ConnectRejected

from .slots import Slot, SlotState

if TYPE_CHECKING:
    from geventpg.connection.connection import Connection

    from .pool import Pool

logger = logging.getLogger("psycopg.pool")

MAX_DELAY = 30.0
"""Longest pause (s) between attempts while nobody waits for a connection."""

CONNECT_TIMEOUT = 10.0
"""Seconds for an attempt to connect, all addresses together, where the user says nothing; and
for the callables that return conninfo and kwargs.
psycopg's 130 would leave a pool without connections for two minutes after an attempt that
fell into a silent network, though the network works again."""

HURRY = 0.25
"""Shortest pause (s) between attempts that new callers can bring about."""

PATIENCE = 5.0
"""How long (s) a secret that the program is asked for may be refused before callers fail.

It may just have been changed: whoever tells it may know later than the server does.
"""


class Outage:
    """The pool cannot connect: since when, why, and when the next attempt is due.

    The first pause, its jitter and its growth are psycopg_pool's.
    """

    def __init__(self, reconnect_timeout: float) -> None:
        self.reconnect_timeout = reconnect_timeout
        self.next_at = 0.0
        self._refused_since: float | None = None
        self._last_at = 0.0
        self._delay = 0.0
        self._give_up_at: float | None = None

    def failed(self, now: float, fault: Fault, *, somebody_waits: bool) -> bool:
        """Note a failed attempt; tell whether `reconnect_timeout` has passed (again)."""
        self._last_at = now
        if fault is not Fault.REJECTED:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        if self._give_up_at is not None and now >= self._give_up_at:
            gave_up, self._give_up_at = True, None
        else:
            gave_up = False
            if self._give_up_at is None:
                self._give_up_at = now + self.reconnect_timeout
        initial = AttemptWithBackoff.INITIAL_DELAY
        if self._delay == 0.0:
            self._delay = initial
        else:
            self._delay = min(self._delay * AttemptWithBackoff.DELAY_BACKOFF, MAX_DELAY)
        pause = min(self._delay, initial) if somebody_waits else self._delay
        jitter = AttemptWithBackoff.DELAY_JITTER
        self.next_at = now + pause * random.uniform(1.0 - jitter, 1.0 + jitter)
        if self._give_up_at is not None:
            # The last attempt of a series is made at its very end, but never a busy loop.
            self.next_at = max(min(self.next_at, self._give_up_at), now + HURRY / 5)
        return gave_up

    def refused_for(self, now: float) -> float:
        """Return for how long (s) the server has answered, and with nothing but a refusal."""
        return 0.0 if self._refused_since is None else now - self._refused_since

    def hurry(self) -> None:
        """Somebody came to wait: bring the next attempt forward."""
        self.next_at = min(self.next_at, self._last_at + HURRY)


class _Job:
    """One reservation on its way to becoming a connection."""

    __slots__ = ("growing", "replaces", "settled")

    def __init__(self, *, growing: bool, replaces: Slot | None) -> None:
        self.growing = growing
        self.replaces = replaces
        self.settled = False


class Connector:
    """Opens a pool's connections in the background."""

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = pool
        self._growing = False
        self._jobs: dict[Any, _Job] = {}
        self.outage: Outage | None = None
        self.last_error: BaseException | None = None

    @property
    def next_at(self) -> float | None:
        """When a failed connection is due to be tried again, if one is wanted."""
        if self.outage is None or self._pool._bag.connecting or self._want() is None:
            return None
        return self.outage.next_at

    def hurry(self) -> None:
        """Somebody came to wait."""
        if self.outage is not None:
            self.outage.hurry()
            self._pool._watchdog.ring()

    def plan(self) -> None:
        """Start as many attempts as are wanted and allowed now. Does not switch."""
        bag = self._pool._bag
        if self.outage is not None and monotonic() < self.outage.next_at:
            self._pool._watchdog.ring()
            return
        limit = self._pool.num_workers if self.outage is None else 1
        while bag.connecting < limit:
            growing = self._want()
            if growing is None:
                return
            self._start(_Job(growing=growing, replaces=None))

    def replace(self, slot: Slot) -> bool:
        """Open a connection that *slot* will make room for; ``False`` if there is no space.

        ``True`` also says: it is being done, or not now, ask again soon.
        """
        bag = self._pool._bag
        if any(job.replaces is slot for job in self._jobs.values()):
            return True
        if self.outage is not None:
            return True  # better an old connection than none
        if bag.size >= self._pool.max_size:
            return bag.connecting > 0
        if bag.connecting < self._pool.num_workers:
            self._start(_Job(growing=False, replaces=slot))
        return True

    def stop(self) -> list[Any]:
        """Return the greenlets of the attempts under way, for the pool to wait for.

        During an outage they are killed: they would only run into their time-outs.
        """
        greenlets = list(self._jobs)
        if self.outage is not None:
            for greenlet in greenlets:
                greenlet.kill(block=False)
        return greenlets

    def _want(self) -> bool | None:
        """Tell what a new connection would be for: ``False`` min_size, ``True`` growth."""
        pool, bag = self._pool, self._pool._bag
        if pool.closed or bag.size >= pool.max_size:
            return None
        if bag.size < pool.min_size:
            return False
        if self._growing or len(pool._waiting) <= bag.connecting + bag.returning:
            return None
        return True

    def _start(self, job: _Job) -> None:
        self._pool._bag.connecting += 1
        if job.growing:
            self._growing = True
            logger.info("growing pool %r to %s", self._pool.name, self._pool._bag.size)
        greenlet = hub.spawn(self._run, job)
        self._jobs[greenlet] = job
        # A link and not a `finally`: a greenlet killed before it ran executes no code. It is
        # called a round of the hub later and must not keep the pool alive until then.
        reference = weakref.ref(self)

        def ended(greenlet: Any) -> None:
            connector = reference()
            if connector is not None:
                connector._ended(greenlet, job)

        greenlet.rawlink(ended)

    def _run(self, job: _Job) -> None:
        pool = self._pool
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
        outage, self.outage, self.last_error = self.outage, None, None
        job.settled = True
        self._admit(conn, job.replaces)
        if outage is not None:
            logger.info("pool %r can connect again", pool.name)

    def _open(self) -> Connection[Any]:
        """Open one connection. Block this greenlet only; killed, leave nothing open."""
        pool = self._pool
        pool._stats[pool._CONNECTIONS_NUM] += 1
        started = monotonic()
        try:
            conn = _connect(pool)
        except BaseException:
            pool._stats[pool._CONNECTIONS_ERRORS] += 1
            raise
        took = monotonic() - started
        pool._stats[pool._CONNECTIONS_MS] += int(1000 * took)
        pool._tally.connect.record(took)
        conn.begun_at = started
        conn.cancel_timeout = pool.cancel_timeout
        conn.pooler_warnings = pool._warnings
        if pool.prepare_mode == "never":
            conn.prepare_threshold = None
        elif pool.prepare_mode == "always":
            conn.prepares_always = True
        return conn

    def _configure(self, conn: Connection[Any]) -> None:
        """Let the user's ``configure`` set the connection up; close it if that fails."""
        pool = self._pool
        conn._pool = pool
        if pool._configure is None:
            return
        try:
            with conn.close_is_final():
                pool._configure(conn)
            status = conn.pgconn.transaction_status
            if status != TransactionStatus.IDLE:
                raise psycopg.ProgrammingError(
                    f"connection left in status {TransactionStatus(status).name}"
                    f" by configure function {pool._configure}: discarded"
                )
        except BaseException:
            pool._close_connection(conn)
            raise

    def _admit(self, conn: Connection[Any], replaces: Slot | None) -> None:
        """Take a connection that was just opened into the pool. Does not switch."""
        pool = self._pool
        pool._set_connection_expiry_date(conn)
        now = monotonic()
        slot: Slot = Slot(conn, now, conn._expire_at)
        pool._bag.add(slot)
        pool._failover.watch(conn)
        conn.observer = pool._observer
        if replaces is not None and replaces.state is SlotState.IDLE:
            pool._evict(replaces, replaces.fate)
        pool._recycler.returned(slot)
        pool._watchdog.ring()
        logger.info("adding new connection to the pool")
        pool._listeners.tell("connected", conn, seconds=now - conn.begun_at)

    def _release(self, job: _Job) -> bool:
        """Give a reservation back; ``False`` if there is none, as in a copy in a forked child.

        Such a copy may still run once before it is killed, and find its socket gone.
        """
        if job.settled:
            return False
        job.settled = True
        self._pool._bag.connecting -= 1
        return True

    def forget(self) -> None:
        """End the copies of the attempts in a forked child."""
        for greenlet, job in self._jobs.items():
            job.settled = True
            greenlet.kill(block=False)
        self._jobs.clear()

    def _ended(self, greenlet: Any, job: _Job) -> None:
        if self._jobs.pop(greenlet, None) is None:
            return
        self._release(job)
        if job.growing:
            self._growing = False
        self.plan()

    def _failed(self, error: Exception, fault: Fault) -> None:
        pool = self._pool
        # Record first: a log handler may raise, or switch.
        self.last_error = error
        if self.outage is None:
            self.outage = Outage(pool.reconnect_timeout)
        gave_up = self.outage.failed(monotonic(), fault, somebody_waits=bool(pool._waiting))
        logger.warning("error connecting in %r: %s", pool.name, error)
        if fault is Fault.REJECTED and self._hopeless():
            text = f"connections of pool {pool.name!r} are refused: {error}"

            def rejected() -> BaseException:
                refusal = ConnectRejected(text)
                refusal.__cause__ = error
                return refusal

            pool._waiting.fail_all(rejected)
            pool._filling.fail_all(rejected)
        if gave_up:
            logger.warning(
                "reconnection attempt in pool %r failed after %s sec",
                pool.name,
                pool.reconnect_timeout,
            )
            # The user's callback may take its time: it must not hold up the next attempt.
            hub.spawn(self._tell_reconnect_failed)

    def _tell_reconnect_failed(self) -> None:
        try:
            self._pool.reconnect_failed()
        except Exception:
            logger.exception("reconnect_failed callback of pool %r failed", self._pool.name)

    def _hopeless(self) -> bool:
        """Tell whether nobody but the refusing server could serve those who wait."""
        if self._pool._bag.size:
            return False
        asks_again = callable(self._pool.conninfo) or callable(self._pool.kwargs)
        # Time decides and not the number of attempts: several may fail in the same moment.
        assert self.outage is not None
        return not asks_again or self.outage.refused_for(monotonic()) >= PATIENCE


@discreet
def _connect(pool: Pool[Any]) -> Connection[Any]:
    # Callables may ask somebody for a secret, who may never answer.
    silent = errors.ConnectionTimeout(
        f"the callables for conninfo and kwargs took more than {CONNECT_TIMEOUT:g} s"
    )
    with gevent.Timeout(CONNECT_TIMEOUT, silent):
        conninfo, kwargs = pool._resolve_conninfo(), pool._resolve_kwargs()
    check_conninfo(conninfo)  # before libpq quotes parts of it
    with connecting_within(CONNECT_TIMEOUT):
        return adopt(pool._open_class.connect(conninfo, **kwargs))


__all__ = ["Connector", "Outage"]
