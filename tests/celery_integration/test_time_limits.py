"""`statement_timeout="remaining"` in a task: what its time limit leaves."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        ({"time_limit": 30}, 30),
        ({"time_limit": 60, "soft_time_limit": 20}, 20),
        ({"soft_time_limit": 40}, 40),
    ],
    ids=["hard", "both", "soft"],
)
def test_a_statement_gets_what_the_earlier_limit_leaves(any_worker, limits, bound):
    assert bound - 10 < any_worker.call("statement_timeout", **limits) / 1000 <= bound


def test_without_a_limit_there_is_no_bound(any_worker):
    any_worker.call("statement_timeout", time_limit=30)
    assert any_worker.call("statement_timeout") == 0
