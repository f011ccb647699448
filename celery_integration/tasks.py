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

from geventpg import registry

_MARK = "_geventpg_wrapped"


def wrap_task(task: Any) -> None:
    """Run *task*'s body in `geventpg.registry.scope`. Idempotent; Celery's own are left out."""
    if task.name.startswith("celery."):
        return
    # With autoretry_for, Celery keeps the body under this name and `run` is its retry loop.
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    run = getattr(task, name)
    if not getattr(run, _MARK, False):
        setattr(task, name, _in_scope(run))


def _in_scope(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        with registry.scope():
            return run(*args, **kwargs)

    setattr(in_scope, _MARK, True)
    return in_scope
