"""More than fits into any buffer, in both directions, with and without TLS."""

from __future__ import annotations

import re
from pathlib import Path

import gevent
import pytest

from tests.connection.batch.helpers import batch_of, check_pool, numbers
from tests.connection.helpers import Ticker

COUNT = 1000
LARGE = "x" * 60_000
MEGABYTE = 2**20


def megabytes(name):
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024 / MEGABYTE


@pytest.fixture(params=["plain", "TLS"])
def pool(request, make_pool):
    return make_pool(request.getfixturevalue("dsn" if request.param == "plain" else "tls_dsn"))


@pytest.mark.parametrize("atomic", [True, False], ids=["all or nothing", "each"])
def test_a_thousand_parameters_and_results_of_60_kb_arrive(pool, atomic):
    batch = batch_of(*[("select %s::text", (LARGE,))] * COUNT)
    with gevent.Timeout(50), Ticker() as ticker:
        results = pool.send_batch(batch, atomic=atomic)
    assert len(results) == COUNT
    assert all(result.rows == [(LARGE,)] for result in results)
    assert ticker.ticks >= 5  # other greenlets ran meanwhile, those that wait for a timer too
    check_pool(pool)


def test_what_is_under_way_takes_little_memory(pool):
    batch = batch_of(*[("select length(%s)", (LARGE,))] * COUNT)
    pool.send_batch(numbers(1))
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = megabytes("VmRSS")
    results = pool.send_batch(batch)
    assert all(result.rows == [(len(LARGE),)] for result in results)
    assert megabytes("VmHWM") - before < COUNT * len(LARGE) / MEGABYTE / 3


def test_a_slow_reader_is_not_sent_more_than_it_takes(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), max_size=1, cancel_timeout=0.2)
    pool.send_batch(numbers(1))
    Path("/proc/self/clear_refs").write_text("5")
    before = megabytes("VmRSS")
    proxy.stall()
    with gevent.Timeout(0.5, False):
        pool.send_batch(batch_of(*[("select length(%s)", (LARGE,))] * COUNT))
    assert megabytes("VmHWM") - before < COUNT * len(LARGE) / MEGABYTE / 3
    proxy.resume()
    check_pool(pool)
