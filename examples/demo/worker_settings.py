"""What the demo tells a worker process, handed over in one environment variable."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from celery import Celery

VARIABLE = "GEVENTPG_DEMO_WORKER"


@dataclass(frozen=True)
class WorkerSettings:
    way: str
    conninfo: str
    results_file: str
    queue: str
    broker_url: str
    broker_options: dict[str, Any]

    def to_environ(self) -> dict[str, str]:
        return {**os.environ, VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environ(cls) -> WorkerSettings:
        return cls(**json.loads(os.environ[VARIABLE]))


def celery_app(settings: WorkerSettings) -> Celery:
    """The app as worker and demo see it: no result backend, nothing but tasks on the broker."""
    app = Celery("geventpg-demo", broker=settings.broker_url)
    app.conf.update(
        broker_transport_options=settings.broker_options,
        broker_connection_retry_on_startup=True,
        task_default_queue=settings.queue,
        task_ignore_result=True,
        worker_enable_remote_control=False,
    )
    return app
