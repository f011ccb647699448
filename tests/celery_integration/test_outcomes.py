"""What a task did is committed if it succeeds, before anybody hears of it; else rolled back."""

from __future__ import annotations

import pytest
from celery.exceptions import TimeLimitExceeded

from tests.support import wait_until
from tests.support.running_worker import returned_by


def test_a_task_that_succeeds_is_committed_before_its_result_is_there(any_worker, tag):
    for number in range(10):
        assert any_worker.call("note", f"{tag}-{number}") == f"{tag}-{number}"
        assert str(number) in any_worker.notes(tag)


@pytest.mark.parametrize("task", ["fail", "fail_in_sql"])
def test_a_task_that_fails_is_rolled_back(any_worker, tag, task):
    assert any_worker.outcome(task, tag).state == "FAILURE"
    assert any_worker.notes(tag) == []


def test_a_retry_rolls_back_every_attempt_but_the_one_that_succeeds(any_worker, tag):
    assert any_worker.call("retry", tag) == 2
    assert any_worker.notes(tag) == ["2"]


def test_a_task_that_runs_out_of_retries_leaves_nothing(worker, tag):
    assert worker.outcome("retry", tag, 9).state == "FAILURE"
    assert worker.notes(tag) == []


def test_autoretry_rolls_back_every_attempt_but_the_one_that_succeeds(worker, tag):
    assert worker.call("autoretry", tag) == 2
    assert worker.notes(tag) == ["2"]


@pytest.mark.parametrize("task", ["ignore", "reject"])
def test_a_task_that_is_ignored_or_rejected_is_rolled_back(any_worker, tag, task):
    before = len(any_worker.process.log)
    any_worker.send(task, tag)
    wait_until(lambda: f"{task}[" in any_worker.process.log[before:], interval=0.02)
    any_worker.wait_until_quiet()
    assert any_worker.notes(tag) == []


@pytest.mark.parametrize("in_sql", [True, False], ids=["in a statement", "between statements"])
def test_a_task_that_meets_its_time_limit_is_rolled_back_and_its_statement_cancelled(
    worker, tag, in_sql
):
    with pytest.raises(TimeLimitExceeded):
        worker.call("sleep", tag, 60, in_sql, time_limit=1)
    worker.wait_until_quiet(timeout=2)
    assert worker.notes(tag) == []


@pytest.mark.parametrize("in_sql", [True, False], ids=["in a statement", "between statements"])
def test_a_task_that_is_revoked_and_terminated_is_rolled_back_and_its_statement_cancelled(
    worker, tag, in_sql
):
    result = worker.send("sleep", tag, 60, in_sql)
    wait_until(worker.running, interval=0.02)
    worker.client.control.revoke(result.id, terminate=True)
    worker.wait_until_quiet(timeout=3)
    assert worker.notes(tag) == []
    assert result.state != "SUCCESS"


def test_a_task_that_is_revoked_while_it_waits_for_a_connection_leaves_the_queue(worker, tag):
    holders = [worker.send("sleep", tag, 1.5) for _ in range(5)]
    wait_until(lambda: len(worker.running()) == 5, interval=0.02)
    waiting = worker.send("note", f"{tag}-revoked")
    wait_until(lambda: worker.call("stats")["requests_waiting"] == 1, interval=0.02)
    worker.client.control.revoke(waiting.id, terminate=True)
    wait_until(lambda: worker.call("stats")["requests_waiting"] == 0, interval=0.02)
    for holder in holders:
        holder.get(timeout=10)
    assert worker.notes(tag) == [""] * 5


def test_after_all_of_this_no_connection_is_missing(worker, tag):
    def missing():
        stats = worker.call("stats")
        return stats["pool_size"] - stats["pool_available"] + stats["requests_waiting"]

    wait_until(lambda: missing() == 0, interval=0.05)
    results = [worker.send("backend", 0.2) for _ in range(5)]
    assert len(set(returned_by(results, 10))) == 5
