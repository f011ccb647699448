"""Greenlets by the thousand, all of them waiting before anything is read."""

from __future__ import annotations

from collections.abc import Callable

import gevent

from benchmarks.measures.warmup import PATIENCE

SETTLE = 0.1


def park(count: int, wait: Callable[[], None]) -> list[gevent.Greenlet]:
    """Start greenlets that call ``wait``; come back when every one of them is in it."""
    begun = 0

    def parked() -> None:
        nonlocal begun
        begun += 1
        wait()

    greenlets = [gevent.spawn(parked) for _ in range(count)]
    while begun < count:
        gevent.sleep(SETTLE)
    gevent.sleep(SETTLE)
    return greenlets


def release(greenlets: list[gevent.Greenlet]) -> None:
    """Wait for the end of all of them, now that nothing keeps them."""
    finished = gevent.joinall(greenlets, timeout=PATIENCE, raise_error=True)
    if len(finished) < len(greenlets):
        raise TimeoutError(f"{len(greenlets) - len(finished)} greenlets were never served")
