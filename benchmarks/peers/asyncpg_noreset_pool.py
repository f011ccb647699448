"""asyncpg's pool with its reset on release turned off, as no other peer here resets."""

from __future__ import annotations

from typing import Any

from benchmarks.job import Job, Sample
from benchmarks.peers import asyncpg_pool


async def _leave_as_it_is(conn: Any) -> None:
    """A ``reset`` callback that sends nothing."""


def measure(job: Job) -> Sample:
    return asyncpg_pool.measure(job, reset=_leave_as_it_is)
