"""`retry_policy`: tasks are run again when that may help, and never if they may be committed."""

from __future__ import annotations

import pytest

from celery_integration import retry_policy

TASKS = ["policy", "policy_bound", "policy_audited", "policy_class"]


def ended(worker, task, tag, *args):
    """Run a task; return its state, how often it was tried, and how often it is committed."""
    state = worker.outcome(task, tag, *args).state
    notes = worker.notes(tag)
    return state, notes.count("tried"), notes.count("done")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_in_conflict_is_rolled_back_and_run_again(any_worker, tag, task):
    assert ended(any_worker, task, tag) == ("SUCCESS", 2, 1)


@pytest.mark.parametrize("task", ["policy_lost", "policy_lost_in_block"])
def test_a_task_whose_connection_is_lost_before_commit_is_run_again(any_worker, tag, task):
    assert ended(any_worker, task, tag) == ("SUCCESS", 2, 1)


def test_a_task_that_loses_its_connection_in_commit_is_run_again_if_it_was_not_committed(
    any_worker, tag
):
    assert ended(any_worker, "policy_fatal_commit", tag) == ("SUCCESS", 2, 1)


@pytest.mark.parametrize("by", ["commit", "block"])
def test_a_task_that_may_be_committed_is_not_run_again(any_worker, tag, by):
    assert ended(any_worker, "policy_unknown", tag, by) == ("FAILURE", 1, 0)


def test_autoretry_for_does_not_run_it_again_either(worker, tag):
    assert ended(worker, "policy_unknown_autoretry", tag) == ("FAILURE", 1, 0)


def test_an_idempotent_task_that_may_be_committed_is_run_again(worker, tag):
    assert ended(worker, "policy_idempotent", tag) == ("SUCCESS", 2, 1)


@pytest.mark.parametrize("sqlstate", ["23505", "57014", "53100", "42601"])
def test_other_failures_are_final(worker, tag, sqlstate):
    assert ended(worker, "policy", tag, sqlstate) == ("FAILURE", 1, 0)


def test_retries_end_with_the_error_of_the_last(any_worker, tag):
    result = any_worker.outcome("policy_forever", tag)
    assert result.state == "FAILURE"
    assert "DeadlockDetected" in type(result.result).__name__
    assert any_worker.notes(tag) == ["tried"] * 3


@pytest.mark.parametrize("options", [{"max_retries": -1}, {"backoff": -1}, {"backoff": 61}])
def test_impossible_policies_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        retry_policy(**options)
