"""A cold shutdown, for which Celery sends no reliable signal.

Celery's handler of SIGQUIT runs wherever the interpreter happens to be. In a greenlet it talks to
the broker and then cancels the tasks, one after the other. In the hub, where nothing may block, it
fails. Then follows a warm shutdown that waits for every task, or with Celery 5.5 nothing at all,
and `worker_shutting_down` is not sent. But the handler always calls the worker's
``wait_for_soft_shutdown`` first. So at that call the statements are cancelled, the connections are
closed, and the request is recorded. A step of the worker's blueprint cancels the tasks that are
left; it comes before the step of the task pool, which waits for the tasks.
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
"""Seconds for cancelling the tasks that Celery's own handler did not cancel."""


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
        """Cut connections off when a cold shutdown begins, which may follow a soft one."""
        if not parent.pool.is_green:
            return
        soft_shutdown = parent.wait_for_soft_shutdown

        def wait_for_soft_shutdown() -> None:
            soft_shutdown()
            # This may be in the hub, which must not wait.
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
        # As Celery's handler does it, which has no bound if the result backend does not answer.
        consumer = parent.consumer
        try:
            with gevent.Timeout(CANCEL_TIMEOUT, False):
                if hasattr(consumer, "cancel_active_requests"):
                    consumer.cancel_active_requests()
                else:  # Celery 5.5
                    consumer.cancel_all_unacked_requests()
        except Exception:
            logger.exception("geventpg: cancelling the tasks that still run failed")
