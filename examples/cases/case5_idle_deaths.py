"""Case 5: "connection was closed in the middle of operation" on a plain SELECT.

Quivr, on SQLAlchemy and asyncpg: idle connections were closed by the server, or forgotten by the
network, and the next user's query found out. Here 20 connections lie idle when that happens, and
20 users come some time later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
    Server,
    described,
    in_greenlets,
    run,
)
from geventpg.testing import TcpProxy

try:
    import sqlalchemy
    from sqlalchemy.pool import QueuePool
except ImportError:
    sqlalchemy = None  # type: ignore[assignment]

CHECKED = "psycopg_pool, check"
ALCHEMY, PRE_PING = "SQLAlchemy", "SQLAlchemy, pre_ping"
USERS = 20
GIVE_UP = 2.0  # seconds
KEEPALIVE, PROBE_TIMEOUT = 0.4, 0.4

Connect = Callable[[], AbstractContextManager[Any]]


@contextmanager
def opened(way: str, conninfo: str) -> Iterator[Connect]:
    """Open a pool that has its 20 connections; yield what gives one of them to a user."""
    sizes = {"min_size": USERS, "max_size": USERS, "kwargs": {"autocommit": True}, "open": True}
    pool: ConnectionPool[Any]
    if way in (ALCHEMY, PRE_PING):
        with alchemy(conninfo, pre_ping=way == PRE_PING) as connect:
            yield connect
        return
    if way == OURS:
        pool = geventpg.Pool(
            conninfo, keepalive_interval=KEEPALIVE, probe_timeout=PROBE_TIMEOUT, **sizes
        )
    elif way == CHECKED:
        pool = ConnectionPool(conninfo, check=ConnectionPool.check_connection, **sizes)
    else:
        pool = ConnectionPool(conninfo, **sizes)
    try:
        pool.wait()
        yield pool.connection
    finally:
        pool.close(timeout=0.5)


@contextmanager
def alchemy(conninfo: str, *, pre_ping: bool) -> Iterator[Connect]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo),
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=USERS,
        max_overflow=0,
        pool_pre_ping=pre_ping,
    )

    @contextmanager
    def connect() -> Iterator[Any]:
        with engine.connect() as conn:
            yield Textual(conn)

    with ExitStack() as stack:
        for _ in range(USERS):
            stack.enter_context(connect())
    try:
        yield connect
    finally:
        with gevent.Timeout(1, False):
            engine.dispose()


class Textual:
    """SQLAlchemy's connection, which takes a string as psycopg's does."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def execute(self, statement: str) -> Any:
        return self._conn.execute(sqlalchemy.text(statement))


def users(table: Comparison, way: str, what: str, connect: Connect) -> None:
    """Have 20 users execute a plain SELECT each, at the same time."""
    errors: Counter[str] = Counter()
    slowest = 0.0

    def user(_number: int) -> None:
        nonlocal slowest
        started = monotonic()
        try:
            with gevent.Timeout(GIVE_UP), connect() as conn:
                assert conn.execute("select 1").fetchone()[0] == 1
        except gevent.Timeout:
            errors[f"no answer in {GIVE_UP:g} s"] += 1
        except Exception as error:
            errors[type(getattr(error, "orig", error)).__name__] += 1
        slowest = max(slowest, monotonic() - started)

    in_greenlets(USERS, user)
    table.set(way, f"{what}: errors of {USERS} users", sum(errors.values()), fault=True)
    table.set(way, f"{what}: the slowest user (s)", slowest)
    if errors:
        table.note(f"{way}, {what}: {described(errors)}.")


def ended_by_server(table: Comparison, way: str, server: Server) -> None:
    with opened(way, server.conninfo(way)) as connect:
        gevent.sleep(0.1)
        assert server.terminate(way) == USERS
        gevent.sleep(0.5)
        users(table, way, "ended by the server", connect)


def forgotten_by_network(table: Comparison, way: str, server: Server) -> None:
    """Have the ends of the connections vanish; the network works for new ones."""
    with (
        TcpProxy(server.postgres.host, server.postgres.port) as proxy,
        opened(way, proxy.dsn(server.conninfo(way))) as connect,
    ):
        proxy.blackhole()
        server.terminate(way)
        gevent.sleep(0.1)
        proxy.resume()
        gevent.sleep(KEEPALIVE + PROBE_TIMEOUT + 0.6)
        users(table, way, "forgotten by the network", connect)
        proxy.drop_connections()


def restarted(table: Comparison, way: str, server: Server, seconds: float) -> None:
    """Restart the server under transactions that add up; repeat them as the library can."""
    failed = done = 0
    server.sql("drop table if exists sums")
    server.sql("create table sums (user_id int, number int)")
    conninfo = server.conninfo(way)
    cls = geventpg.Pool if way == OURS else ConnectionPool
    with cls(conninfo, min_size=5, max_size=5, open=True) as pool:
        pool.wait()
        stop = monotonic() + seconds

        def transaction(conn: psycopg.Connection[Any], number: int) -> None:
            conn.execute("insert into sums values (%s, %s)", (number, done))
            conn.execute("select pg_sleep(0.01)")

        def user(number: int) -> None:
            nonlocal failed, done
            while monotonic() < stop:
                try:
                    if way == OURS:
                        geventpg.run_in_transaction(transaction, number, pool=pool)
                    else:
                        with pool.connection() as conn:
                            transaction(conn, number)
                    done += 1
                except psycopg.Error:
                    failed += 1

        def restart() -> None:
            gevent.sleep(seconds / 3)
            server.postgres.restart("fast")

        restarting = gevent.spawn(restart)
        in_greenlets(10, user)
        restarting.get()
    ((rows,),) = server.sql("select count(*) from sums")
    table.set(way, "server restarted: transactions", done + failed)
    table.set(way, "server restarted: errors", failed, fault=True)
    table.set(way, "server restarted: reported other than they ended", abs(rows - done), fault=True)


def compare(short: bool) -> Comparison:
    ways = [STOCK, CHECKED, *([ALCHEMY, PRE_PING] if sqlalchemy else []), OURS]
    if short:
        ways = [way for way in ways if way not in (CHECKED, PRE_PING)]
    table = Comparison(f"Case 5: {USERS} idle connections die before {USERS} users come", ways)
    with Server() as server:
        # All ways at once: they only wait, and each has backends and a network of its own.
        for fault in (ended_by_server, forgotten_by_network):
            in_greenlets(len(ways), lambda number: fault(table, ways[number], server))  # noqa: B023
        for way in (STOCK, OURS):
            restarted(table, way, server, 0.9 if short else 1.2)
    table.note(
        f"Pools of {USERS} connections. The users come 0.5 s after the server ended the"
        f" connections, 1.4 s after the network forgot them, and give up after {GIVE_UP:g} s."
        f" geventpg: keepalive_interval={KEEPALIVE:g}, probe_timeout={PROBE_TIMEOUT:g}, where the"
        " defaults are 30 and 2. The others have no probe of idle connections."
    )
    if not sqlalchemy:
        table.note("SQLAlchemy is not installed, so it is left out.")
    return table


if __name__ == "__main__":
    run(compare, __doc__ or "")
