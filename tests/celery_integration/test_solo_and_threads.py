"""The pools without gevent or children: solo and threads."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.running_worker import returned_by


@pytest.fixture
def threads(shared_workers):
    """Return the shared worker of four threads."""
    return shared_workers("threads")


@pytest.fixture
def solo(shared_workers):
    """Return the shared solo worker."""
    return shared_workers("solo")


def test_a_solo_worker_needs_two_sessions_at_most(solo):
    assert len({solo.call("backend") for _ in range(20)}) <= 2
    assert len(solo.backends()) <= 2
    assert solo.call("stats")["class"] == "psycopg_pool.pool.ConnectionPool"


def test_every_thread_has_its_own_session_and_all_go_back(own_worker):
    # Not the shared one: its pool may still be replacing what an earlier test drained or shrank.
    threads = own_worker(pool="threads", concurrency=4)
    results = [threads.send("backend", 0.05) for _ in range(40)]
    pids = returned_by(results, timeout=20)
    assert 1 < len(set(pids)) <= 4
    assert len(threads.backends()) <= 4

    def all_back():
        stats = threads.call("stats")
        return stats["pool_available"] == stats["pool_size"]

    wait_until(all_back, interval=0.02)
