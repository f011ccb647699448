"""Everything a pool does by itself: one greenlet, driven by events and due times.

Dead idle connections are found before a user meets them. When the server closes one, its
socket becomes readable and the pool knows at once, without a round trip. Links that died
silently are found by a bounded probe of connections that were idle for
``keepalive_interval``. One failure of that kind makes the others suspect, and they are
verified at once, at the same time.

A connection is reserved before it is touched, so that no user is given one in doubt. The
greenlet holds the watchdog weakly: a pool that was not closed can still be collected.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import gevent
import psycopg

from geventpg import hub

from .causes import Cause
from .connector import Connector
from .core import Core
from .failover import Failover
from .leaks import LeakDetector
from .recycler import Recycler
from .slots import Slot, SlotState

logger = logging.getLogger("psycopg.pool")

_LONGEST_SLEEP = 600.0
_SHORTEST_SLEEP = 0.005
_RAW_GREENLETS_INTERVAL = 0.25
_REPRIEVE = 1.0
"""Seconds for which an old connection is used on while its replacement is opened."""


class Watchdog:
    """The maintenance of one pool."""

    def __init__(
        self,
        core: Core,
        connector: Connector,
        recycler: Recycler,
        failover: Failover,
        leaks: LeakDetector,
    ) -> None:
        self._core = core
        self._connector = connector
        self._recycler = recycler
        self._failover = failover
        self._leaks = leaks
        self._greenlet: Any = None
        self._raw_greenlets = False
        self._shrink_at = monotonic() + core.settings.max_idle

    def start(self) -> None:
        """Start the greenlet. Does not switch."""
        reference = weakref.ref(self)
        self._greenlet = hub.spawn(_watch, reference, self._core.alarm)
        self._greenlet.rawlink(_restarter(reference))

    def abandon(self) -> None:
        """End the copy of the greenlet in a forked child."""
        greenlet, self._greenlet = self._greenlet, None
        if greenlet is not None:
            greenlet.kill(block=False)

    def look_after_raw_greenlets(self) -> None:
        """Have `Core.reclaim` called again and again while a greenlet waits. Does not switch."""
        if not self._raw_greenlets:
            self._core.alarm.ring()

    # -- duties ---------------------------------------------------------------------------

    def make_round(self) -> float | None:
        """Do everything that is due; return when there is more to do (``time.monotonic``).

        Return ``None`` when the pool is closed. An error in one duty does not keep the others.
        """
        core = self._core
        if core.closed:
            return None
        duties = (
            self._reclaim,
            self._sweep,
            self._expire,
            self._shrink,
            self._keep_alive,
            self._report_leaks,
        )
        for duty in duties:
            try:
                duty()
            except Exception:
                logger.exception(
                    "watchdog of pool %r: %s failed", core.settings.name, duty.__name__
                )
        core.refresh()
        core.plan()
        # What rang until now was either dealt with or has a due time.
        core.alarm.clear()
        return min(self._due_times())

    def restart_after(self, ended: Any) -> None:
        """Start once more if the greenlet that *ended* was its own and the pool is open."""
        if not self._core.closed and self._greenlet is ended:
            logger.warning("watchdog of pool %r died: restarting it", self._core.settings.name)
            self.start()

    def _due_times(self) -> Iterator[float]:
        core, bag, settings = self._core, self._core.bag, self._core.settings
        now = monotonic()
        yield now + _LONGEST_SLEEP
        if core.suspicious:
            yield now
        if bag.size > settings.min_size:
            yield self._shrink_due()
        if self._raw_greenlets:
            yield now + _RAW_GREENLETS_INTERVAL
        retry = self._connector.next_at
        if retry is not None:
            yield retry
        for slot in bag.idle:
            yield slot.expires_at
            if settings.keepalive_interval:
                yield _proven_at(slot) + settings.keepalive_interval
        if bag.out and settings.keepalive_interval:
            yield now + settings.keepalive_interval  # what is returned by then may be due
        if settings.leak_threshold:
            yield now + settings.leak_threshold  # a checkout does not ring the alarm
        for slot in bag.out.values():
            if slot.expires_at > now:
                yield slot.expires_at
            due = self._leaks.next_due(slot)
            if due is not None:
                yield due

    def _reclaim(self) -> None:
        core = self._core
        # Only a waiter needs what ended raw greenlets still hold.
        self._raw_greenlets = bool(core.waiting) and core.reclaim is not None and core.reclaim()

    def _sweep(self) -> None:
        core = self._core
        if core.suspicious:
            core.suspicious = False
            self._probe_all(list(core.bag.idle))

    def _expire(self) -> None:
        core, bag = self._core, self._core.bag
        now = monotonic()
        for slot in list(bag.idle):
            if slot.old_at > now:  # which a reprieve leaves as it is
                continue
            is_needed = bag.size - bag.connecting <= core.settings.min_size
            if is_needed and self._connector.replace(slot):
                # Asked again when a connection was opened: that may be for another slot.
                slot.expires_at = now + _REPRIEVE
            else:
                core.evict(slot, slot.fate)
                logger.info("discarding expired connection")

    def _shrink_due(self) -> float:
        settings = self._core.settings
        if settings.use_lifo:
            idle = self._core.bag.idle
            return (idle[0].idle_since if idle else monotonic()) + settings.max_idle
        return self._shrink_at

    def _shrink(self) -> None:
        bag, settings, now = self._core.bag, self._core.settings, monotonic()
        if settings.use_lifo:
            # The coldest is on the left: it was not needed for that time.
            while bag.size > settings.min_size and bag.idle:
                if bag.idle[0].idle_since + settings.max_idle > now:
                    break
                self._shrink_by_one()
        elif now >= self._shrink_at:
            # First in, first out uses all of them in turn, so that none is ever cold. As in
            # psycopg_pool, one goes when not all were needed at the same time.
            unused, bag.least_idle = bag.least_idle, len(bag.idle)
            self._shrink_at = now + settings.max_idle
            if bag.size > settings.min_size and unused > 0 and bag.idle:
                self._shrink_by_one()
                bag.least_idle -= 1

    def _shrink_by_one(self) -> None:
        core = self._core
        core.evict(core.bag.idle[0], Cause.UNUSED)
        logger.info(
            "shrinking pool %r to %s: unused for %s sec",
            core.settings.name,
            core.bag.size,
            core.settings.max_idle,
        )

    def _keep_alive(self) -> None:
        interval = self._core.settings.keepalive_interval
        if interval:
            due = monotonic() - interval
            self._probe_all([s for s in self._core.bag.idle if _proven_at(s) <= due])

    def _report_leaks(self) -> None:
        core, now = self._core, monotonic()
        for slot in core.bag.taken():
            if self._leaks.look(slot, now):
                core.counters.leaked += 1
                core.listeners.tell("leaked", slot.conn, seconds=now - slot.since)

    # -- probing --------------------------------------------------------------------------

    def verify(self, slots: list[Slot]) -> None:
        """Probe idle *slots* at the same time and wait; evict those that do not answer."""
        gevent.joinall(self._probe_all(slots, level=logging.WARNING))

    def _probe_all(self, slots: list[Slot], *, level: int = logging.INFO) -> list[Any]:
        greenlets = []
        for slot in slots:
            self._core.bag.reserve(slot)
            greenlet = slot.keeper = hub.spawn(self._probe, slot, level)
            greenlet.rawlink(_after_probe(weakref.ref(self._core), slot))
            greenlets.append(greenlet)
        return greenlets

    def _probe(self, slot: Slot, level: int) -> None:
        core = self._core
        started = monotonic()
        try:
            try:
                slot.conn.probe(core.settings.probe_timeout)
            finally:
                core.counters.validate.record(monotonic() - started)
        except psycopg.Error as error:
            core.evict_dead(slot, Cause.PROBE_FAILED)
            logger.log(level, "discarding broken connection: %s: %s", slot.conn, error)
        else:
            slot.probed_at = monotonic()
            if self._failover.is_misplaced(slot.conn):
                self._failover.retire(slot.conn)
            self._recycler.returned(slot, idle_since=slot.idle_since)


def _after_probe(of_core: weakref.ref[Core], slot: Slot) -> Callable[[Any], None]:
    def ended(greenlet: Any) -> None:
        # It was killed, perhaps before it ran: whatever the state of the connection is, it may not
        # stay reserved. (By the time this is called another greenlet may have reserved it.)
        core = of_core()
        if core is not None and slot.state is SlotState.CHECKING and slot.keeper is greenlet:
            core.evict(slot, Cause.UNCLEAN)

    return ended


def _proven_at(slot: Slot) -> float:
    """Return when the server last answered on the connection, as far as the pool knows."""
    return max(slot.idle_since, slot.probed_at)


def _watch(reference: weakref.ref[Watchdog], alarm: hub.Alarm) -> None:
    while True:
        watchdog = reference()
        due = None if watchdog is None else watchdog.make_round()
        if due is None:
            return
        del watchdog  # its pool must not be kept alive by a sleeping greenlet
        # A due time that its duty could not meet must not make this a busy loop.
        alarm.sleep(max(due - monotonic(), _SHORTEST_SLEEP))


def _restarter(reference: weakref.ref[Watchdog]) -> Callable[[Any], None]:
    def ended(greenlet: Any) -> None:
        watchdog = reference()
        if watchdog is not None:
            watchdog.restart_after(greenlet)

    return ended
