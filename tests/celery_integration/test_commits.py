"""A commit that fails is the task's own failure, and its retry policy's business."""

from __future__ import annotations

import psycopg
import pytest
from celery.backends.base import Backend


def error_of(result) -> str:
    """Return the exception's class name and text, however the client could restore it."""
    assert isinstance(result.backend, Backend)
    return f"{type(result.result).__module__}.{type(result.result).__name__}: {result.result}"


def test_a_commit_that_fails_fails_the_task(any_worker, tag):
    result = any_worker.outcome("break_commit", tag)
    assert result.state == "FAILURE"
    assert "ForeignKeyViolation" in error_of(result)
    assert any_worker.notes(tag) == []


def test_a_commit_that_fails_is_retried_by_autoretry_for(any_worker, tag):
    assert any_worker.call("break_commit_autoretry", tag) == 2
    assert any_worker.notes(tag) == ["2"]


def test_a_commit_that_goes_on_failing_ends_with_the_tasks_max_retries(worker, tag):
    result = worker.outcome("break_commit_autoretry", tag, 99)
    assert result.state == "FAILURE"
    assert "ForeignKeyViolation" in error_of(result)
    assert worker.notes(tag) == []


def test_a_connection_that_is_lost_before_the_commit_fails_the_task(worker, tag):
    result = worker.outcome("lose_connection", tag)
    assert result.state == "FAILURE"
    assert worker.notes(tag) == []
    with pytest.raises(psycopg.Error):
        raise result.result
    assert worker.call("note", f"{tag}-next") == f"{tag}-next"


def test_a_task_that_swallows_a_failed_statement_does_not_succeed(worker, tag):
    # PostgreSQL answers its COMMIT with ROLLBACK.
    result = worker.outcome("swallow", tag)
    assert worker.notes(tag) == []
    assert result.state == "FAILURE"


@pytest.mark.parametrize(("ending", "expected"), [("return", ["", "second"]), ("raise", [])])
def test_both_connections_of_a_task_with_two_pools_end_alike(worker, tag, ending, expected):
    worker.outcome("two_pools", tag, ending)
    assert worker.notes(tag) == expected
