"""Looking at processes."""

from __future__ import annotations

import os


def exists(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
