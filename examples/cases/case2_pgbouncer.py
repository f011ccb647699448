"""Case 2: "prepared statement does not exist" behind PgBouncer.

BBOT, on asyncpg, through PgBouncer. The driver prepares statements on what it takes for a
connection to the server; in transaction and statement mode the next statement goes to another one.
psycopg does the same from the sixth execution on, and gets other statements' results, too. Its
documentation says to set prepare_threshold to None behind a pooler; geventpg finds out whether
there is one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

import geventpg
from examples.cases.support import (
    OURS,
    STOCK,
    Comparison,
    Server,
    described,
    in_greenlets,
    needs_pgbouncer,
    run,
)
from geventpg.testing import PgBouncer

TOLD = "psycopg_pool, prepare_threshold=None"
WAYS = (STOCK, TOLD, OURS)
MODES = ("session", "transaction", "statement")
GREENLETS, STATEMENTS = 50, 60
CONNECTIONS, SERVER_CONNECTIONS = 20, 5

KWARGS: dict[str, dict[str, Any]] = {
    STOCK: {"autocommit": True},
    TOLD: {"autocommit": True, "prepare_threshold": None},
    OURS: {"autocommit": True},
}


def pool_of(way: str, conninfo: str, size: int, **options: Any) -> ConnectionPool[Any]:
    cls = geventpg.Pool if way == OURS else ConnectionPool
    return cls(
        conninfo, kwargs=KWARGS[way], min_size=size, max_size=size, open=True, timeout=20, **options
    )


def program(pool: ConnectionPool[Any], statements: int) -> tuple[int, Counter[str]]:
    """Execute parameterised statements; return how many were right, and the errors."""
    right = 0
    errors: Counter[str] = Counter()

    def work(number: int) -> None:
        nonlocal right
        for i in range(statements):
            try:
                with pool.connection() as conn:
                    query = f"select %s::int + %s::int, {i % 7}"
                    row = conn.execute(query, (number, i)).fetchone()
            except psycopg.Error as error:
                errors[kind(error)] += 1
            else:
                right += row == (number + i, i % 7)

    pool.wait()
    in_greenlets(GREENLETS, work)
    return right, errors


def kind(error: psycopg.Error) -> str:
    for words in ("does not exist", "already exists"):
        if words in str(error):
            return f"prepared statement {words}"
    return type(error).__name__


def compare(short: bool) -> Comparison:
    statements = 12 if short else STATEMENTS
    ways = (STOCK, OURS) if short else WAYS
    total = GREENLETS * statements
    table = Comparison(
        f"Case 2: {total:,} statements of {GREENLETS} greenlets through PgBouncer", ways
    )
    with Server() as server:
        needs_pgbouncer(server)
        for mode in MODES:
            with PgBouncer(server.postgres, mode, SERVER_CONNECTIONS) as pooler:
                for way in ways:
                    # In session mode a connection has one of the server's to itself.
                    size = SERVER_CONNECTIONS if mode == "session" else CONNECTIONS
                    with pool_of(way, pooler.dsn, size) as pool:
                        right, errors = program(pool, statements)
                    failed = sum(errors.values())
                    table.set(way, f"{mode} mode: right results", right)
                    table.set(way, f"{mode} mode: errors", failed, fault=True)
                    table.set(
                        way, f"{mode} mode: wrong results", total - right - failed, fault=True
                    )
                    if errors:
                        table.note(f"{way}, {mode} mode: {described(errors)}.")
        for way in ways:
            direct(table, way, server.postgres.dsn)
        forced(table, server)
    table.note(
        f"{CONNECTIONS} connections ({SERVER_CONNECTIONS} in session mode) to {SERVER_CONNECTIONS}"
        " connections of PgBouncer's. Autocommit, as statement mode has no transactions. Everything"
        " else has its default."
    )
    return table


def direct(table: Comparison, way: str, conninfo: str) -> None:
    """Execute a statement ten times without a pooler; is it prepared by then?"""
    with pool_of(way, conninfo, 1) as pool, pool.connection() as conn:
        table.set(way, "without a pooler: statements prepared", executed_ten_times(conn))


def forced(table: Comparison, server: Server) -> None:
    """What geventpg does if it is told, through a pooler in session mode and without one."""
    with PgBouncer(server.postgres, "session", SERVER_CONNECTIONS) as pooler:
        for prepare, conninfo in (("always", pooler.dsn), ("never", server.postgres.dsn)):
            with (
                geventpg.Pool(
                    conninfo, prepare=prepare, kwargs=KWARGS[OURS], min_size=1, max_size=1
                ) as pool,
                pool.connection() as conn,
            ):
                place = "behind PgBouncer" if prepare == "always" else "without a pooler"
                label = f'prepare="{prepare}" {place}: statements prepared'
                table.set(OURS, label, executed_ten_times(conn))


def executed_ten_times(conn: psycopg.Connection[Any]) -> int:
    for number in range(10):
        conn.execute("select %s::int", (number,))
    row = conn.execute("select count(*) from pg_prepared_statements", prepare=False).fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    run(compare, __doc__ or "")
