"""psycopg_pool as its documentation has it: opened when the process starts, used in a `with`."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_shutdown
from psycopg import Connection
from psycopg_pool import ConnectionPool

from examples.demo.plan import MAX_SIZE, MIN_SIZE
from examples.demo.ways import Job, usable_connections


class StockPool:
    def __init__(self, conninfo: str) -> None:
        self._pool: ConnectionPool[Connection[Any]] = ConnectionPool(
            conninfo, min_size=MIN_SIZE, max_size=MAX_SIZE, open=False
        )
        worker_init.connect(self._open)
        worker_shutdown.connect(self._close)

    def run(self, job: Job) -> None:
        with self._pool.connection() as conn:
            job(conn)

    def usable(self) -> int:
        return usable_connections(self._pool)

    def _open(self, **_: object) -> None:
        self._pool.open(wait=True)

    def _close(self, **_: object) -> None:
        self._pool.close()


def create(_app: Celery, conninfo: str) -> StockPool:
    return StockPool(conninfo)
