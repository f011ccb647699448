"""How a worker ends, and what becomes of its tasks, statements and sessions."""

from __future__ import annotations

import time

import pytest

from tests.support import wait_until

RUNNING = 3


def start_sleepers(worker, tag, seconds):
    results = [worker.send("sleep", f"{tag}-{number}", seconds) for number in range(RUNNING)]
    wait_until(
        lambda: sum(b.state == "active" for b in worker.backends()) == RUNNING,
        timeout=10,
        interval=0.02,
        message="the statements run",
    )
    return results


@pytest.mark.parametrize("pool", ["gevent", "prefork", "threads"])
def test_a_warm_shutdown_waits_for_running_tasks_commits_and_closes(own_worker, tag, pool):
    worker = own_worker(pool=pool, concurrency=RUNNING)
    results = start_sleepers(worker, tag, 1)
    assert worker.process.stop("warm", timeout=15) == 0
    assert [result.state for result in results] == ["SUCCESS"] * RUNNING
    assert len(worker.notes(tag)) == RUNNING
    wait_until(lambda: not worker.backends(), interval=0.02)
    assert "Traceback" not in worker.process.log
    assert "unclosed" not in worker.process.log
    assert "finalized" not in worker.process.log


def test_a_cold_shutdown_cancels_running_statements_and_is_bounded(own_worker, tag):
    worker = own_worker(concurrency=10)
    results = start_sleepers(worker, tag, 60)
    since = time.monotonic()
    worker.process.signal("cold")
    wait_until(
        lambda: not any(backend.state == "active" for backend in worker.backends()),
        timeout=3,
        interval=0.02,
        message="the statements are gone from the server",
    )
    worker.process.wait(timeout=10)
    assert time.monotonic() - since < 10
    wait_until(lambda: not worker.backends(), interval=0.02)
    assert not [result.state for result in results if result.state == "SUCCESS"]
    assert worker.notes(tag) == []


def test_a_cold_shutdown_with_tasks_between_two_statements_is_bounded_too(own_worker, tag):
    worker = own_worker(concurrency=10)
    results = [worker.send("sleep", tag, 60, False) for _ in range(RUNNING)]
    wait_until(lambda: len(worker.running()) == RUNNING, interval=0.02)
    worker.process.signal("cold")
    wait_until(lambda: not worker.backends(), timeout=5, interval=0.02)
    assert worker.notes(tag) == []
    assert not [result.state for result in results if result.state == "SUCCESS"]


def test_a_worker_that_is_killed_leaves_nothing_committed_and_no_session(own_worker, tag):
    worker = own_worker(concurrency=10)
    results = start_sleepers(worker, tag, 3)
    assert worker.process.stop("kill") == -9
    # The server looks at its clients' sockets when their statements end.
    wait_until(lambda: not worker.backends(), timeout=6, interval=0.02)
    assert worker.notes(tag) == []
    assert {result.state for result in results} == {"PENDING"}


def test_a_worker_without_a_server_stops_warmly_too(own_worker, proxy, pg):
    worker = own_worker(dsn=proxy.dsn(pg.dsn))
    worker.call("note", "x")
    proxy.stop()
    assert worker.process.stop("warm", timeout=15) == 0
