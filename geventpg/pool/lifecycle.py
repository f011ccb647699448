"""What happens to open pools when the process forks or ends."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any

from geventpg import hub

open_pools: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every open `Pool` of this process."""

on_open: list[Callable[[Any], object]] = []
"""Called with each `Pool` that opens."""


def _close_at_exit() -> None:
    # While the hub still works: later its greenlets could only die noisily.
    for pool in list(open_pools):
        pool.abort(timeout=2.0, wake=False)


def _start_afresh_in_child() -> None:
    hub.abandon_half_open()
    for pool in list(open_pools):
        pool.start_anew_in_child()


atexit.register(_close_at_exit)
os.register_at_fork(after_in_child=_start_afresh_in_child)
