"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.registry import PEERS


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_versions(peers: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in sorted({name for peer in peers for name in PEERS[peer].distributions}):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a distribution"
    return versions


def machine_facts(peers: Iterable[str], server: dict[str, str]) -> dict[str, Any]:
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu_count": os.cpu_count(),
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_at_start": os.getloadavg()[0],
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": server,
        "packages": package_versions(peers),
    }
