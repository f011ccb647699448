"""Connections held for too long: found, reported once, and reported when they come back."""

from __future__ import annotations

import logging
import sys
import traceback
from time import monotonic
from types import FrameType

import gevent

from .settings import Settings
from .slots import Slot

logger = logging.getLogger("geventpg")

_STACK_DEPTH = 25


class _Lease:
    """One checkout: which greenlet made it, when, and from where."""

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
    """Remembers each checkout, and reports a connection held past ``leak_threshold``.

    With a threshold of ``0`` it remembers nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def taken(self, slot: Slot) -> None:
        """Note a checkout by the current greenlet."""
        if self._settings.leak_threshold:
            slot.lease = _Lease()

    def returned(self, slot: Slot) -> None:
        """Note the return; log it if the checkout had been reported."""
        lease, slot.lease = slot.lease, None
        if lease is not None and lease.reported:
            logger.warning(
                "pool %r: connection %s that was held too long was returned after %.3f s by %s",
                self._settings.name,
                slot.conn,
                monotonic() - lease.since,
                lease.greenlet,
            )

    def look(self, slot: Slot, now: float) -> bool:
        """Report *slot* if it is held for too long and was not reported yet; tell whether."""
        lease, threshold = slot.lease, self._settings.leak_threshold
        if lease is None or lease.reported or now - lease.since < threshold:
            return False
        lease.reported = True
        logger.warning(
            "pool %r: connection %s is held for %.3f s (leak_threshold %g s) by %s;"
            " it was taken at:\n%s",
            self._settings.name,
            slot.conn,
            now - lease.since,
            threshold,
            lease.greenlet,
            "".join(lease.stack.format()).rstrip(),
        )
        return True

    def next_due(self, slot: Slot) -> float | None:
        """Return when *slot* is to be looked at next (``time.monotonic``), ``None`` for never."""
        lease = slot.lease
        if lease is None or lease.reported:
            return None
        due: float = lease.since + self._settings.leak_threshold
        return due
