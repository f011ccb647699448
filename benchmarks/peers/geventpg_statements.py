"""geventpg's statement-level API: the same pool, of which one connection carries all statements."""

from __future__ import annotations

from benchmarks.peers.base import Row
from benchmarks.peers.geventpg_pool import Driver as PoolDriver
from benchmarks.workload import SELECT, WARM_KEYS, require


class Driver(PoolDriver):
    def open(self, conninfo: str, connections: int, autocommit: bool) -> None:
        super().open(conninfo, connections, autocommit)
        assert self.pool is not None
        self._fetch_one = self.pool.fetch_one  # type: ignore[attr-defined]
        for key in WARM_KEYS:
            require(self.query(key), key)

    def query(self, key: int) -> Row:
        return self._fetch_one(SELECT, (key,))

    def query_on_checkout(self, key: int) -> Row:
        return super().query(key)

    def sleep(self, sql: str, seconds: float) -> None:
        self._fetch_one(sql, (seconds,))
