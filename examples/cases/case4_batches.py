"""Case 4: a batch in a pipeline, and the server or the pooler goes in the middle of it.

pgx's Pool.SendBatch (Go) through PgBouncer, during a restart of the server: FATAL arrived in the
middle of the pipeline, its cleaning up was not idempotent, and the program panicked. Here batches
are cut at every part of the server's answer, the server and PgBouncer are killed under them, and
greenlets are interrupted in them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import gevent
import psycopg
from psycopg_pool import ConnectionPool

import geventpg
from examples.cases.support import (
    OURS,
    STOCK,
    Comparison,
    NotInstalledError,
    Server,
    described,
    in_greenlets,
    needs_pgbouncer,
    run,
)
from geventpg.testing import PgBouncer, TcpProxy

WAYS = (STOCK, OURS)
BATCH, CONNECTIONS, GREENLETS = 50, 4, 8
HUNG = 5.0  # seconds

Statement = tuple[str, tuple[Any, ...]]


def pool_of(way: str, conninfo: str, size: int = CONNECTIONS) -> ConnectionPool[Any]:
    cls = geventpg.Pool if way == OURS else ConnectionPool
    return cls(conninfo, min_size=size, max_size=size, timeout=HUNG, open=True)


def send(pool: ConnectionPool[Any], statements: Sequence[Statement]) -> list[Any]:
    """Send a batch, all or nothing; return the row of each statement."""
    if isinstance(pool, geventpg.Pool):
        batch = geventpg.Batch()
        for query, params in statements:
            batch.queue(query, params)
        return [result.rows[0] for result in pool.send_batch(batch)]
    with pool.connection() as conn:  # psycopg's way
        with conn.pipeline():
            cursors = [conn.execute(query, params) for query, params in statements]
        return [cursor.fetchone() for cursor in cursors]


def batch_of(number: int) -> list[Statement]:
    return [("select %s::int, repeat('x', 20)", (number + i,)) for i in range(BATCH)]


@dataclass
class Outcomes:
    """How batches ended."""

    right: int = 0
    wrong: int = 0
    hung: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    untyped: Counter[str] = field(default_factory=Counter)

    def send(self, pool: ConnectionPool[Any], number: int) -> bool:
        """Send a batch, and tell whether every statement got its own result."""
        try:
            with gevent.Timeout(HUNG):
                rows = send(pool, batch_of(number))
        except gevent.Timeout:
            self.hung += 1
        except psycopg.Error as error:
            self.errors[type(error).__name__] += 1
        except Exception as error:
            self.untyped[type(error).__name__] += 1
        else:
            if rows == [(number + i, "x" * 20) for i in range(BATCH)]:
                self.right += 1
                return True
            self.wrong += 1
        return False

    def enter(self, table: Comparison, way: str, what: str) -> None:
        table.set(way, f"{what}: batches with all results", self.right)
        table.set(way, f"{what}: with a typed error", sum(self.errors.values()))
        others = self.wrong + self.hung + sum(self.untyped.values())
        table.set(way, f"{what}: wrong, hung or untyped", others, fault=True)
        if self.untyped:
            table.note(f"{way}, {what}: {described(self.untyped)}.")


def check(
    table: Comparison, way: str, what: str, pool: ConnectionPool[Any], size: int = CONNECTIONS
) -> None:
    """Count the connections of the pool that can be had and used, all at once."""
    held: list[Any] = []
    usable = 0
    try:
        for _ in range(size):
            held.append(pool.getconn(timeout=1.0))
            held[-1].execute("select 1")
            usable += 1
    except psycopg.Error:
        pass
    for conn in held:
        pool.putconn(conn)
    table.set(way, f"{what}: connections lost from the pool", size - usable, fault=True)


# -- the faults ----------------------------------------------------------------------------------


def cut(table: Comparison, way: str, server: Server, step: int) -> None:
    """Cut the connection after each possible number of bytes of the answer, in steps."""
    with (
        TcpProxy(server.postgres.host, server.postgres.port) as proxy,
        pool_of(way, proxy.dsn(server.conninfo(way)), size=1) as pool,
    ):
        pool.wait()
        send(pool, batch_of(0))
        before = proxy.forwarded("from_server")
        send(pool, batch_of(0))
        length = proxy.forwarded("from_server") - before
        outcomes, next_ones = Outcomes(), Outcomes()
        for offset in range(0, length, step):
            proxy.cut_next(offset, "from_server")
            outcomes.send(pool, offset)
            next_ones.send(pool, offset)
        outcomes.enter(table, way, "cut in the answer")
        failed = sum(next_ones.errors.values()) + next_ones.hung + next_ones.wrong
        table.set(way, "cut in the answer: next batch fails", failed, fault=True)
        check(table, way, "cut in the answer", pool, size=1)


@contextmanager
def under_load(pool: ConnectionPool[Any], seconds: float) -> Iterator[Outcomes]:
    """Have greenlets send batch after batch while something happens, and for some time after."""
    outcomes = Outcomes()
    stop = monotonic() + 60

    def user(number: int) -> None:
        while monotonic() < stop:
            outcomes.send(pool, 1000 * number)
            gevent.sleep(0.01)

    users = gevent.spawn(in_greenlets, GREENLETS, user, 90)
    gevent.sleep(0.2)
    yield outcomes
    stop = monotonic() + seconds
    users.get()


def killed(table: Comparison, way: str, server: Server, seconds: float) -> None:
    with pool_of(way, server.conninfo(way)) as pool:
        pool.wait()
        with under_load(pool, seconds) as outcomes:
            server.postgres.restart("immediate")
        outcomes.enter(table, way, "server killed")
        check(table, way, "server killed", pool)


def pooler_killed(table: Comparison, way: str, server: Server, seconds: float) -> None:
    with (
        PgBouncer(server.postgres, "transaction", CONNECTIONS) as pooler,
        pool_of(way, pooler.dsn) as pool,
    ):
        pool.wait()
        with under_load(pool, seconds) as outcomes:
            pooler.kill()
            pooler.start()
        outcomes.enter(table, way, "PgBouncer killed")
        check(table, way, "PgBouncer killed", pool)


def interrupted(table: Comparison, way: str, server: Server) -> None:
    """Interrupt greenlets in the middle of a batch, and others that wait for a connection."""
    slow = [*batch_of(0)[:10], ("select pg_sleep(20)", ()), *batch_of(10)]
    pool = pool_of(way, server.conninfo(way))
    pool.wait()

    others: Counter[str] = Counter()

    def user(_number: int) -> None:
        try:
            with gevent.Timeout(0.2, False):
                send(pool, slow)
        except psycopg.Error as error:
            others[str(error)] += 1

    hung = in_greenlets(GREENLETS, user, timeout=3)
    gevent.sleep(0.3)
    table.set(way, "interrupted: hung", hung, fault=True)
    label = "interrupted: time-outs replaced by an error"
    table.set(way, label, sum(others.values()), fault=True)
    if others:
        table.note(f"{way}, {label}: {described(others)}.")
    left = server.count(way, "query like '%%pg_sleep%%' and state = 'active'")
    table.set(way, "interrupted: statements left on the server", left, fault=True)
    check(table, way, "interrupted", pool)
    server.terminate(way)
    pool.close(timeout=0.5)


def compare(short: bool) -> Comparison:
    table = Comparison(f"Case 4: batches of {BATCH} statements in a pipeline", WAYS)
    with Server() as server:
        for way in WAYS:
            cut(table, way, server, 400 if short else 150)
        for way in WAYS:
            killed(table, way, server, 0.3)
        try:
            needs_pgbouncer(server)
            for way in WAYS:
                pooler_killed(table, way, server, 0.3)
        except NotInstalledError as error:
            table.note(f"Without the part with PgBouncer: {error}.")
        for way in WAYS:
            interrupted(table, way, server)
    table.note(
        f"Pools of {CONNECTIONS} connections. A typed error is a psycopg.Error. A batch that takes"
        f" {HUNG:g} s hangs. Interrupted: {GREENLETS} greenlets by gevent.Timeout."
    )
    return table


if __name__ == "__main__":
    run(compare, __doc__ or "")
