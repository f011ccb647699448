"""Asking the server to cancel what a connection executes, without blocking the hub."""

from __future__ import annotations

import logging
from abc import abstractmethod
from time import monotonic

import psycopg
from psycopg import errors
from psycopg._capabilities import capabilities
from psycopg.rows import Row

from geventpg import hub

logger = logging.getLogger("geventpg")


class CancellingOnHub(psycopg.Connection[Row]):
    """The part of `Connection` that cancels."""

    __module__ = "geventpg"

    cancel_timeout: float = 5.0
    """Seconds for cancelling an interrupted statement and reading its remains."""

    watch: hub.Watch

    @abstractmethod
    def discard(self, *, wake: bool = True) -> None:
        """Close at once without talking to the server."""

    def cancel(self) -> None:
        """Ask the server to cancel the running statement, if any.

        From a greenlet of the connection's thread it blocks that greenlet only; elsewhere it
        is psycopg's blocking `cancel`.
        """
        if hub.can_wait(self.watch.hub):
            self.cancel_safe()
        else:
            super().cancel()

    def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the running statement, if any; wait until it was asked.

        Block this greenlet only. Raise ``psycopg.errors.CancellationTimeout`` after
        *timeout* seconds. When it returns, the server has been signalled: the signal cannot
        hit a statement sent later.
        """
        if self._should_cancel():
            self.send_cancel(monotonic() + (timeout or 86_400.0))

    def send_cancel(self, deadline: float) -> None:
        """Do `cancel_safe`, also during a two-phase commit, until *deadline*."""
        if not capabilities.has_cancel_safe():
            hub.run_in_thread(self.pgconn.get_cancel().cancel)
            return
        try:
            hub.drive_connecting(self._cancel_gen(), deadline)
        except hub.DeadlineReached:
            raise errors.CancellationTimeout("cancellation timeout expired") from None

    def _try_cancel(self, *, timeout: float = 5.0) -> None:
        """Cancel for psycopg's own cleaning up, which reads to the end without a bound."""
        try:
            self.cancel_safe(timeout=min(timeout, self.cancel_timeout))
        except errors.Error as error:
            logger.warning("closing %s: cancelling its statement failed: %s", self, error)
            self.discard()
