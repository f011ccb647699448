"""Case 3: the same errors without a pooler, when connections of a pool differ.

wasmCloud's PostgreSQL provider: a statement prepared on one connection of the pool was executed on
another. The same happens when statements go away under the driver: DEALLOCATE ALL or DISCARD ALL
that it did not see (in a function, by a pooler's reset query, by other code on the connection), or
DDL that changes what a prepared statement returns.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from time import monotonic
from typing import Any

import gevent
import psycopg
from psycopg_pool import ConnectionPool

import geventpg
from examples.cases.support import OURS, STOCK, Comparison, Server, described, in_greenlets, run

WAYS = (STOCK, OURS)
GREENLETS, CONNECTIONS = 20, 5
ROWS = 50


def pool_of(way: str, conninfo: str) -> ConnectionPool[Any]:
    cls = geventpg.Pool if way == OURS else ConnectionPool
    # In autocommit mode: transactions are what a block says.
    return cls(
        conninfo,
        kwargs={"autocommit": True, "prepare_threshold": 1},
        min_size=CONNECTIONS,
        max_size=CONNECTIONS,
        open=True,
    )


def prepare_and_execute_elsewhere(table: Comparison, way: str, pool: ConnectionPool[Any]) -> None:
    """Prepare once, execute on whatever connection the pool gives."""
    errors: Counter[str] = Counter()
    if isinstance(pool, geventpg.Pool):
        find = pool.prepare("select name from thing where id = %s")
    else:  # by hand, as drivers with explicit statements have it
        with pool.connection() as conn:
            conn.execute("prepare find (int) as select name from thing where id = $1")

    def work(number: int) -> None:
        with pool.connection() as conn:
            gevent.sleep(0.01)  # so that all connections are taken
            try:
                if way == STOCK:
                    conn.execute(f"execute find ({number})")
                else:
                    conn.execute(find, (number,))
            except psycopg.Error as error:
                errors[type(error).__name__] += 1

    in_greenlets(GREENLETS, work)
    table.set(
        way,
        f"prepared on one connection, executed {GREENLETS} times on any: errors",
        sum(errors.values()),
        fault=True,
    )


def deallocate(pool: ConnectionPool[Any], _server: Server) -> None:
    with pool.connection() as conn:
        conn.execute("do $$ begin execute 'deallocate all'; end $$", prepare=False)


def discard(pool: ConnectionPool[Any], _server: Server) -> None:
    with pool.connection() as conn:
        conn.pgconn.exec_(b"DISCARD ALL")  # as code that goes past the driver does


def alter(_pool: ConnectionPool[Any], server: Server) -> None:
    server.sql("alter table thing add column if not exists more int default 1")
    server.sql("alter table thing drop column more")


DISTURBANCES = {"DEALLOCATE ALL": deallocate, "DISCARD ALL": discard, "ALTER TABLE": alter}


def plainly(_way: str, pool: ConnectionPool[Any], work: Callable[[Any], None]) -> None:
    with pool.connection() as conn:
        work(conn)


def in_a_transaction(way: str, pool: ConnectionPool[Any], work: Callable[[Any], None]) -> None:
    if way == OURS:
        geventpg.run_in_transaction(work, pool=pool)
        return
    with pool.connection() as conn, conn.transaction():
        work(conn)


def statement(conn: psycopg.Connection[Any]) -> None:
    key = random.randrange(ROWS)
    row = conn.execute("select * from thing where id = %s", (key,)).fetchone()
    assert row is not None
    if row[:2] != (key, f"name {key}"):
        raise WrongResultError(row)


def two_statements(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select count(*) from thing")
    statement(conn)


class WrongResultError(Exception):
    """Not what is in the table."""


@contextmanager
def again_and_again(action: Callable[[], None], pause: float) -> Any:
    def loop() -> None:
        while True:
            action()
            gevent.sleep(pause)

    greenlet = gevent.spawn(loop)
    try:
        yield
    finally:
        if greenlet.ready():
            greenlet.get()
        greenlet.kill()


def under_load(
    table: Comparison, way: str, pool: ConnectionPool[Any], server: Server, seconds: float
) -> None:
    for name, disturb in DISTURBANCES.items():
        for place, enclose, work in (
            ("", plainly, statement),
            (", in transactions", in_a_transaction, two_statements),
        ):
            executed = wrong = 0
            errors: Counter[str] = Counter()
            stop = monotonic() + seconds

            def user(_number: int) -> None:
                nonlocal executed, wrong
                while monotonic() < stop:  # noqa: B023  # it is over before stop changes
                    executed += 1
                    try:
                        enclose(way, pool, work)  # noqa: B023
                    except psycopg.Error as error:
                        errors[type(error).__name__] += 1  # noqa: B023
                    except WrongResultError:
                        wrong += 1
                    gevent.sleep(0.002)

            with again_and_again(lambda: disturb(pool, server), 0.01):  # noqa: B023
                in_greenlets(GREENLETS, user)
            label = f"{name}{place}"
            table.set(way, f"{label}: executed", executed)
            table.set(way, f"{label}: errors", sum(errors.values()), fault=True)
            table.set(way, f"{label}: wrong results", wrong, fault=True)
            if errors:
                table.note(f"{way}, {label}: {described(errors)}.")


def compare(short: bool) -> Comparison:
    table = Comparison(
        f"Case 3: statements that go away under {GREENLETS} greenlets on {CONNECTIONS} connections",
        WAYS,
    )
    with Server() as server:
        server.sql("create table thing (id int primary key, name text)")
        server.sql("insert into thing select i, 'name ' || i from generate_series(0, 49) i")
        for way in WAYS:
            with pool_of(way, server.conninfo(way)) as pool:
                pool.wait()
                prepare_and_execute_elsewhere(table, way, pool)
            with pool_of(way, server.conninfo(way)) as pool:
                pool.wait()
                under_load(table, way, pool, server, 0.15 if short else 0.7)
                if isinstance(pool, geventpg.Pool):
                    stats = pool.get_stats()
                    healed, lost = stats["statements_healed"], stats["statements_lost"]
                    table.set(way, "healed, by the pool's own count", healed)
                    table.set(way, "transactions run again for one, by its count", lost)
    table.note(
        "In transactions: two statements in conn.transaction(), or in run_in_transaction()."
        " Statements are prepared at their second execution (prepare_threshold=1) in both."
    )
    return table


if __name__ == "__main__":
    run(compare, __doc__ or "")
