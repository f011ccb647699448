"""The Celery app of the demo's workers. The tasks are the same for all ways."""

from __future__ import annotations

import os
from time import monotonic, sleep
from typing import Any

from celery import Task
from celery.signals import task_postrun, task_prerun, worker_ready
from gevent import spawn
from psycopg import Connection

from . import ways
from .plan import ACCOUNTS, OTHER_IO_SECONDS, QUERY_SECONDS, SLOW_SECONDS
from .recorder import Measurement, Recorder
from .worker_settings import WorkerSettings, celery_app

READ = f"select balance, pg_sleep({QUERY_SECONDS}) from account where id = %s"
WRITE = (
    "update account set balance = balance + 1 where id = %s"
    f" returning balance, pg_sleep({QUERY_SECONDS})"
)

settings = WorkerSettings.from_environ()
app = celery_app(settings)
way = ways.load(settings.way, app, settings.conninfo)
recorder = Recorder(settings.results_file)


@app.task(bind=True, name="demo.work")
def work(task: Task[..., None], number: int) -> None:
    """Three short statements on indexed rows, and a moment of other I/O after each.

    That moment is why people use gevent: there is always something else to wait for.
    """
    measured = recorder.running(task.request.id)
    mine = 1 + number % ACCOUNTS
    other = 1 + (number * 7 + 3) % ACCOUNTS

    def job(conn: Connection[Any]) -> None:
        since = measured.started
        measured.connection_wait = monotonic() - since
        for sql, account in ((READ, mine), (WRITE, mine), (READ, other)):
            conn.execute(sql, [account]).fetchall()
            measured.queries.append(monotonic() - since)
            sleep(OTHER_IO_SECONDS)
            since = monotonic()

    way.run(job)


@app.task(name="demo.slow")
def slow(_number: int) -> None:
    """A statement that takes far longer than the task may."""

    def job(conn: Connection[Any]) -> None:
        conn.execute("select pg_sleep(%s)", [SLOW_SECONDS])

    way.run(job)


@app.task(name="demo.probe")
def probe() -> None:
    recorder.write("probe", {"usable": way.usable()})


@task_prerun.connect
def start(task_id: str, task: Task[..., None], args: list[int], **_: object) -> None:
    if task.name != probe.name:
        recorder.start(task_id, Measurement(*args, slow=task.name == slow.name))


@task_postrun.connect
def finish(task_id: str, state: str | None, retval: Any, **_: object) -> None:
    recorder.finish(task_id, state, retval)


@worker_ready.connect
def ready(**_: object) -> None:
    spawn(end_with, os.getppid())
    recorder.write("ready", {})


def end_with(demo: int) -> None:
    """Should the demo be killed without a chance to stop its worker: do not outlive it."""
    while os.getppid() == demo:
        sleep(1)
    os._exit(1)
