"""Celery's database result backend on the dialect, in a real worker: the recipe of the docs.

It is the case of https://github.com/psycopg/psycopg/issues/1198: with ``postgresql+psycopg`` and
``-P gevent``, storing results failed with "another command is already in progress".
"""

from __future__ import annotations

import json

import psycopg
import pytest
from celery import Celery
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import URL

from geventpg.testing.postgres import fetch_backends
from tests.support import wait_until
from tests.support.pools import sampling, terminate

APP = "examples.database_results"
TASK = f"{APP}.add"


@pytest.fixture
def results_url(dsn):
    parameters = conninfo_to_dict(dsn)
    return URL.create(
        "db+postgresql+geventpg",
        parameters["user"],
        parameters.get("password"),
        parameters["host"],
        int(parameters["port"]),
        parameters["dbname"],
        {"application_name": parameters["application_name"]},
    ).render_as_string(hide_password=False)


def stored(admin: psycopg.Connection, ids: list[str]) -> dict[str, tuple[str, object]]:
    query = "SELECT task_id, status, result FROM celery_taskmeta WHERE task_id = ANY(%s)"
    return {
        task: (status, json.loads(bytes(result)))
        for task, status, result in admin.execute(query, [ids])
    }


@pytest.mark.hang_limit(90)
def test_many_tasks_store_their_results_over_few_connections(
    celery_worker, redis_server, results_url, admin, application_name
):
    worker = celery_worker(
        APP,
        concurrency=100,
        env={"BROKER": redis_server.url, "RESULTS": results_url},
        args=["-Q", application_name],
    )
    client = Celery(broker=redis_server.url, set_as_current=False)
    most = 0

    def look():
        nonlocal most
        most = max(most, len(fetch_backends(admin, application_name)))

    def run(number):
        sent = [client.send_task(TASK, (i, i), queue=application_name).id for i in range(number)]
        wait_until(lambda: len(stored(admin, sent)) == number, timeout=30, interval=0.05)
        expected = {task: ("SUCCESS", 2 * i) for i, task in enumerate(sent)}
        assert stored(admin, sent) == expected

    try:
        with sampling(look, interval=0.01):
            run(200)
            # Everything idle ends, and no result is lost.
            terminate(admin, *[b.pid for b in fetch_backends(admin, application_name)])
            run(100)
        assert 1 < most <= 10
        assert "Error" not in worker.log
        assert "another command" not in worker.log
    finally:
        client.close()
        worker.stop("kill")
        admin.execute("DROP TABLE IF EXISTS celery_taskmeta, celery_tasksetmeta")
        admin.execute("DROP SEQUENCE IF EXISTS task_id_sequence, taskset_id_sequence")
