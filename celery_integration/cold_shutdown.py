"""Noticing a cold shutdown, for which Celery sends no signal that can be relied on.

Celery's handler of SIGQUIT runs wherever the interpreter happens to be. In a greenlet it cancels
the tasks, one after the other, after it has talked to the broker. In the hub, where nothing may
block, it fails, and what follows is a warm shutdown that waits for every task, or with Celery
5.5 nothing at all; `worker_shutting_down` is not sent then. But its first act is a call of the
worker's ``wait_for_soft_shutdown``. So statements are cancelled and connections closed at that
call, beside whatever Celery does, and the request is recorded. A step of the worker's blueprint,
before the step of the task pool, which waits for the tasks, cancels the tasks that are left.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent
from celery import bootsteps
from celery.platforms import EX_FAILURE
from celery.worker import state

from . import worker

logger = logging.getLogger("celery.worker.geventpg")

CANCEL_TIMEOUT = 5.0
"""Seconds for cancelling the tasks that Celery's own handler has not cancelled."""


def _is_asked_for() -> bool:
    return state.should_terminate not in (None, False)


def _cut_off() -> None:
    try:
        worker.cut_off()
    finally:
        if not _is_asked_for():
            state.should_terminate = EX_FAILURE


class ColdShutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """Cut the tasks' connections off when the worker is not to wait for its tasks."""

    requires = ("celery.worker.components:Pool",)  # steps are stopped in reverse order

    _cutting: Any = None

    def start(self, parent: Any) -> None:
        """Have connections cut off as soon as a cold shutdown, and no longer a soft one, began."""
        if not parent.pool.is_green:
            return
        soft_shutdown = parent.wait_for_soft_shutdown

        def wait_for_soft_shutdown() -> None:
            soft_shutdown()
            # Perhaps in the hub, which must not wait.
            self._cutting = self._cutting or gevent.spawn(_cut_off)

        parent.wait_for_soft_shutdown = wait_for_soft_shutdown

    def stop(self, parent: Any) -> None:
        """Stop the worker: warm, unless a cold shutdown was asked for and went wrong."""
        if _is_asked_for():
            self.terminate(parent)

    def terminate(self, parent: Any) -> None:
        """Stop the worker without waiting for tasks."""
        if self._cutting is not None:
            self._cutting.join(worker.CLOSE_TIMEOUT)
        worker.cut_off()
        if parent.pool.is_green:
            self._cancel_tasks(parent)

    def _cancel_tasks(self, parent: Any) -> None:
        # As Celery's handler does it. Its end is not bounded where a result backend is away.
        consumer = parent.consumer
        try:
            with gevent.Timeout(CANCEL_TIMEOUT, False):
                if hasattr(consumer, "cancel_active_requests"):
                    consumer.cancel_active_requests()
                else:  # Celery 5.5
                    consumer.cancel_all_unacked_requests()
        except Exception:
            logger.exception("geventpg: cancelling the tasks that still run failed")
