"""prefork: every child has a pool of its own, and the parent has none."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.process_sockets import children_of, disjoint, sockets_to


@pytest.fixture
def prefork(shared_workers):
    """Return the shared prefork worker of two children."""
    return shared_workers("prefork")


def test_the_children_connect_and_the_parent_does_not(prefork, pg):
    parent = prefork.process.pid
    prefork.call("process")
    children = children_of(parent)
    assert len(children) >= 2
    assert any(sockets_to(child, pg.port) for child in children)
    assert not sockets_to(parent, pg.port)
    disjoint({parent, *children}, pg.port)


def test_fifty_tasks_keep_the_sessions_of_their_processes(prefork):
    sessions = {}
    for process, backend in (prefork.call("process") for _ in range(50)):
        sessions.setdefault(process, set()).add(backend)
    # A child has two connections at most, by default, and keeps them.
    assert all(len(pids) <= 2 for pids in sessions.values())
    assert len(prefork.backends()) <= 4


def test_the_pool_is_psycopg_pools_own_or_ours_but_small(prefork):
    stats = prefork.call("stats")
    assert stats["class"].endswith("ConnectionPool")
    assert (stats["min_size"], stats["pool_max"]) == (1, 2)


def test_a_child_that_is_replaced_closes_its_sessions(own_worker, tag):
    worker = own_worker(pool="prefork", concurrency=1, args=("--max-tasks-per-child", "3"))
    seen = [tuple(worker.call("process")) for _ in range(9)]
    assert len({process for process, _ in seen}) == 3
    gone = {backend for process, backend in seen if process != seen[-1][0]}
    wait_until(lambda: not gone & {b.pid for b in worker.backends()}, interval=0.02)
    assert "Traceback" not in worker.process.log


def test_a_task_that_meets_its_time_limit_costs_its_child_but_not_the_worker(own_worker, tag):
    # The child is killed, so nothing can be cancelled: the statement ends when the server
    # notices (client_connection_check_interval), its transaction is rolled back. Documented.
    worker = own_worker(pool="prefork", concurrency=1)
    worker.outcome("sleep", tag, 2, time_limit=1)
    assert worker.call("note", f"{tag}-next")
    wait_until(lambda: not worker.running(), timeout=5, interval=0.02)
    assert worker.notes(tag) == ["next"]


def test_a_soft_time_limit_rolls_back_and_cancels_the_statement(own_worker, tag):
    prefork = own_worker(pool="prefork", concurrency=1)
    result = prefork.outcome("sleep", tag, 60, soft_time_limit=1)
    assert "SoftTimeLimitExceeded" in repr(result.result)
    prefork.wait_until_quiet(timeout=2)
    assert prefork.notes(tag) == []


def test_children_that_are_spawned_and_not_forked_have_pools_too(own_worker, tag, pg):
    worker = own_worker(pool="prefork", concurrency=1, conf={"worker_pool_start_method": "spawn"})
    worker.call("note", f"{tag}-kept", timeout=20)
    worker.outcome("fail", f"{tag}-lost")
    assert worker.notes(tag) == ["kept"]
    assert worker.backends()
    assert not sockets_to(worker.process.pid, pg.port)


def test_children_do_not_meet_sessions_that_the_server_ended_meanwhile(own_worker, admin):
    worker = own_worker(pool="prefork", concurrency=1)
    ended = worker.call("backend")
    admin.execute("select pg_terminate_backend(pid, 5000) from unnest(%s) pid", [[ended]])
    assert worker.call("backend") != ended
