"""geventpg, with the same arguments as stock psycopg_pool."""

from __future__ import annotations

import geventpg
from benchmarks.peers.psycopg_pools import PsycopgPoolDriver


class Driver(PsycopgPoolDriver):
    pool_class = geventpg.Pool
