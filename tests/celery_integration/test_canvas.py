"""Chains, groups and chords: the next task sees what was committed before."""

from __future__ import annotations

from celery import chain, chord, group


def test_every_link_of_a_chain_is_committed_before_the_next_begins(any_worker, tag):
    steps = [
        any_worker.signature("add", 0, tag=f"{tag}-0"),
        *(any_worker.signature("add", tag=f"{tag}-{number}") for number in (1, 2)),
    ]
    result = chain(*steps, app=any_worker.client).apply_async()
    assert result.get(timeout=15) == 3
    assert any_worker.notes(tag) == ["0", "1", "2"]


def test_a_chain_ends_at_the_commit_that_fails(worker, tag):
    steps = [worker.signature("break_commit", tag), worker.signature("note", f"{tag}-next")]
    steps[1].immutable = True
    result = chain(*steps, app=worker.client).apply_async()
    result.parent.get(timeout=10, propagate=False)
    assert result.parent.state == "FAILURE"
    worker.call("nothing")
    assert worker.notes(tag) == []


def test_a_group_and_the_body_of_its_chord(worker, tag):
    header = group(worker.signature("add", number, tag=f"{tag}-{number}") for number in range(30))
    body = worker.signature("add", tag=f"{tag}-sum")
    result = chord(header, app=worker.client)(body)
    assert result.get(timeout=15) == sum(range(1, 31))
    assert len(worker.notes(tag)) == 31
