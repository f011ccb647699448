"""The collector, and serving it without blocking the hub."""

from __future__ import annotations

import gc
import socket

import gevent
import pytest
from prometheus_client import CollectorRegistry

from geventpg.metrics.prometheus import PoolCollector, register, serve
from geventpg.pool.causes import EVICTIONS, RETIREMENTS
from tests.metrics.exposition import expose, samples_of, scrape, value_of
from tests.support.script import output_of
from tests.support.waiting import wait_until

SECRET = "hunter2-in-a-statement"


def test_sizes_counters_and_waiting_are_exposed(make_pool):
    pool = make_pool(name="orders", min_size=2, max_size=3)
    pool.wait()
    with pool.connection():
        text = expose(PoolCollector([pool]))
    of = {"pool": "orders"}
    assert value_of(text, "geventpg_connections", state="in_use", **of) == 1
    assert value_of(text, "geventpg_connections", state="idle", **of) == 1
    assert value_of(text, "geventpg_connections_min", **of) == 2
    assert value_of(text, "geventpg_connections_max", **of) == 3
    assert value_of(text, "geventpg_requests_total", **of) == 1
    assert value_of(text, "geventpg_connections_created_total", **of) == 2
    assert value_of(text, "geventpg_longest_hold_seconds", **of) > 0
    assert value_of(text, "geventpg_wait_seconds_bucket", le="0.0001", **of) == 1
    assert value_of(text, "geventpg_wait_seconds_bucket", le="+Inf", **of) == 1
    assert value_of(text, "geventpg_connect_seconds_count", **of) == 2


def test_every_cause_has_a_series_before_it_has_happened(make_pool):
    text = expose(PoolCollector([make_pool()]))
    for causes, name in ((EVICTIONS, "evicted"), (RETIREMENTS, "retired")):
        found = {
            sample.labels["cause"]
            for sample in samples_of(text)
            if sample.name == f"geventpg_connections_{name}_total"
        }
        assert found == {cause.value for cause in causes}


def test_timings_are_there_for_pools_that_have_them(make_pool):
    pool, other = make_pool(name="timed", timings=True), make_pool(name="other")
    for one in (pool, other):
        with one.connection() as conn:
            conn.execute("select pg_sleep(0.02)")
    text = expose(PoolCollector([pool, other]))
    for name in ("hold", "statement"):
        assert value_of(text, f"geventpg_{name}_seconds_count", pool="timed") == 1
        assert value_of(text, f"geventpg_{name}_seconds_sum") >= 0.02


def test_pools_of_one_name_are_added_up(make_pool):
    pools = [make_pool(name="twin", max_size=2) for _ in range(2)]
    for pool in pools:
        pool.wait()
    text = expose(PoolCollector(pools))
    assert value_of(text, "geventpg_connections_max", pool="twin") == 4
    assert value_of(text, "geventpg_connections", pool="twin", state="idle") == 2
    assert value_of(text, "geventpg_connect_seconds_count", pool="twin") == 2


def test_without_pools_given_those_that_are_open_are_told_of(make_pool):
    pool = make_pool(name="open-now")
    collector = PoolCollector()
    assert 'pool="open-now"' in expose(collector)
    pool.close()
    assert 'pool="open-now"' not in expose(collector)


def test_a_collector_keeps_no_pool_alive(make_pool, dsn):
    from geventpg import Pool

    pool = Pool(dsn, open=False, name="let-go")
    collector = PoolCollector([pool])
    assert "let-go" in expose(collector)
    del pool
    gc.collect()
    assert "let-go" not in expose(collector)


def test_pop_stats_does_not_set_what_is_exposed_back(make_pool):
    pool = make_pool()
    with pool.connection():
        pass
    pool.pop_stats()
    assert value_of(expose(PoolCollector([pool])), "geventpg_requests_total") == 1


def test_no_secret_is_in_the_metrics(make_pool, dsn):
    pool = make_pool(f"{dsn} fallback_application_name={SECRET}", timings=True)
    with pool.connection() as conn:
        conn.execute(f"select '{SECRET}'")
    text = expose(PoolCollector([pool]))
    assert SECRET not in text
    assert "password" not in text
    labels = {label for sample in samples_of(text) for label in sample.labels}
    assert labels == {"pool", "state", "cause", "reason", "le"}


def test_registering_twice_is_harmless(make_pool):
    registry = CollectorRegistry()
    register(registry)
    register(registry)
    make_pool(name="once")
    assert value_of(_text(registry), "geventpg_connections_min", pool="once") == 1


def _text(registry):
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


# -- serving -------------------------------------------------------------------------------------


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_metrics_are_served_while_greenlets_work(make_pool, registry):
    pool = make_pool(name="served")
    server = serve(0, registry=registry)
    try:
        with pool.connection() as conn:
            worker = gevent.spawn(conn.execute, "select pg_sleep(10)")
            wait_until(lambda: pool.holders()[0].transaction == "ACTIVE")
            text = gevent.spawn(scrape, server.port).get(timeout=10)
            assert value_of(text, "geventpg_connections", pool="served", state="in_use") == 1
            worker.kill()
    finally:
        server.close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


def test_the_first_free_port_of_several_is_taken(registry):
    first = serve(0, registry=registry)
    try:
        second = serve([first.port, 0], registry=registry)
        assert second.port != first.port
        second.close()
        with pytest.raises(OSError, match="in use"):
            serve(first.port, registry=registry)
    finally:
        first.close()


def test_without_gevent_a_thread_serves_stock_pools(dsn):
    printed = output_of(
        """
        import sys, urllib.request
        import geventpg
        from geventpg.metrics.prometheus import serve
        geventpg.configure(sys.argv[1], min_size=1, max_size=2)
        with geventpg.get_conn() as conn:
            conn.execute("select 1")
        server = serve(0)
        url = f"http://127.0.0.1:{server.port}/metrics"
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        print([line for line in text.splitlines() if line.startswith("geventpg_requests_total")])
        server.close()
        geventpg.close_all()
        """,
        dsn,
    )
    assert printed == """['geventpg_requests_total{pool="default"} 1.0']\n"""
