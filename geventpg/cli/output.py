"""How figures are written, the same in all commands."""

from __future__ import annotations

import math


def milliseconds(seconds: float) -> str:
    """Write a time: ``12.3 ms``."""
    if math.isinf(seconds):
        return "without end"
    return f"{seconds * 1000:,.1f} ms"


def duration(seconds: float) -> str:
    """Write how long something lasts: ``850 ms``, ``12.3 s``, ``4 min``, ``2.5 h``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
