"""How a pool replaces connections at the end of their lives."""

from __future__ import annotations

import time

import gevent

from tests.support import wait_until
from tests.support.pools import backend_pid, counts, sampling, settled, slow_class
from tests.support.stalls import HubTicker


def test_an_idle_connection_is_replaced_at_the_end_of_its_life(make_pool, backends):
    pool = make_pool(min_size=2, max_size=3, max_lifetime=0.3)
    pool.wait()
    first = {b.pid for b in backends()}
    wait_until(lambda: not first & {b.pid for b in backends()})
    wait_until(lambda: counts(pool).idle == 2)


def test_an_old_connection_stays_until_its_replacement_is_there(make_pool):
    pool = make_pool(min_size=2, max_size=3, max_lifetime=0.4, connection_class=slow_class(0.1))
    pool.wait()
    lowest = []
    opened = pool.get_stats()["connections_num"]
    with sampling(lambda: lowest.append(counts(pool).idle), 0.001):
        wait_until(lambda: pool.get_stats()["connections_num"] >= opened + 4)
    assert min(lowest) >= 2


def test_a_full_pool_replaces_its_old_connections_too(make_pool, backends):
    pool = make_pool(min_size=2, max_size=2, max_lifetime=0.3)
    pool.wait()
    first = {b.pid for b in backends()}
    wait_until(lambda: not first & {b.pid for b in backends()})


def test_a_connection_past_its_life_is_replaced_when_it_is_returned(make_pool):
    pool = make_pool(min_size=1, max_size=1, max_lifetime=0.1)
    with pool.connection() as conn:
        first = backend_pid(conn)
        gevent.sleep(0.15)
    with pool.connection() as conn:
        assert backend_pid(conn) != first


def test_an_idle_connection_that_was_in_use_when_all_was_quiet_is_replaced_in_time(make_pool):
    pool = make_pool(min_size=1, max_size=1, max_lifetime=0.6)
    conn = pool.getconn()
    first = backend_pid(conn)
    gevent.sleep(0.2)
    pool.putconn(conn)
    wait_until(lambda: pool.get_stats()["connections_num"] == 2, timeout=3)
    with pool.connection() as conn:
        assert backend_pid(conn) != first


def test_lifetimes_differ_so_that_a_fleet_does_not_reconnect_at_once(make_pool, rng):
    started = []
    pool = make_pool(
        min_size=10,
        max_size=20,
        max_lifetime=2.0,
        num_workers=10,
        connection_class=slow_class(0, started),
    )
    with HubTicker() as ticker:
        pool.wait()
        opened = time.monotonic()
        wait_until(lambda: len(started) >= 20, timeout=8)
    second_life = started[10:20]
    assert second_life[-1] - second_life[0] > 0.01
    late = ticker.any_between(opened + 1.9, second_life[0])
    assert second_life[0] - opened < 2.0 + late


def test_connections_that_expire_together_are_replaced_as_fast_as_others_connect(
    make_pool, backends
):
    pool = make_pool(min_size=12, max_size=20, max_lifetime=1.5, connection_class=slow_class(0.1))
    pool.wait()
    first = {b.pid for b in backends()}
    wait_until(lambda: len(first & {b.pid for b in backends()}) < 12)
    wait_until(lambda: not first & {b.pid for b in backends()}, timeout=2)
    wait_until(lambda: settled(pool, 12))


def test_a_full_pool_replaces_those_that_expire_together_one_after_the_other(make_pool, backends):
    pool = make_pool(min_size=6, max_size=6, max_lifetime=1.5, connection_class=slow_class(0.02))
    pool.wait()
    first = {b.pid for b in backends()}
    lowest = []
    with sampling(lambda: lowest.append(counts(pool).idle), 0.001):
        wait_until(lambda: len(first & {b.pid for b in backends()}) < 6)
        wait_until(lambda: not first & {b.pid for b in backends()}, timeout=2)
    assert min(lowest) >= 5
    wait_until(lambda: settled(pool, 6))


def test_an_old_connection_has_one_replacement_however_long_that_takes(make_pool, backends):
    pool = make_pool(min_size=1, max_size=5, max_lifetime=2.0, connection_class=slow_class(1.4))
    pool.wait()
    (first,) = backends()
    wait_until(lambda: first.pid not in {b.pid for b in backends()})
    assert pool.get_stats()["connections_num"] == 2
