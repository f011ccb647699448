"""What happens to open pools when the process forks or ends."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from geventpg import hub

if TYPE_CHECKING:
    from .pool import Pool

open_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
"""Every open pool of this process."""

on_open: list[Callable[[Pool[Any]], object]] = []
"""Called with each pool that opens."""


def _close_at_exit() -> None:
    # While the hub still works: later its greenlets could only die noisily.
    for pool in list(open_pools):
        pool.abort(timeout=2.0, wake=False)


def _start_afresh_in_child() -> None:
    hub.abandon_half_open()
    for pool in list(open_pools):
        pool._after_fork()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_start_afresh_in_child)
