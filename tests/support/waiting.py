"""Waiting for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(
    predicate: Callable[[], T], timeout: float = 5.0, interval: float = 0.005, message: str = ""
) -> T:
    """Return *predicate*'s first true result; fail the test after *timeout* seconds without one.

    Other greenlets run meanwhile. The failure quotes the last result.
    """
    deadline = time.monotonic() + timeout
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= deadline:
            what = message or getattr(predicate, "__name__", repr(predicate))
            raise AssertionError(f"not within {timeout} s: {what} (last result: {result!r})")
        time.sleep(interval)
