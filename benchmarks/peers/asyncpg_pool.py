"""asyncpg's pool on uvloop: https://magicstack.github.io/asyncpg/current/usage.html."""

from __future__ import annotations

from typing import Any

import asyncpg
import uvloop

from benchmarks.job import Job, Sample
from benchmarks.measures.throughput_asyncio import throughput
from benchmarks.peers.asyncpg_options import connect_options


async def _sample(job: Job, **pool_options: Any) -> Sample:
    async with asyncpg.create_pool(
        min_size=job.connections,
        max_size=job.connections,
        **connect_options(job.conninfo),
        **pool_options,
    ) as pool:
        return await throughput(pool, job)


def measure(job: Job, **pool_options: Any) -> Sample:
    """By default the pool resets a connection on each release: one more round trip."""
    return uvloop.run(_sample(job, **pool_options))
