"""Stock psycopg_pool under gevent's monkey patching."""

from __future__ import annotations

import psycopg_pool

from benchmarks.peers.psycopg_pools import PsycopgPoolDriver


class Driver(PsycopgPoolDriver):
    pool_class = psycopg_pool.ConnectionPool
