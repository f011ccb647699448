"""The installation in Celery: by its signals, and by its registry of tasks."""

from __future__ import annotations

import sys
from typing import Any

from celery import Celery, signals
from celery.app import app_or_default
from celery.app.trace import build_tracer

from . import remote, worker
from .cold_shutdown import ColdShutdown
from .tasks import wrap_task


def install(app: Celery) -> Celery:
    """Use geventpg in the workers and tasks of *app*; return *app*. Idempotent.

    Every task runs in a unit of work, wherever it runs: in a worker, eagerly, or called
    directly. Does not connect or read settings: the worker does, when it starts.
    """
    if not _is_installed(app):
        _wrap_tasks(app._tasks)
        install_on_worker_start()
    return app


def _is_installed(app: Celery) -> bool:
    return isinstance(app._tasks, _WrappingRegistry)


def install_on_worker_start() -> None:
    """Install on the app of whatever worker starts in this process. Idempotent."""
    if "celery.worker.control" in sys.modules:  # a worker, or the command `celery`
        remote.register()
    uid = "celery_integration"
    signals.worker_init.connect(_on_worker_init, weak=False, dispatch_uid=uid)
    signals.worker_process_init.connect(_on_worker_process_init, weak=False, dispatch_uid=uid)
    signals.worker_process_shutdown.connect(worker.process_ends, weak=False, dispatch_uid=uid)
    signals.worker_ready.connect(worker.ready, weak=False, dispatch_uid=uid)
    signals.worker_shutdown.connect(worker.shut_down, weak=False, dispatch_uid=uid)
    signals.task_postrun.connect(_on_task_postrun, weak=False, dispatch_uid=uid)


def _on_worker_init(sender: Any, **_kwargs: Any) -> None:
    install(sender.app)
    remote.register()
    sender.app.steps["worker"].add(ColdShutdown)
    worker.init(sender)


def _on_worker_process_init(sender: Any, **_kwargs: Any) -> None:
    app = app_or_default()
    if not _is_installed(app):
        # Not forked but started afresh ("spawn"), with an app made from the parent's pickled one:
        # its tasks are ready to run, unwrapped.
        install(app)
        for name, task in app.tasks.items():
            task.__trace__ = build_tracer(name, task, app.loader, sender, app=app)
    worker.process_started()


def _on_task_postrun(sender: Any, **_kwargs: Any) -> None:
    # Connections that code around the body (a custom __call__, signal handlers) did not release.
    worker.release_leftovers(sender)


class _WrappingRegistry(dict[str, Any]):
    """A registry that wraps each task that is entered.

    A signal would come too late: a task that is called directly or eagerly is registered at its
    first use, and the app may never be finalized.
    """

    def __setitem__(self, name: str, task: Any) -> None:
        wrap_task(task)
        super().__setitem__(name, task)


def _wrap_tasks(registry: Any) -> None:
    for task in registry.values():
        wrap_task(task)
    cls = type(registry)
    # It must stay the same object, because other parts of Celery refer to it.
    registry.__class__ = type(cls.__name__, (_WrappingRegistry, cls), {})
