"""Real workers: each process serves its metrics, and names the tasks that hold connections."""

from __future__ import annotations

import re

import pytest

from tests.metrics.exposition import scrape, value_of
from tests.metrics.test_dashboard import EXPRESSIONS, SELECTOR
from tests.support.waiting import wait_until

SERVED = r"metrics at http://127\.0\.0\.1:(\d+)/metrics"


def ports_of(worker, count):
    def served():
        found = {int(port) for port in re.findall(SERVED, worker.process.log)}
        return found if len(found) == count else None

    return sorted(wait_until(served, timeout=15, message=f"{count} processes serve metrics"))


@pytest.fixture
def worker(own_worker):
    return own_worker(
        concurrency=20,
        conf={"geventpg": {"metrics_port": 0, "max_size": 2, "timings": True, "timeout": 30}},
    )


def test_a_gevent_worker_under_load_is_scraped_and_names_its_tasks(worker):
    (port,) = ports_of(worker, 1)
    results = [worker.send("backend", 30) for _ in range(5)]
    wait_until(lambda: value_of(scrape(port), "geventpg_waiting") == 3, timeout=10)
    # All greenlets are at work or wait, and the scrape was answered.
    text = scrape(port)
    assert value_of(text, "geventpg_connections", state="in_use") == 2
    assert value_of(text, "geventpg_connections_max", pool="default") == 2
    shown = worker.call("holders", timeout=10)
    assert [holder["task"] for holder in shown] == ["backend", "backend"]
    assert {holder["task_id"] for holder in shown} <= {result.id for result in results}
    assert [holder["statement"] for holder in shown] == ["select pg_sleep(%s)"] * 2
    for result in results:
        result.revoke(terminate=True)
    worker.wait_until_quiet(timeout=10)
    text = scrape(port)
    assert value_of(text, "geventpg_statement_seconds_count") >= 2
    for expression in EXPRESSIONS:
        for name, _ in SELECTOR.findall(expression):
            assert name in text


def test_each_process_of_a_prefork_worker_has_a_port_of_its_own(own_worker):
    worker = own_worker(pool="prefork", concurrency=2, env={"GEVENTPG_METRICS_PORT": "0"})
    ports = ports_of(worker, 2)
    worker.call("backend")
    counts = [value_of(scrape(port), "geventpg_requests_total") for port in ports]
    assert max(counts) >= 1
