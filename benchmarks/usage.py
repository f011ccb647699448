"""What this process has used so far."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path


def cpu_seconds(who: int = resource.RUSAGE_SELF) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def resident_bytes() -> int:
    """Resident memory after a garbage collection (Linux)."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
