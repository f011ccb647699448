"""Workers that are shut down, warm, cold or killed, while sixty tasks are in every phase."""

from __future__ import annotations

import time

import pytest

from geventpg.testing import TcpProxy
from tests.chaos.workers.crowd import CONNECTIONS
from tests.support import wait_until
from tests.support.running_worker import returned_by

pytestmark = pytest.mark.hang_limit(120)

FOREVER = 60.0
WAITING = 50


@pytest.fixture
def done_before(crowd):
    """Have some tasks end before the others come; whatever happens, they stay done."""
    sent = crowd.send(10, 0.01)
    returned_by([task.result for task in sent], timeout=20)
    return sent


def test_a_warm_shutdown_ends_tasks_of_every_phase_and_those_that_wait(crowd, done_before):
    sent = crowd.fill(2.0) + crowd.queue(WAITING, 0.2)
    since = time.monotonic()
    assert crowd.worker.process.stop("warm", timeout=40) == 0
    took = time.monotonic() - since
    wait_until(lambda: not crowd.worker.backends(), interval=0.02)
    ends = crowd.judge(done_before + sent)
    assert ends == {"SUCCESS": len(sent) + len(done_before)}
    assert "Traceback" not in crowd.worker.process.log
    print(f"{dict(ends)}, ended in {took:.2f} s")
    # Two seconds for those at work, a second for those that wait, and what Celery needs.
    assert took < 15


@pytest.mark.parametrize("waiting", [0, WAITING])
def test_a_cold_shutdown_cuts_tasks_off_in_every_phase_and_commits_none(
    crowd, done_before, waiting
):
    sent = crowd.fill(FOREVER)
    if waiting:
        sent += crowd.queue(waiting, FOREVER)
    since = time.monotonic()
    crowd.worker.process.signal("cold")
    wait_until(lambda: not crowd.phases(), timeout=5, interval=0.02)
    statements = time.monotonic() - since
    crowd.worker.process.wait(timeout=20)
    took = time.monotonic() - since
    wait_until(lambda: not crowd.worker.backends(), interval=0.02)
    ends = crowd.judge(done_before + sent)
    assert ends["SUCCESS"] == len(done_before)
    print(f"{dict(ends)}, statements gone in {statements:.2f} s, ended in {took:.2f} s")
    assert took < 10


def test_a_cold_shutdown_does_not_leave_statements_while_it_waits_for_a_silent_broker(
    make_crowd, redis_server
):
    # Celery waits for its broker before it stops anything else.
    with TcpProxy("127.0.0.1", redis_server.port) as broker:
        crowd = make_crowd(BROKER_URL=f"redis://{broker.host}:{broker.port}/0")
        sent = crowd.fill(FOREVER)
        broker.stall()
        since = time.monotonic()
        crowd.worker.process.signal("cold")
        wait_until(lambda: not crowd.worker.backends(), timeout=3, interval=0.02)
        took = time.monotonic() - since
        assert crowd.worker.process.returncode is None
        broker.resume()
        crowd.worker.process.wait(timeout=20)
    ends = crowd.judge(sent)
    assert not ends["SUCCESS"]
    print(f"{dict(ends)}, statements and sessions gone in {took:.2f} s")


def test_a_killed_worker_commits_nothing_but_what_was_at_its_commit(crowd, done_before):
    stay = 4.0
    sent = crowd.fill(stay) + crowd.queue(WAITING, stay)
    since = time.monotonic()
    assert crowd.worker.process.stop("kill") == -9
    # The server looks at its clients' sockets when their statements end.
    wait_until(lambda: not crowd.worker.backends(), timeout=stay + 6, interval=0.02)
    took = time.monotonic() - since
    # A COMMIT that the server has is carried out; no worker is left to hear of it.
    committing = [task for task in sent if task.holds and task.kind == "commit"]
    others = [task for task in sent if task not in committing]
    ends = crowd.judge(done_before + others)
    assert ends == {"SUCCESS": len(done_before), "PENDING": len(others)}
    assert {task.result.state for task in committing} == {"PENDING"}
    late = sum(task.name in crowd.worker.notes(crowd.tag) for task in committing)
    print(f"{dict(ends)}, {late} of {len(committing)} at COMMIT committed, gone in {took:.2f} s")
    assert len(sent) == WAITING + CONNECTIONS
