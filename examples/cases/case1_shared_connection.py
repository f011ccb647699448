"""Case 1: 5 ms queries take 500 ms, because 100 greenlets share one connection.

psycopg/psycopg#919: a Celery worker on gevent, with one connection in a module-level variable.
psycopg lets greenlets use it in turn, so each waits for all the others. A pool ends that, if it
has enough connections, says what is waiting and what is use, and can be resized while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import gevent
import psycopg
from psycopg_pool import ConnectionPool

import geventpg
from examples.cases.support import OURS, STOCK, Comparison, Server, in_greenlets, percentile, run

SHARED = "shared connection"
GREENLETS = 100
QUERY = "select pg_sleep(0.005)"
OTHER_IO = 0.07  # seconds that a task does something else after each query
MIN_SIZE, MAX_SIZE = 4, 20
FEW = 5
MAX_LIFETIME = 0.6

Connect = Callable[[], Any]  # returns a context manager with a connection


@dataclass
class Times:
    """Seconds that queries took: until the connection was there, and from then on."""

    wait: list[float] = field(default_factory=list)
    use: list[float] = field(default_factory=list)

    @property
    def latency(self) -> list[float]:
        return [wait + use for wait, use in zip(self.wait, self.use, strict=True)]


def load(connect: Connect, greenlets: int, queries: int, other_io: float = OTHER_IO) -> Times:
    times = Times()

    def task(number: int) -> None:
        gevent.sleep(other_io * number / greenlets)  # they do not all begin at once
        for _ in range(queries):
            started = monotonic()
            with connect() as conn:
                got = monotonic()
                conn.execute(QUERY)
            times.wait.append(got - started)
            times.use.append(monotonic() - got)
            gevent.sleep(other_io)

    in_greenlets(greenlets, task)
    return times


@contextmanager
def shared(conninfo: str) -> Iterator[Connect]:
    with psycopg.connect(conninfo, autocommit=True) as conn:

        @contextmanager
        def connect() -> Iterator[psycopg.Connection[Any]]:
            yield conn

        yield connect


def pool_of(way: str, conninfo: str, **options: Any) -> ConnectionPool[Any]:
    options = {"min_size": MIN_SIZE, "max_size": MAX_SIZE, **options}
    cls = ConnectionPool if way == STOCK else geventpg.Pool
    return cls(conninfo, kwargs={"autocommit": True}, open=True, **options)


def idle_for_long(table: Comparison, server: Server, *ways: str) -> None:
    """Let the pools lie idle, all at once: they only wait."""

    def lie_idle(number: int) -> None:
        way = ways[number]
        with pool_of(way, server.conninfo(way), max_lifetime=MAX_LIFETIME) as pool:
            recycling(table, way, pool, server)

    in_greenlets(len(ways), lie_idle)


def compare(short: bool) -> Comparison:
    ways = (SHARED, STOCK, OURS)
    table = Comparison(f"Case 1: {GREENLETS} greenlets, queries of 5 ms, pools of {MAX_SIZE}", ways)
    queries = 2 if short else 6
    with Server() as server:
        for way in ways:
            if way == SHARED:
                with shared(server.conninfo(way)) as connect:
                    latency(table, way, connect, queries)
                continue
            with pool_of(way, server.conninfo(way)) as pool:
                latency(table, way, pool.connection, queries)
                own_times(table, way, pool)
            with pool_of(way, server.conninfo(way), max_size=FEW) as pool:
                resizing(table, way, pool, server)
                rebuilding(table, way, pool, server)
        idle_for_long(table, server, STOCK, OURS)
    table.note(
        f"Each of the {GREENLETS} greenlets does {1000 * OTHER_IO:.0f} ms of other I/O after each"
        " query, so that about 10 queries are under way at once. Connections are in autocommit"
        f" mode. Both pools: min_size {MIN_SIZE}, max_size {MAX_SIZE}, otherwise their defaults."
    )
    return table


def latency(table: Comparison, way: str, connect: Connect, queries: int) -> None:
    load(connect, GREENLETS, 1)  # the pools grow
    alone = load(connect, 1, 20, other_io=0.005)
    together = load(connect, GREENLETS, queries)
    one, many = percentile(alone.latency, 50), percentile(together.latency, 50)
    assert one is not None
    assert many is not None
    table.set(way, "latency of one greenlet alone, p50 (ms)", one)
    table.set(way, f"latency at {GREENLETS} greenlets, p50 (ms)", many)
    table.set(way, "times slower than alone", many / one)
    table.set(way, f"latency at {GREENLETS} greenlets, p95 (ms)", percentile(together.latency, 95))
    if way == SHARED:  # the queue is a lock inside execute()
        table.set(way, "waiting for a connection, p95 (ms)", "in execute()")
        return
    table.set(way, "waiting for a connection, p95 (ms)", percentile(together.wait, 95))
    table.set(way, "using it, p95 (ms)", percentile(together.use, 95))


def own_times(table: Comparison, way: str, pool: ConnectionPool[Any]) -> None:
    """What the pool itself says, in its statistics."""
    stats = pool.get_stats()
    requests = stats["requests_num"]
    table.set(way, "the pool's own count: waiting, mean (ms)", stats["requests_wait_ms"] / requests)
    table.set(way, "the pool's own count: use, mean (ms)", stats["usage_ms"] / requests)


def resizing(table: Comparison, way: str, pool: ConnectionPool[Any], server: Server) -> None:
    """Make a pool that is too small larger, and smaller again, while all greenlets use it."""
    load(pool.connection, FEW, 1)
    waits: dict[int, list[float]] = {FEW: [], MAX_SIZE: []}
    stop = monotonic() + 1.0
    resized = stop - 0.5

    def task(_number: int) -> None:
        while (started := monotonic()) < stop:
            with pool.connection() as conn:
                got = monotonic()
                conn.execute(QUERY)
            settled = got > resized + 0.25
            if got < resized or settled:
                waits[MAX_SIZE if settled else FEW].append(got - started)
            gevent.sleep(0.02)

    def resize() -> None:
        gevent.sleep(resized - monotonic())
        pool.resize(MIN_SIZE, MAX_SIZE)

    resizer = gevent.spawn(resize)
    in_greenlets(40, task)
    resizer.get()
    table.set(way, f"waiting with max_size {FEW}, p50 (ms)", percentile(waits[FEW], 50))
    table.set(
        way, f"waiting after resize() to {MAX_SIZE}, p50 (ms)", percentile(waits[MAX_SIZE], 50)
    )
    pool.resize(MIN_SIZE, FEW)
    gevent.sleep(0.5)
    table.set(way, f"connections 0.5 s after resize() to {FEW}", server.count(way))


def rebuilding(table: Comparison, way: str, pool: ConnectionPool[Any], server: Server) -> None:
    """Terminate all backends while the pool is idle; users come half a second later."""
    server.terminate(way)
    gevent.sleep(0.5)
    errors = []

    def user(_number: int) -> None:
        try:
            with pool.connection() as conn:
                conn.execute(QUERY)
        except psycopg.Error as error:
            errors.append(error)

    in_greenlets(FEW, user)
    table.set(way, "user errors after all idle backends were ended", len(errors), fault=True)


def recycling(table: Comparison, way: str, pool: ConnectionPool[Any], server: Server) -> None:
    """Leave connections idle for longer than they may live."""
    pool.wait()
    gevent.sleep(MAX_LIFETIME * 1.7)
    old = server.count(way, f"backend_start < now() - interval '{MAX_LIFETIME * 1.5} s'")
    table.set(way, "idle connections 1.5 times as old as max_lifetime", old, fault=True)


if __name__ == "__main__":
    run(compare, __doc__ or "")
