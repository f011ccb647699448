"""psycopg_pool's interface, which geventpg shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg_pool

from benchmarks.peers.base import PoolDriver, Row
from benchmarks.workload import SELECT


class PsycopgPoolDriver(PoolDriver):
    pool_class: type[psycopg_pool.ConnectionPool[Any]]
    pool: psycopg_pool.ConnectionPool[Any] | None = None

    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        # A pool of fixed size, opened and waited for at program start:
        # https://www.psycopg.org/psycopg3/docs/advanced/pool.html#pool-startup-check
        # Autocommit goes through kwargs; the rest, prepare_threshold=5 included, is the default.
        self.pool = pool = self.pool_class(
            conninfo,
            kwargs={"autocommit": autocommit},
            min_size=connections,
            max_size=connections,
            open=True,
        )
        pool.wait()
        self.getconn, self.putconn = pool.getconn, pool.putconn
        self.connection = pool.connection

    def query(self, key: int) -> Row:
        with self.connection() as conn:
            return conn.execute(SELECT, (key,)).fetchone()

    def execute(self, conn: Any, sql: str, params: Sequence[Any] = ()) -> Row:
        return conn.execute(sql, params).fetchone()

    def close(self) -> None:
        if self.pool is not None:
            self.pool.close()
