"""Looking at processes."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any


def exists(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that was started in a session of its own, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
