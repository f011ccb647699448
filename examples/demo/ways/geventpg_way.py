"""geventpg: installed into the app; a task takes `get_conn()` and the commit is made for it."""

from __future__ import annotations

from celery import Celery

import geventpg
from celery_integration import install
from examples.demo.plan import MAX_SIZE, MIN_SIZE
from examples.demo.ways import Job, usable_connections


class Geventpg:
    def run(self, job: Job) -> None:
        job(geventpg.get_conn())

    def usable(self) -> int:
        return usable_connections(geventpg.get_pool())


def create(app: Celery, conninfo: str) -> Geventpg:
    app.conf.geventpg = {"conninfo": conninfo, "min_size": MIN_SIZE, "max_size": MAX_SIZE}
    install(app)
    return Geventpg()
