"""geventpg's statement-level API: no connection is held, and each statement is a transaction."""

from __future__ import annotations

from typing import Any

from celery import Celery

import geventpg
from celery_integration import install
from examples.demo.plan import MAX_SIZE, MIN_SIZE
from examples.demo.ways import Job, usable_connections


class Statements:
    def run(self, job: Job) -> None:
        pool: Any = geventpg.get_pool()
        job(pool)  # which has `execute`, like a connection

    def usable(self) -> int:
        return usable_connections(geventpg.get_pool())


def create(app: Celery, conninfo: str) -> Statements:
    app.conf.geventpg = {"conninfo": conninfo, "min_size": MIN_SIZE, "max_size": MAX_SIZE}
    install(app)
    return Statements()
