"""Until when a task may run: what ``statement_timeout="remaining"`` is derived from."""

from __future__ import annotations

from time import monotonic
from typing import Any


def deadline_of(task: Any) -> float | None:
    """Return when (``time.monotonic``) the limit of a task that begins now is reached.

    It is the earlier one of the soft and the hard limit, of the message or else of the task, and
    also where the worker's pool enforces none: the server can. ``None`` if there is neither.
    """
    hard, soft = task.request.timelimit or (None, None)
    limits = [limit for limit in (hard or task.time_limit, soft or task.soft_time_limit) if limit]
    return monotonic() + min(limits) if limits else None
