"""The same loop as ``throughput``, as asyncio tasks for asyncpg."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from benchmarks.job import Job, Sample
from benchmarks.measures.rates import RAMP_UP, Reading, rates
from benchmarks.usage import cpu_seconds
from benchmarks.workload import SELECT_DOLLAR, WARM_KEYS, random_key, require


async def warm(pool: Any, connections: int) -> None:
    held = [await pool.acquire() for _ in range(connections)]
    for conn in held:
        for key in WARM_KEYS:
            require(await conn.fetchrow(SELECT_DOLLAR, key), key)
        await pool.release(conn)


async def throughput(pool: Any, job: Job) -> Sample:
    await warm(pool, job.connections)
    counts = [0] * job.cell.count
    running = True

    async def user(number: int) -> None:
        while running:
            key = random_key()
            async with pool.acquire() as conn:
                row = await conn.fetchrow(SELECT_DOLLAR, key)
            require(row, key)
            counts[number] += 1

    async def user_in_transactions(number: int) -> None:
        while running:
            key = random_key()
            async with pool.acquire() as conn, conn.transaction():
                row = await conn.fetchrow(SELECT_DOLLAR, key)
            require(row, key)
            counts[number] += 1

    def read() -> Reading:
        return Reading(perf_counter(), cpu_seconds(), tuple(counts))

    chosen = user if job.cell.autocommit else user_in_transactions
    users = [asyncio.create_task(chosen(number)) for number in range(job.cell.count)]
    await asyncio.sleep(RAMP_UP)
    before = read()
    await asyncio.sleep(job.seconds)
    after = read()
    running = False
    await asyncio.gather(*users)
    return rates(before, after)
