"""Hundreds of greenlets on five connections."""

from __future__ import annotations

import gevent
import pytest
from psycopg.conninfo import conninfo_to_dict

from geventpg.testing.postgres import fetch_backends
from tests.support.running_worker import returned_by


@pytest.fixture
def most_backends(worker, admin):
    """Watch the worker's sessions; return a function that tells the most and all their pids."""
    seen, stop = [], []
    name = conninfo_to_dict(worker.dsn)["application_name"]

    def watch():
        while not stop:
            seen.append({backend.pid for backend in fetch_backends(admin, name)})
            gevent.sleep(0.01)

    watcher = gevent.spawn(watch)
    yield lambda: (max(map(len, seen)), set().union(*seen))
    stop.append(True)  # killed, it would leave a statement half read
    watcher.get()


@pytest.mark.hang_limit(90)
def test_five_hundred_tasks_share_five_connections(worker, tag, most_backends):
    results = [worker.send("sleep", tag, 0.01) for _ in range(500)]
    returned_by(results, timeout=60)
    most, pids = most_backends()
    assert len(worker.notes(tag)) == 500
    assert most <= 5, f"{most} at once, {len(pids)} over time"
    assert len(pids) <= 5, f"{most} at once, {len(pids)} over time"


def test_the_sessions_stay_the_same_over_many_tasks(worker):
    results = [worker.send("backend") for _ in range(200)]
    first = set(returned_by(results, timeout=30))
    results = [worker.send("backend") for _ in range(200)]
    second = set(returned_by(results, timeout=30))
    assert len(first | second) <= 5


def test_tasks_of_all_endings_at_once_leave_nothing_behind(worker, tag, rng):
    results = []
    for number in range(200):
        task = rng.choice(["note", "fail", "fail_in_sql", "retry", "sleep", "break_commit"])
        args = (3600,) if task == "sleep" else ()
        limit = {"time_limit": rng.uniform(0.05, 0.5)} if task == "sleep" else {}
        results.append(worker.send(task, f"{tag}-{number}", *args, **limit))
    returned_by(results, timeout=40, propagate=False)
    succeeded = [result for result in results if result.state == "SUCCESS"]
    worker.wait_until_quiet()
    assert len(worker.notes(tag)) == len(succeeded)
    stats = worker.call("stats")
    assert stats["pool_available"] == stats["pool_size"]
    assert stats["requests_waiting"] == 0
