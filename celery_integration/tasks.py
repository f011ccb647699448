"""A task's body as a unit of work: commit before success is reported, else roll back.

The innermost ``run`` is wrapped. So a commit that fails is an exception of the task body: it
goes through ``autoretry_for`` and the task's retry policy like any other, and nothing was
reported yet. Celery's own signals around a task come too late for that (``task_postrun``
follows the result) or run outside the time limit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.app.trace import task_has_custom

from geventpg import registry

from .time_limits import deadline_of

_MARK = "_geventpg_wrapped"


def wrap_task(task: Any) -> None:
    """Run *task*'s body in `geventpg.registry.scope`. Idempotent; Celery's own are left out."""
    if task.name.startswith("celery."):
        return
    # With autoretry_for, Celery keeps the body under this name and `run` is its retry loop.
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    run = getattr(task, name)
    if not getattr(run, _MARK, False):
        setattr(task, name, _in_scope(run, lambda *_args: task))
    if task_has_custom(task, "__call__"):
        # What it does after the body is a unit of work too. Looked up on the class.
        cls = type(task)
        if not getattr(cls.__call__, _MARK, False):
            cls.__call__ = _in_scope(cls.__call__, lambda self, *_args: self)


def _in_scope(function: Callable[..., Any], task_of: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        task = task_of(*args)
        request = task.request
        # In a worker the greenlet is the task's: what hooks did before the body is its work.
        # Called directly or eagerly, the task may be part of somebody else's.
        adopt = not (request.called_directly or request.is_eager)
        deadline = deadline_of(task) if adopt else None  # Celery limits nothing else
        with registry.scope(adopt=adopt, deadline=deadline):
            return function(*args, **kwargs)

    setattr(in_scope, _MARK, True)
    return in_scope
