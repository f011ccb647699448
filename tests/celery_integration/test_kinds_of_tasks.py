"""Any base class, hook, option and way to call a task: one transaction around what it does."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.running_worker import returned_by


def test_a_bound_task_with_late_acks(any_worker, tag):
    result = any_worker.send("late", tag)
    assert result.get(timeout=10) == result.id
    assert any_worker.notes(tag) == [""]


def test_a_bound_task_with_keyword_arguments(worker, tag):
    assert worker.call("typed", tag, kwargs={"suffix": "y"}) == "typed"
    assert worker.notes(tag) == ["y"]


def test_wrong_arguments_are_still_an_error_of_the_callers(worker, tag):
    with pytest.raises(TypeError):
        worker.call("note", tag, "one too many")


def test_a_task_class_with_a_run_method_of_its_own(worker, tag):
    assert worker.outcome("class_based", f"{tag}-fail").state == "FAILURE"
    assert worker.notes(tag) == []


def test_what_a_base_classes_call_does_around_the_body_belongs_to_the_task(worker, tag):
    assert worker.call("audited", tag, "after") == "after"
    assert worker.notes(tag) == ["after", "before", "body"]


def test_what_before_start_does_belongs_to_the_task(worker, tag):
    worker.call("prepared", tag)
    assert worker.notes(tag) == ["before", "body"]


def test_hooks_after_the_outcome_commit_with_a_block_of_their_own(any_worker, tag):
    worker = any_worker
    before = len(worker.process.log)
    worker.call("reporting", tag)
    wait_until(lambda: len(worker.notes(tag)) >= 3, timeout=3, interval=0.02)
    wait_until(lambda: "rolling back" in worker.process.log[before:], interval=0.02)
    assert worker.notes(tag) == ["SUCCESS", "body", "success"]


def test_a_block_inside_a_task_commits_at_its_own_end(any_worker, tag):
    any_worker.outcome("with_block", tag)
    assert any_worker.notes(tag) == ["block"]


def test_a_commit_inside_a_task_is_final(worker, tag):
    worker.outcome("commit_first", tag)
    assert worker.notes(tag) == ["committed"]


def test_release_conn_inside_a_task_rolls_back_and_the_task_goes_on(worker, tag):
    worker.call("release_first", tag)
    assert worker.notes(tag) == ["rest"]


@pytest.mark.parametrize(("ending", "expected"), [("return", ["inner", "outer"]), ("raise", [])])
def test_a_task_called_directly_inside_another_joins_it(worker, tag, ending, expected):
    worker.outcome("call_another", tag, ending)
    assert worker.notes(tag) == expected


def test_a_task_that_fails_inside_another_leaves_the_decision_to_it(worker, tag):
    worker.call("call_a_failing_one", tag)
    assert worker.notes(tag) == ["inner", "outer"]


def test_a_task_applied_inside_another_joins_it(worker, tag):
    worker.call("apply_another", tag)
    assert worker.notes(tag) == ["inner", "outer"]


def test_greenlets_that_a_task_spawns_have_connections_of_their_own(worker, tag):
    parent, pids = worker.call("children", tag, 8)
    assert parent not in pids
    assert len(worker.notes(tag)) == 9


def test_what_spawned_greenlets_committed_stays_when_their_task_fails(worker, tag):
    worker.outcome("children", tag, 2, "raise")
    assert worker.notes(tag) == ["0", "1"]


def test_a_greenlet_that_outlives_its_task_gives_its_connection_back(worker, tag):
    worker.call("orphan", tag, 0.2)
    assert worker.notes(tag) == ["parent"]
    wait_until(lambda: worker.notes(tag) == ["orphan", "parent"], interval=0.02)
    wait_until(lambda: worker.call("stats")["pool_available"] == worker.call("stats")["pool_size"])


def test_a_connection_that_a_task_keeps_in_a_global_goes_back_all_the_same(worker, tag):
    for _ in range(10):
        worker.call("leak", tag)
    assert len(worker.notes(tag)) == 10
    results = [worker.send("backend", 0.1) for _ in range(5)]
    assert len(set(returned_by(results, 10))) == 5
