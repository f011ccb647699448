"""The formulas of `geventpg plan` agree with queues that are played through."""

from __future__ import annotations

import math
import random

import pytest

from geventpg.cli.queueing import ErlangC, FiniteSource, percentile, poisson_at_most
from tests.cli.simulation import play_arrivals, play_sources

SEED = 20250101
USES = 60_000


def assert_agrees(queue, played):
    """Compare what both tell; waits are in units of a use of 5 ms."""
    assert queue.throughput == pytest.approx(played.throughput, rel=0.03)
    assert queue.waiting_share == pytest.approx(played.waiting_share, abs=0.03)
    assert queue.mean_wait == pytest.approx(played.mean_wait, rel=0.1, abs=1e-4)
    for share in (0.95, 0.99):
        assert percentile(queue, share) == pytest.approx(
            played.percentile(share), rel=0.1, abs=5e-4
        )


@pytest.mark.parametrize(
    ("sources", "servers", "think"),
    [(100, 12, 0.045), (100, 5, 0.045), (20, 20, 0.01), (7, 3, 0.005), (500, 20, 0.12)],
)
def test_the_finite_source_formula_agrees_with_a_simulation(sources, servers, think):
    played = play_sources(
        random.Random(SEED), sources=sources, servers=servers, service=0.005, think=think, uses=USES
    )
    assert_agrees(FiniteSource(servers, sources, 0.005, think), played)


@pytest.mark.parametrize(("rate", "servers"), [(1_500, 10), (150, 1), (3_600, 20), (200, 4)])
def test_erlang_c_agrees_with_a_simulation(rate, servers):
    played = play_arrivals(
        random.Random(SEED), rate=rate, servers=servers, service=0.005, uses=4 * USES
    )
    assert_agrees(ErlangC(servers, rate, 0.005), played)


def test_erlang_c_gives_the_figures_of_the_tables():
    # 20 Erlang on 24 agents; one server is 1 - rho.
    assert ErlangC(24, 20, 1.0).waiting_share == pytest.approx(0.2981, abs=1e-4)
    assert ErlangC(1, 0.6, 1.0).waiting_share == pytest.approx(0.6)
    assert ErlangC(1, 0.6, 1.0).mean_wait == pytest.approx(0.6 / 0.4)


def test_many_sources_that_rarely_ask_are_erlang_c():
    closed = FiniteSource(10, 20_000, 0.005, 20_000 / 1_500)
    opened = ErlangC(10, 1_500, 0.005)
    assert closed.mean_wait == pytest.approx(opened.mean_wait, rel=0.02)
    assert closed.waiting_share == pytest.approx(opened.waiting_share, rel=0.02)


def test_more_than_can_be_done_is_a_wait_without_end():
    queue = ErlangC(3, 1_000, 0.005)
    assert math.isinf(queue.mean_wait)
    assert math.isinf(percentile(queue, 0.95))
    assert queue.throughput == 600


def test_greenlets_that_do_nothing_else_keep_all_connections_busy():
    queue = FiniteSource(5, 100, 0.01, 0.0)
    assert queue.throughput == pytest.approx(500)
    # Each of the 95 others is served before it comes to one's turn again.
    assert queue.mean_wait == pytest.approx(95 / 500)


def test_no_task_waits_when_each_has_a_connection_of_its_own():
    queue = FiniteSource(10, 10, 0.01, 0.02)
    assert (queue.waiting_share, queue.mean_wait, percentile(queue, 0.99)) == (0, 0, 0)


@pytest.mark.parametrize("mean", [0.5, 30.0, 5_000.0, 1e6])
def test_a_poisson_sum_is_right_far_from_what_floats_can_hold(mean):
    assert poisson_at_most(int(mean), mean) == pytest.approx(0.5, abs=0.5 / mean + 0.28)
    assert poisson_at_most(int(mean + 20 * mean**0.5 + 20), mean) == pytest.approx(1.0)
    far_below = int(mean - 20 * mean**0.5)
    assert far_below < 0 or poisson_at_most(far_below, mean) < 1e-9
