"""SQLAlchemy's QueuePool with psycopg 3, at the level of Core connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, PoolProxiedConnection, create_engine

from benchmarks.peers.base import PoolDriver, Row
from benchmarks.workload import SELECT


class Driver(PoolDriver):
    url = "postgresql+psycopg://"
    engine: Engine | None = None

    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        # https://docs.sqlalchemy.org/en/20/core/pooling.html: a pool of fixed size is
        # pool_size without overflow; reset on return and the rest stay as they are by default.
        self.engine = engine = create_engine(
            self.url,
            connect_args=dict(conninfo_to_dict(conninfo)),
            pool_size=connections,
            max_overflow=0,
            # engine-wide autocommit:
            # https://docs.sqlalchemy.org/en/20/core/connections.html#dbapi-autocommit
            isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
        )
        # "Begin once" is the documented way to a transaction that commits at its end.
        self.connection = engine.connect if autocommit else engine.begin
        self.getconn = engine.raw_connection
        # QueuePool has no initial size: it opens connections on demand and keeps them.
        for conn in [engine.connect() for _ in range(connections)]:
            conn.close()

    def query(self, key: int) -> Row:
        with self.connection() as conn:
            return conn.exec_driver_sql(SELECT, (key,)).fetchone()

    def execute(self, conn: Any, sql: str, params: Sequence[Any] = ()) -> Row:
        return conn.exec_driver_sql(sql, tuple(params)).fetchone()

    def putconn(self, conn: PoolProxiedConnection) -> None:
        conn.close()

    def close(self) -> None:
        if self.engine is not None:
            self.engine.dispose()
