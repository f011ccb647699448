"""Celery's prefork pool, forked by a parent whose pool is open and has been used."""

from __future__ import annotations

import pytest

from tests.support import wait_until
from tests.support.process_sockets import children_of, disjoint, sockets_to
from tests.support.running_worker import returned_by


@pytest.mark.hang_limit(90)
def test_celerys_children_have_none_of_the_sockets_of_a_parent_with_a_live_pool(
    own_worker, tag, pg, admin
):
    worker = own_worker(app="tests.apps.live_parent", pool="prefork", concurrency=3)
    alive = "select count(*) from pg_stat_activity where pid = %s"
    results = [worker.send("early", f"{tag}-{number}") for number in range(100)]
    answers = returned_by(results, timeout=30)
    parent = worker.process.pid
    columns = zip(*answers, strict=True)
    processes, sessions, parents, parents_sessions = (set(column) for column in columns)
    assert parents == {parent}
    assert len(parents_sessions) == 1
    assert not parents_sessions & sessions
    # The parent's session has heard nothing of its children, and is there still.
    assert admin.execute(alive, [*parents_sessions]).fetchone() == (1,)
    assert sockets_to(parent, pg.port)
    number = disjoint({parent, *children_of(parent)}, pg.port)
    assert len(worker.notes(tag)) == 100
    assert worker.process.stop("warm") == 0
    wait_until(lambda: not worker.backends(), interval=0.02)
    print(f"100 tasks in {len(processes)} children, {number} sessions, none shared")
