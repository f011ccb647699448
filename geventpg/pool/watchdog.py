"""Everything a pool does by itself: one greenlet, driven by events and due times.

Dead idle connections are found before a user meets them. When the server closes one, its
socket becomes readable and the pool knows at once, without a round trip. Links that died
silently are found by a bounded probe of connections that were idle for
``keepalive_interval``. One failure of that kind makes the others suspect, and they are
verified at once, at the same time.

A connection is reserved before it is touched, so that nobody can be given one in doubt. The
greenlet holds the pool weakly: a pool that nobody closed can still be collected.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
import psycopg

from geventpg import hub

from .causes import Cause
from .slots import Slot, SlotState

if TYPE_CHECKING:
    from .pool import Pool

logger = logging.getLogger("psycopg.pool")

_LONGEST_SLEEP = 600.0
_SHORTEST_SLEEP = 0.005
_RAW_GREENLETS_INTERVAL = 0.25
_REPRIEVE = 1.0
"""Seconds for which an old connection is used on while its replacement is opened."""


class Watchdog:
    """The maintenance of one pool."""

    def __init__(self, pool: Pool[Any]) -> None:
        self._pool = weakref.ref(pool)
        self._alarm = hub.Alarm()
        self._greenlet: Any = None
        self._suspicious = False
        self._raw_greenlets = False
        self._shrink_at = monotonic() + pool.max_idle

    def start(self) -> None:
        """Start the greenlet. Does not switch."""
        self._greenlet = hub.spawn(_watch, self._pool, self._alarm)
        self._greenlet.rawlink(_restarter(self._pool))

    def stop(self) -> None:
        """End the greenlet. Does not wait for it."""
        self._alarm.ring()

    def forget(self) -> None:
        """End the copy of the greenlet in a forked child."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def ring(self) -> None:
        """Something changed: look again at what is due. Does not switch."""
        self._alarm.ring()

    def suspect(self) -> None:
        """A connection was found dead: verify the other idle ones at once."""
        self._suspicious = True
        self._alarm.ring()

    def look_after_raw_greenlets(self) -> None:
        """Somebody waits, and greenlets whose end nobody tells of may hold connections."""
        if not self._raw_greenlets:
            self._alarm.ring()

    # -- duties ---------------------------------------------------------------------------

    def round(self, pool: Pool[Any]) -> None:
        """Do everything that is due. An error in one duty does not keep the others."""
        duties = (
            self._reclaim,
            self._sweep,
            self._expire,
            self._shrink,
            self._keep_alive,
            self._leaks,
        )
        for duty in duties:
            try:
                duty(pool)
            except Exception:
                logger.exception("watchdog of pool %r: %s failed", pool.name, duty.__name__)
        pool._update_fast_paths()
        pool._connector.plan()

    def next_due(self, pool: Pool[Any]) -> float:
        """Return when `round` has something to do again (``time.monotonic``)."""
        return min(self._due_times(pool))

    def _due_times(self, pool: Pool[Any]) -> Iterator[float]:
        now = monotonic()
        yield now + _LONGEST_SLEEP
        if self._suspicious:
            yield now
        if pool._bag.size > pool.min_size:
            yield self._shrink_due(pool)
        if self._raw_greenlets:
            yield now + _RAW_GREENLETS_INTERVAL
        retry = pool._connector.next_at
        if retry is not None:
            yield retry
        for slot in pool._bag.idle:
            yield slot.expires_at
            if pool.keepalive_interval:
                yield _proven_at(slot) + pool.keepalive_interval
        if pool._bag.out and pool.keepalive_interval:
            yield now + pool.keepalive_interval  # what is returned by then may be due
        if pool.leak_threshold:
            yield now + pool.leak_threshold  # nobody tells of a checkout
        for slot in pool._bag.out.values():
            if slot.expires_at > now:
                yield slot.expires_at
            due = pool._leaks.next_due(slot)
            if due is not None:
                yield due

    def _reclaim(self, pool: Pool[Any]) -> None:
        # Looked for only while somebody waits: nobody else minds.
        self._raw_greenlets = bool(pool._waiting) and pool._reclaim is not None and pool._reclaim()

    def _sweep(self, pool: Pool[Any]) -> None:
        if self._suspicious:
            self._suspicious = False
            self._in_background(pool, list(pool._bag.idle))

    def _expire(self, pool: Pool[Any]) -> None:
        now = monotonic()
        for slot in list(pool._bag.idle):
            if slot.conn._expire_at > now:  # which a reprieve leaves as it is
                continue
            needed = pool._bag.size - pool._bag.connecting <= pool.min_size
            if needed and pool._connector.replace(slot):
                # Asked again when something was opened: that may have been for another one.
                slot.expires_at = now + _REPRIEVE
            else:
                pool._evict(slot, slot.fate)
                logger.info("discarding expired connection")

    def _shrink_due(self, pool: Pool[Any]) -> float:
        if pool.use_lifo:
            idle = pool._bag.idle
            return (idle[0].idle_since if idle else monotonic()) + pool.max_idle
        return self._shrink_at

    def _shrink(self, pool: Pool[Any]) -> None:
        bag, now = pool._bag, monotonic()
        if pool.use_lifo:
            # The coldest is on the left: nobody needed it for that long.
            while bag.size > pool.min_size and bag.idle:
                if bag.idle[0].idle_since + pool.max_idle > now:
                    break
                self._shrink_by_one(pool)
        elif now >= self._shrink_at:
            # First in, first out uses all of them in turn: as in psycopg_pool, one goes when
            # not all were needed at the same time.
            unused, pool._nconns_min = pool._nconns_min, len(bag.idle)
            self._shrink_at = now + pool.max_idle
            if bag.size > pool.min_size and unused > 0 and bag.idle:
                self._shrink_by_one(pool)
                pool._nconns_min -= 1

    def _shrink_by_one(self, pool: Pool[Any]) -> None:
        pool._evict(pool._bag.idle[0], Cause.UNUSED)
        logger.info(
            "shrinking pool %r to %s: unused for %s sec", pool.name, pool._bag.size, pool.max_idle
        )

    def _keep_alive(self, pool: Pool[Any]) -> None:
        if pool.keepalive_interval:
            due = monotonic() - pool.keepalive_interval
            self._in_background(pool, [s for s in pool._bag.idle if _proven_at(s) <= due])

    def _leaks(self, pool: Pool[Any]) -> None:
        now = monotonic()
        for slot in list(pool._bag.out.values()):
            if slot.state is SlotState.IN_USE and pool._leaks.look(slot, now):
                pool._tally.leaked += 1
                pool._listeners.tell("leaked", slot.conn, seconds=now - slot.since)

    # -- probing --------------------------------------------------------------------------

    def verify(self, slots: list[Slot], *, level: int = logging.INFO) -> None:
        """Probe idle *slots* at the same time and wait; evict those that do not answer."""
        pool = self._pool()
        if pool is not None:
            gevent.joinall(self._in_background(pool, slots, level=level))

    def _in_background(
        self, pool: Pool[Any], slots: list[Slot], *, level: int = logging.INFO
    ) -> list[Any]:
        greenlets = []
        for slot in slots:
            pool._bag.reserve(slot)
            greenlet = slot.keeper = hub.spawn(self._probe, pool, slot, level)
            greenlet.rawlink(lambda ended, slot=slot: self._probed(ended, slot))
            greenlets.append(greenlet)
        return greenlets

    def _probe(self, pool: Pool[Any], slot: Slot, level: int) -> None:
        started = monotonic()
        try:
            try:
                slot.conn.probe(pool.probe_timeout)
            finally:
                pool._tally.validate.record(monotonic() - started)
        except psycopg.Error as error:
            self._found_dead(pool, slot, Cause.PROBE_FAILED)
            logger.log(level, "discarding broken connection: %s: %s", slot.conn, error)
        else:
            slot.probed_at = monotonic()
            if pool._failover.is_misplaced(slot.conn):
                pool._failover.retire(slot.conn)
            pool._recycler.returned(slot, idle_since=slot.idle_since)

    def _probed(self, ended: Any, slot: Slot) -> None:
        # Killed, perhaps before it ran: whatever state the connection is in, it may not stay
        # reserved. (By the time this is called somebody else may have reserved it.)
        pool = self._pool()
        if pool is not None and slot.state is SlotState.CHECKING and slot.keeper is ended:
            pool._evict(slot, Cause.UNCLEAN)

    def is_alive(self, pool: Pool[Any], slot: Slot) -> bool:
        """See what the news of an idle connection are: evict it if they are its end."""
        if slot.conn.check_idle():
            return True
        if slot.conn._closed:
            pool._evict(slot, Cause.CLOSED_BY_USER)
            logger.warning("discarding closed connection: %s", slot.conn)
        else:
            self._found_dead(pool, slot, Cause.CLOSED_BY_SERVER)
        return False

    def lost(self, pool: Pool[Any], slot: Slot, cause: Cause) -> None:
        """Evict a connection that was found lost, and verify the others. Does not switch."""
        # Before anything is logged: a handler may raise, or switch.
        pool._stats[pool._CONNECTIONS_LOST] += 1
        pool._evict(slot, cause)
        self.suspect()

    def _found_dead(self, pool: Pool[Any], slot: Slot, cause: Cause) -> None:
        self.lost(pool, slot, cause)
        logger.info("pool %r: evicted idle connection %s: %s", pool.name, slot.conn, cause.text)


def _proven_at(slot: Slot) -> float:
    """Return when the server last answered on the connection, as far as the pool knows."""
    return max(slot.idle_since, slot.probed_at)


def _watch(reference: weakref.ref[Pool[Any]], alarm: hub.Alarm) -> None:
    while True:
        pool = reference()
        if pool is None or pool.closed:
            return
        pool._watchdog.round(pool)
        # What rang until now was either dealt with or has a due time, computed next.
        alarm.clear()
        pause = pool._watchdog.next_due(pool) - monotonic()
        del pool  # nobody may be kept alive by a sleeping watchdog
        # A due time that its duty could not meet must not make this a busy loop.
        alarm.sleep(max(pause, _SHORTEST_SLEEP))


def _restarter(reference: weakref.ref[Pool[Any]]) -> Callable[[Any], None]:
    def ended(greenlet: Any) -> None:
        pool = reference()
        if pool is not None and not pool.closed and pool._watchdog._greenlet is greenlet:
            logger.warning("watchdog of pool %r died: restarting it", pool.name)
            pool._watchdog.start()

    return ended
