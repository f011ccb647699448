"""Tasks that are revoked or out of time while sixty of them are in every phase."""

from __future__ import annotations

import time

import gevent
import pytest

from tests.support import wait_until
from tests.support.running_worker import returned_by

pytestmark = pytest.mark.hang_limit(120)

FOREVER = 60.0
WAITING = 50


def finish(crowd, tasks):
    returned_by([task.result for task in tasks], timeout=30, propagate=False)


def test_revoked_tasks_end_in_every_phase_and_the_others_succeed(crowd):
    victims = crowd.fill(FOREVER)
    # Half of the waiting tasks are revoked too; the others get the connections.
    victims += crowd.queue(WAITING // 2, FOREVER)
    others = crowd.queue(WAITING // 2, 0.05)
    since = time.monotonic()
    for task in crowd.shuffled(victims):
        crowd.worker.client.control.revoke(task.result.id, terminate=True)
    finish(crowd, others)
    crowd.worker.wait_until_quiet(timeout=15)
    took = time.monotonic() - since
    wait_until(lambda: all(task.result.ready() for task in victims), interval=0.05)
    ends = crowd.judge(victims + others)
    assert ends == {"REVOKED": len(victims), "SUCCESS": len(others)}
    crowd.all_returned()
    print(f"{dict(ends)}, the last statement gone after {took:.2f} s")
    assert took < 10


def test_tasks_out_of_time_end_in_every_phase_and_the_others_succeed(crowd):
    limit = 4.0
    since = time.monotonic()
    victims = crowd.fill(FOREVER, time_limit=limit)
    victims += crowd.queue(WAITING // 2, FOREVER, time_limit=limit)
    others = crowd.queue(WAITING // 2, 0.05, time_limit=FOREVER)
    assert time.monotonic() - since < limit, "this machine is too slow for the limit"
    finish(crowd, others + victims)
    crowd.worker.wait_until_quiet(timeout=15)
    took = time.monotonic() - since
    ends = crowd.judge(victims + others)
    assert ends == {"FAILURE": len(victims), "SUCCESS": len(others)}
    assert {type(task.result.result).__name__ for task in victims} == {"TimeLimitExceeded"}
    crowd.all_returned()
    print(f"{dict(ends)}, the last statement gone {took - limit:.2f} s after the first limit")
    assert took < 2 * limit + 10


def test_revokes_at_random_moments_report_nothing_that_did_not_happen(crowd, rng):
    sent = []
    for _ in range(6):
        sent += crowd.send(40, rng.uniform(0.0, 0.1))
        gevent.sleep(rng.uniform(0.0, 0.2))
        for task in crowd.shuffled(sent[-40:])[:20]:
            crowd.worker.client.control.revoke(task.result.id, terminate=True)
            gevent.sleep(rng.uniform(0.0, 0.01))
    wait_until(lambda: all(task.result.ready() for task in sent), timeout=30, interval=0.1)
    crowd.worker.wait_until_quiet(timeout=15)
    committed = set(crowd.worker.notes(crowd.tag))
    successful = {task.name for task in sent if task.result.state == "SUCCESS"}
    revoked = {task.name for task in sent if task.result.state == "REVOKED"}
    assert len(successful) + len(revoked) == len(sent)
    assert successful <= committed
    # Celery reports a task as revoked when it is told to, whatever the task is doing: one that is
    # at its commit, or at storing its result, is committed all the same.
    late = committed & revoked
    assert len(late) < len(revoked) / 2
    crowd.all_returned()
    print(
        f"{len(sent)} tasks: {len(successful)} successful, all committed; {len(revoked)} revoked,"
        f" {len(late)} of them at their commit or past it"
    )
