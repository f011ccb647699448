"""Remote control: ``celery inspect geventpg``, ``celery control geventpg_resize`` and ``_drain``.

Where the worker's pools are in this process, it answers itself. Under prefork it asks its children.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg

from . import overview, worker
from .children import CHILDREN


def inspect_pools(state: Any, **_kwargs: Any) -> dict[str, Any]:
    """Return ``{"processes": [...]}``: each process of the worker with its pools.

    Processes that did not answer have an ``error`` in place of ``pools``.
    """
    answers, failures = _ask(state, "describe")
    failed = [{"pid": pid, "error": reason} for pid, reason in failures.items()]
    return {"processes": sorted(answers + failed, key=lambda process: process["pid"])}


def resize_pools(
    state: Any,
    min_size: int | None = None,
    max_size: int | None = None,
    pool: str = "default",
    **_kwargs: Any,
) -> dict[str, Any]:
    """Resize the running pools; children that are started later have these sizes too."""
    if min_size is None:
        return {"error": "which size? geventpg_resize MIN [MAX [POOL]]"}
    try:
        answers, failures = _ask(state, "resize", min_size=min_size, max_size=max_size, pool=pool)
    except (psycopg.Error, LookupError) as error:
        return {"error": str(error)}
    if answers and _child_pids(state) is not None:
        sizes = answers[0]
        worker.resize_later(pool, sizes["min_size"], sizes["max_size"])
    return _told(answers, failures, f"{pool!r} resized")


def drain_pools(state: Any, pool: str = "default", **_kwargs: Any) -> dict[str, Any]:
    """Drain the running pools. Does not wait for the connections in use."""
    try:
        answers, failures = _ask(state, "drain", pool=pool)
    except (psycopg.Error, LookupError) as error:
        return {"error": str(error)}
    return _told(answers, failures, f"{pool!r} drained")


def _ask(state: Any, command: str, **arguments: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    pids = _child_pids(state)
    if pids is None:
        return [overview.COMMANDS[command](**arguments)], {}
    return CHILDREN.ask(pids, command, **arguments)


def _child_pids(state: Any) -> Iterable[int] | None:
    """Return the process ids of a prefork worker's children, ``None`` for other workers."""
    if not worker.is_prefork():
        return None
    try:
        pids = state.consumer.pool.info["processes"]
    except AttributeError:
        return []  # the task pool was stopped
    return [pid for pid in pids if pid is not None]


def _told(answers: list[dict[str, Any]], failures: dict[int, str], done: str) -> dict[str, Any]:
    text = f"{done} in {len(answers)} process(es)"
    if not failures:
        return {"ok": text}
    failed = "; ".join(f"process {pid}: {reason}" for pid, reason in sorted(failures.items()))
    return {"error": f"{text}; {failed}"}


def register() -> None:
    """Register the commands in workers, and in Celery's commands ``inspect`` and ``control``."""
    from celery.worker.control import Panel  # all of a worker's code: not for web processes

    Panel.register(
        name="geventpg",
        type="inspect",
        help="Pools: sizes, waiters, and the holder of each connection.",
    )(inspect_pools)
    Panel.register(
        name="geventpg_resize",
        type="control",
        signature="MIN [MAX [POOL]]",
        args=[("min_size", int), ("max_size", int), ("pool", str)],
        help="Change the size of a pool in every process of the worker.",
    )(resize_pools)
    Panel.register(
        name="geventpg_drain",
        type="control",
        signature="[POOL]",
        args=[("pool", str)],
        help="Replace a pool's connections: idle ones now, others when they are returned.",
    )(drain_pools)
