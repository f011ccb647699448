"""Noticing a cold shutdown, for which Celery sends no signal that can be relied on.

Under gevent Celery's handler of SIGQUIT blocks inside the hub, fails there, and what follows
is a warm shutdown that waits for every task; `worker_shutting_down` is not sent then. But the
request was recorded, and the worker's blueprint is stopped in either case. So a step of the
blueprint looks: it comes before the step of the task pool, which waits for the tasks.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.worker import state

from . import worker


class ColdShutdown(bootsteps.StartStopStep):  # type: ignore[misc]
    """Cut the tasks' connections off when the worker is not to wait for its tasks."""

    requires = ("celery.worker.components:Pool",)  # steps are stopped in reverse order

    def start(self, parent: Any) -> None:
        """Do nothing."""

    def stop(self, _parent: Any) -> None:
        """Stop the worker: warm, unless a cold shutdown was asked for and went wrong."""
        if state.should_terminate not in (None, False):
            worker.cut_off()

    def terminate(self, _parent: Any) -> None:
        """Stop the worker without waiting for tasks."""
        worker.cut_off()
