"""Whose answer is there is woken by the one before, and errors end up where they belong."""

from __future__ import annotations

import gevent
import gevent.monkey
import greenlet
import pytest

from tests.statements.helpers import all_true, at_rest, echo, echoes, stats
from tests.support import wait_until

stand_still = gevent.monkey.get_original("time", "sleep")


@pytest.fixture
def switches():
    """Return the list of all switches, (from, to)."""
    seen = []
    before = greenlet.settrace(lambda _event, pair: seen.append(pair))
    yield seen
    greenlet.settrace(before)


def test_who_waits_again_wakes_the_next_one_whose_answer_is_there(pool, switches):
    def work():
        return all(echo(pool) for _ in range(50))

    workers = {gevent.spawn(work) for _ in range(100)}
    assert all_true(workers)
    woken = [origin for origin, target in switches if target in workers]
    by_each_other = sum(origin in workers for origin in woken)
    assert by_each_other > len(woken) / 2


def test_who_is_killed_by_the_one_before_has_its_answer_first(pool):
    assert echo(pool)
    order = []

    def first():
        assert echo(pool)
        order.append("first")
        second.kill(block=False)
        order.append(echo(pool))

    def killed():
        try:
            order.append(echo(pool))
            gevent.sleep(60)
        except gevent.GreenletExit:
            order.append("killed")

    starter, second = gevent.spawn(first), gevent.spawn(killed)
    # Behind the callback that sends both, and until both answers are there.
    gevent.spawn(gevent.get_hub().loop.run_callback, stand_still, 0.05)
    gevent.joinall([starter, second], raise_error=True)
    assert order == ["first", True, "killed", True]
    wait_until(lambda: at_rest(pool))
    assert stats(pool).abandoned == 0


def test_errors_that_end_raw_greenlets_do_not_end_what_wakes_the_others(pool, capsys):
    hub = gevent.get_hub()

    def fail():
        assert echo(pool)
        raise LookupError("of a raw greenlet")

    def work():
        return all(echo(pool) for _ in range(20))

    workers = []
    for _ in range(20):
        workers.append(gevent.spawn(work))
        raw = greenlet.greenlet(fail, hub)
        hub.loop.run_callback(raw.switch)
    assert all_true(workers)
    assert all_true(echoes(pool, 10))
    assert capsys.readouterr().err.count("LookupError: of a raw greenlet") == 20
