"""The rows of `geventpg top`, made of what workers answer."""

from __future__ import annotations

from geventpg.cli.board import cells, lines, read


def pool(**changes):
    numbers = dict.fromkeys(
        ("min_size", "size", "idle", "in_use", "waiting", "requests", "wait_ms", "held_ms"), 0
    )
    told = {"pool": "default", "max_size": 5, "evicted": 0, "holders": [], **numbers}
    return {**told, **changes}


def holder(seconds, **changes):
    return {
        "seconds": seconds, "task": "sleep", "task_id": "1-2", "greenlet": "main", "pid": 77,
        "transaction": "ACTIVE", "statement": "select 1", **changes,
    }  # fmt: skip


def answer(pid, *pools):
    return {"processes": [{"pid": pid, "pools": list(pools)}]}


def test_where_most_wait_comes_first_and_what_failed_before_that():
    answers = {
        "a@x": answer(1, pool(waiting=1)),
        "b@x": answer(2, pool(waiting=7)),
        "c@x": {"processes": [{"pid": 3, "error": "no answer"}]},
    }
    assert [row.pid for row in read(answers, 0.0).rows] == [3, 2, 1]
    assert [row.pid for row in read(answers, 0.0, sort="worker").rows] == [3, 1, 2]


def test_rates_and_means_are_those_since_the_last_look():
    before = read({"a@x": answer(1, pool(requests=100, wait_ms=50, held_ms=900))}, 10.0)
    assert (before.rows[0].rate, before.rows[0].held) == (None, None)
    (row,) = read(
        {"a@x": answer(1, pool(requests=120, wait_ms=150, held_ms=1100))}, 12.0, before
    ).rows
    assert (row.rate, row.wait, row.held) == (10.0, 0.005, 0.01)
    # A process that was started anew has other counters.
    (row,) = read({"a@x": answer(1, pool(requests=3))}, 12.0, before).rows
    assert (row.rate, row.wait, row.held) == (None, None, None)


def test_holders_of_all_processes_are_in_one_list_the_longest_first():
    answers = {
        "a@x": answer(1, pool(holders=[holder(2.0), holder(0.5)])),
        "b@x": answer(2, pool(holders=[holder(700.0, task=None, task_id=None, statement=None)])),
    }
    board = read(answers, 0.0)
    assert [held.seconds for held in board.holders] == [700.0, 2.0, 0.5]
    assert lines(board, 1)[-1] == (
        "b@x pid=2 held for 12 min by main[], backend 77, ACTIVE: no statement runs"
    )
    assert len(lines(board, 10)) == 2 + 3


def test_a_line_has_what_is_known_as_words_to_grep_for():
    board = read({"a@x": answer(1, pool(in_use=3, waiting=2))}, 0.0)
    assert lines(board, 0) == ["a@x pid=1 pool=default in_use=3/5 idle=0 waiting=2 lost=0"]


def test_a_failure_is_told_in_place_of_numbers():
    board = read({"a@x": {"error": "TypeError('no')"}}, 0.0)
    assert lines(board, 0) == ["a@x pid=0: TypeError('no')"]
    assert cells(board.rows[0])[2] == "TypeError('no')"
