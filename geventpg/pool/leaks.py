"""Connections held for too long: found, reported once, and reported when they come back."""

from __future__ import annotations

import logging
import sys
import traceback
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

import gevent

if TYPE_CHECKING:
    from .slots import Slot

logger = logging.getLogger("geventpg")

_STACK_DEPTH = 25


class _Lease:
    """One checkout: by whom, since when, from where."""

    __slots__ = ("greenlet", "reported", "since", "stack")

    def __init__(self) -> None:
        self.since = monotonic()
        self.greenlet = repr(gevent.getcurrent())
        # Without source lines: reading files is for the report, if there ever is one.
        self.stack = traceback.StackSummary.extract(
            traceback.walk_stack(_callers_frame()), limit=_STACK_DEPTH, lookup_lines=False
        )
        self.stack.reverse()
        self.reported = False


def _callers_frame() -> FrameType | None:
    """Return the innermost frame that is not this package's own."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").startswith("geventpg."):
        frame = frame.f_back
    return frame


class LeakDetector:
    """Remembers who took a connection and tells who holds one past *threshold* seconds."""

    def __init__(self, pool_name: str, threshold: float) -> None:
        self._pool_name = pool_name
        self._threshold = threshold

    def taken(self, slot: Slot) -> None:
        """Note a checkout by the current greenlet."""
        slot.lease = _Lease()

    def returned(self, slot: Slot) -> None:
        """Note the return; log it if the checkout had been reported."""
        lease, slot.lease = slot.lease, None
        if lease is not None and lease.reported:
            logger.warning(
                "pool %r: connection %s that was held too long was returned after %.3f s by %s",
                self._pool_name,
                slot.conn,
                monotonic() - lease.since,
                lease.greenlet,
            )

    def look(self, slot: Slot, now: float) -> bool:
        """Report *slot* if it is held for too long and was not reported yet; tell whether."""
        lease = slot.lease
        if lease is None or lease.reported or now - lease.since < self._threshold:
            return False
        lease.reported = True
        logger.warning(
            "pool %r: connection %s is held for %.3f s (leak_threshold %g s) by %s;"
            " it was taken at:\n%s",
            self._pool_name,
            slot.conn,
            now - lease.since,
            self._threshold,
            lease.greenlet,
            "".join(lease.stack.format()).rstrip(),
        )
        return True

    def next_due(self, slot: Slot) -> float | None:
        """Tell when *slot* is to be looked at next."""
        lease = slot.lease
        if lease is None or lease.reported:
            return None
        due: float = lease.since + self._threshold
        return due


class NoLeakDetector:
    """Leak detection switched off."""

    def taken(self, slot: Slot) -> None:
        """Do nothing."""

    def returned(self, slot: Slot) -> None:
        """Do nothing."""

    def look(self, _slot: Slot, _now: float) -> bool:
        """Do nothing."""
        return False

    def next_due(self, _slot: Slot) -> float | None:
        """Never."""
        return None
