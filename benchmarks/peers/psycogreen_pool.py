"""psycopg2 made cooperative by psycogreen, pooled in a gevent LifoQueue.

psycopg2's own pool raises when it is exhausted instead of waiting, so users of psycogreen pool
their connections in a gevent queue, as gevent's example does:
https://github.com/gevent/gevent/blob/master/examples/psycopg2_pool.py
It is a LifoQueue here, which favours warm connections; psycopg2 has no prepared statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg2
from gevent.queue import LifoQueue
from psycogreen.gevent import patch_psycopg

from benchmarks.peers.base import PoolDriver, Row
from benchmarks.workload import SELECT

patch_psycopg()  # https://pypi.org/project/psycogreen/: once, before the first connection


class Driver(PoolDriver):
    idle: LifoQueue | None = None

    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        self.idle = idle = LifoQueue(connections)
        for _ in range(connections):
            conn = psycopg2.connect(conninfo)
            conn.autocommit = autocommit
            idle.put(conn)
        self.getconn, self.putconn = idle.get, idle.put

    def query(self, key: int) -> Row:
        with self.connection() as conn, conn.cursor() as cursor:
            cursor.execute(SELECT, (key,))
            return cursor.fetchone()

    @contextmanager
    def connection(self) -> Iterator[Any]:
        conn = self.getconn()
        try:
            yield conn
        except BaseException:
            conn.rollback()
            raise
        else:
            conn.commit()  # sends nothing in autocommit
        finally:
            self.putconn(conn)

    def execute(self, conn: Any, sql: str, params: Sequence[Any] = ()) -> Row:
        with conn.cursor() as cursor:
            cursor.execute(sql, params)
            return cursor.fetchone()

    def close(self) -> None:
        while self.idle is not None and self.idle.qsize():
            self.idle.get().close()
