"""The demo's own view of the server: the table, the fault, and what pg_stat_activity says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from .plan import ACCOUNTS, application_name

SAMPLE_SECONDS = 0.05


class Database:
    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def create_accounts(self) -> None:
        with self._connect() as conn:
            conn.execute("drop table if exists account")
            conn.execute("create table account (id int primary key, balance int not null)")
            conn.execute("insert into account select generate_series(1, %s), 0", [ACCOUNTS])
            conn.execute("vacuum analyze account")

    def conninfo_for(self, way: str) -> str:
        return make_conninfo(self._dsn, application_name=application_name(way))

    def terminate_idle_backends(self, way: str) -> int:
        return self._count(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = %s and state = 'idle'",
            way,
        )

    def statements_running(self, way: str) -> int:
        return self._count(
            "select count(*) from pg_stat_activity"
            " where application_name = %s and state = 'active'",
            way,
        )

    def terminate_all_backends(self, way: str) -> int:
        return self._count(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = %s",
            way,
        )

    @contextmanager
    def sampled_backends(self, way: str) -> Iterator[BackendSampler]:
        sampler = BackendSampler(self._connect(), application_name(way))
        sampler.start()
        try:
            yield sampler
        finally:
            sampler.stop()

    def _count(self, sql: str, way: str) -> int:
        with self._connect() as conn:
            row = conn.execute(sql, [application_name(way)]).fetchone()
        return int(row[0]) if row else 0

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self._dsn, autocommit=True)


class BackendSampler(Thread):
    """Looks at pg_stat_activity all the time and keeps the largest number of backends."""

    def __init__(self, conn: psycopg.Connection[Any], application: str) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self._conn = conn
        self._application = application
        self._stopped = Event()

    def run(self) -> None:
        sql = "select count(*) from pg_stat_activity where application_name = %s"
        with self._conn as conn:
            while not self._stopped.wait(SAMPLE_SECONDS):
                row = conn.execute(sql, [self._application]).fetchone()
                self.most = max(self.most, row[0] if row else 0)

    def stop(self) -> None:
        self._stopped.set()
        self.join()
