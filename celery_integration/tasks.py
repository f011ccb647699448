"""A task's body as a unit of work: commit before success is reported, else roll back.

The innermost ``run`` is wrapped. So a commit that fails is an exception of the task's body: it goes
through ``autoretry_for`` and the task's retry policy like any other, and nothing was reported
before. Celery's own signals around a task come too late for that (``task_postrun`` comes after the
result) or outside the time limit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from time import monotonic
from typing import Any

from celery.app.trace import task_has_custom

from geventpg.pool.work import doing
from geventpg.registry.scope import Scope
from geventpg.transactions.unit_of_work import unit_of_work

from .retries import ATTRIBUTE, RetryPolicy

_MARK = "_geventpg_wrapped"


def wrap_task(task: Any) -> None:
    """Run *task*'s body in a unit of work. Idempotent; Celery's own tasks are left out."""
    if task.name.startswith("celery."):
        return
    # With autoretry_for, Celery keeps the body under this name and `run` is its retry loop.
    name = "_orig_run" if hasattr(task, "_orig_run") else "run"
    run = getattr(task, name)
    if not getattr(run, _MARK, False):
        setattr(task, name, _body_in_scope(run, task))
    if task_has_custom(task, "__call__"):
        # `__call__` may use connections after the body. Python looks it up on the class.
        cls = type(task)
        if not getattr(cls.__call__, _MARK, False):
            cls.__call__ = _call_in_scope(cls.__call__)


def _body_in_scope(body: Callable[..., Any], task: Any) -> Callable[..., Any]:
    @wraps(body)
    def in_scope(*args: Any, **kwargs: Any) -> Any:
        # It is looked up now, because `task_annotations` sets it after the task was wrapped.
        policy: RetryPolicy | None = getattr(task, ATTRIBUTE, None)
        with doing(task.name, task.request.id):
            if policy is None or task.request.called_directly or _scope(task).joins:
                with _scope(task):
                    return body(*args, **kwargs)

            def unit() -> Any:
                with unit_of_work(**_options(task)):
                    return body(*args, **kwargs)

            return policy.run(task, unit)

    setattr(in_scope, _MARK, True)
    return in_scope


def _call_in_scope(call: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(call)
    def in_scope(self: Any, *args: Any, **kwargs: Any) -> Any:
        with doing(self.name, self.request.id), _scope(self):
            return call(self, *args, **kwargs)

    setattr(in_scope, _MARK, True)
    return in_scope


def _scope(task: Any) -> Any:
    return Scope(**_options(task))


def _options(task: Any) -> dict[str, Any]:
    request = task.request
    # In a worker the greenlet is the task's own, and what hooks did before the body is its work.
    # Called directly or eagerly, the task may be part of another unit of work, and has no limit.
    if request.called_directly or request.is_eager:
        return {"adopt": False}
    return {"adopt": True, "deadline": _deadline_of(task)}


def _deadline_of(task: Any) -> float | None:
    """Return the time (``time.monotonic``) at which a task that begins now reaches its limit.

    ``statement_timeout="remaining"`` is derived from it. It is the earlier one of the soft and the
    hard limit, which the message has or else the task; ``None`` if there is neither. It counts also
    where the worker's pool enforces no limit, because the server can.
    """
    hard, soft = task.request.timelimit or (None, None)
    limits = [limit for limit in (hard or task.time_limit, soft or task.soft_time_limit) if limit]
    return monotonic() + min(limits) if limits else None
