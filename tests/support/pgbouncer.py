"""The system's PgBouncer, which tests skip without."""

from __future__ import annotations

import os
import shutil

import pytest


def needs_pgbouncer() -> None:
    """Skip the test if the program is not installed."""
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("pgbouncer is not installed: apt-get install pgbouncer")
