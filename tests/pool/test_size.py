"""How a pool grows, shrinks and is resized, and that it never passes ``max_size``."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.event import Event

from geventpg import Connection, OptionError
from tests.support import wait_until
from tests.support.invariants import check_counts
from tests.support.pools import (
    backend_pid,
    counts,
    give_back,
    hold_all,
    sampling,
    settled,
    slow_class,
    terminate,
)


def use(pool, times=1, query="SELECT 1"):
    for _ in range(times):
        with pool.connection() as conn:
            conn.execute(query)


# -- growing -------------------------------------------------------------------------------------


def test_a_pool_starts_with_min_size_connections(make_pool, backends):
    pool = make_pool(min_size=3, max_size=6)
    pool.wait()
    assert len(backends()) == 3
    assert settled(pool, 3)


def test_a_pool_without_minimum_connects_when_asked(make_pool, backends):
    pool = make_pool(min_size=0, max_size=3)
    gevent.sleep(0.05)
    assert backends() == []
    use(pool)
    assert len(backends()) == 1


def test_a_pool_grows_while_a_greenlet_waits(make_pool):
    pool = make_pool(min_size=1, max_size=6)
    conns = hold_all(pool, 6)
    assert counts(pool)[:3] == (6, 0, 6)
    give_back(pool, conns)


def test_a_pool_does_not_grow_beyond_what_is_asked(make_pool, backends):
    pool = make_pool(min_size=1, max_size=10)
    conns = hold_all(pool, 3)
    assert len(backends()) == 3
    give_back(pool, conns)
    use(pool, 20)
    assert len(backends()) == 3


def test_a_short_spike_opens_few_connections(make_pool, backends):
    """HikariCP's case: 50 callers at once, 150 ms to connect, 2 ms of use each."""
    pool = make_pool(min_size=5, max_size=20, connection_class=slow_class(0.15))
    pool.wait()

    def call():
        started = time.monotonic()
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(0.002)")
        return time.monotonic() - started

    callers = [gevent.spawn(call) for _ in range(50)]
    gevent.joinall(callers, raise_error=True)
    waits = sorted(caller.value for caller in callers)
    assert waits[-1] < 0.15  # no caller waited for a connection that was not needed
    wait_until(lambda: counts(pool).connecting == 0)
    assert len(backends()) <= 10
    assert pool.get_stats()["connections_num"] <= 10


def test_a_spike_over_a_slow_network_opens_few_connections(make_pool, proxy, dsn, backends):
    proxy.delay(0.01)
    pool = make_pool(proxy.dsn(dsn), min_size=5, max_size=20)
    pool.wait()
    callers = [gevent.spawn(use, pool, query="SELECT pg_sleep(0.002)") for _ in range(50)]
    gevent.joinall(callers, raise_error=True)
    wait_until(lambda: counts(pool).connecting == 0)
    assert len(backends()) <= 10


def test_a_caller_that_left_does_not_make_the_pool_grow_on(make_pool):
    started = []
    pool = make_pool(min_size=1, max_size=10, connection_class=slow_class(0.05, started))
    pool.wait()
    with pool.connection():
        waiters = [gevent.spawn(pool.getconn) for _ in range(8)]
        wait_until(lambda: counts(pool).waiting == 8)
        gevent.killall(waiters)
    wait_until(lambda: counts(pool).connecting == 0)
    assert len(started) <= 2


# -- never too many ------------------------------------------------------------------------------


def test_size_is_at_most_max_size_at_every_instant(make_pool, admin, backends, rng):
    seen = []

    class Sampled(Connection):
        @classmethod
        def connect(cls, *args, **kwargs):
            seen.extend(check_counts(pool))
            conn = super().connect(*args, **kwargs)
            seen.extend(check_counts(pool))
            return conn

    pool = make_pool(
        min_size=1, max_size=4, max_lifetime=0.05, max_idle=0.05, connection_class=Sampled
    )

    def work(kind):
        for _ in range(15):
            with pool.connection() as conn:
                if kind == 0:
                    conn.close()
                else:
                    conn.execute("SELECT pg_sleep(0.001)")
            gevent.sleep(rng.random() * 0.004)

    def sample():
        assert check_counts(pool) == []

    def sample_server():
        # The server forgets a closed connection a little later than the client.
        found = len(backends())
        if found > 4:
            wait_until(lambda: len(backends()) <= 4, timeout=1)

    with sampling(sample, 0), sampling(sample_server):
        workers = [gevent.spawn(work, i % 4) for i in range(16)]
        gevent.joinall(workers, raise_error=True)
    assert seen == []


# -- shrinking -----------------------------------------------------------------------------------


@pytest.mark.parametrize("use_lifo", [True, False])
def test_an_unused_surplus_is_closed_after_max_idle(make_pool, backends, use_lifo):
    pool = make_pool(min_size=1, max_size=4, max_idle=0.2, use_lifo=use_lifo)
    give_back(pool, hold_all(pool, 4))
    wait_until(lambda: settled(pool, 1))
    wait_until(lambda: len(backends()) == 1)


def test_a_surplus_is_closed_under_light_use(make_pool, backends):
    pool = make_pool(min_size=1, max_size=5, max_idle=0.3)
    give_back(pool, hold_all(pool, 5))
    with sampling(lambda: use(pool), 0.02):
        wait_until(lambda: counts(pool).size == 1)


def test_a_surplus_is_closed_under_light_use_though_it_is_kept_alive(make_pool):
    # Probing is not using: probed connections stay the coldest.
    pool = make_pool(min_size=1, max_size=5, max_idle=1.0, keepalive_interval=0.2)
    give_back(pool, hold_all(pool, 5))
    with sampling(lambda: use(pool), 0.02):
        wait_until(lambda: counts(pool).size == 1, timeout=6)


def test_a_probed_connection_does_not_become_the_most_recently_used(make_pool):
    pool = make_pool(min_size=3, max_size=3, keepalive_interval=0.15)
    pool.wait()
    with pool.connection() as conn:
        hot = conn
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        with pool.connection() as conn:
            assert conn is hot
        gevent.sleep(0.01)


def test_needed_connections_are_not_closed(make_pool):
    pool = make_pool(min_size=1, max_size=3, max_idle=0.1)
    conns = hold_all(pool, 3)
    pids = {backend_pid(conn) for conn in conns}
    gevent.sleep(0.3)
    assert counts(pool)[:3] == (3, 0, 3)
    assert {backend_pid(conn) for conn in conns} == pids
    give_back(pool, conns)


def test_a_pool_without_minimum_shrinks_to_nothing(make_pool, backends):
    pool = make_pool(min_size=0, max_size=2, max_idle=0.1)
    use(pool)
    wait_until(lambda: settled(pool, 0))
    wait_until(lambda: not backends())
    use(pool)


# -- resizing ------------------------------------------------------------------------------------


def test_resizing_up_opens_connections(make_pool, backends):
    pool = make_pool(min_size=1, max_size=1)
    pool.wait()
    pool.resize(3, 5)
    wait_until(lambda: settled(pool, 3))
    assert (pool.min_size, pool.max_size) == (3, 5)
    give_back(pool, hold_all(pool, 5))


def test_resizing_up_serves_the_waiters(make_pool):
    pool = make_pool(min_size=1, max_size=1)
    with pool.connection():
        waiters = [gevent.spawn(pool.getconn) for _ in range(2)]
        wait_until(lambda: counts(pool).waiting == 2)
        pool.resize(1, 3)
        conns = [waiter.get(timeout=5) for waiter in waiters]
        give_back(pool, conns)


def test_resizing_down_closes_idle_connections_at_once(make_pool, backends):
    pool = make_pool(min_size=4, max_size=4)
    pool.wait()
    pool.resize(1, 2)
    assert counts(pool)[:2] == (2, 2)
    wait_until(lambda: len(backends()) == 2)


def test_resizing_down_closes_connections_in_use_when_they_come_back(make_pool, backends):
    pool = make_pool(min_size=4, max_size=4)
    conns = hold_all(pool, 4)
    pool.resize(1, 2)
    assert counts(pool).in_use == 4
    pool.putconn(conns.pop())
    pool.putconn(conns.pop())
    assert counts(pool)[:3] == (2, 0, 2)
    give_back(pool, conns)
    assert counts(pool)[:3] == (2, 2, 0)
    wait_until(lambda: len(backends()) == 2)


def test_a_surplus_after_resizing_is_not_handed_to_a_waiter(make_pool):
    pool = make_pool(min_size=2, max_size=2)
    one, two = hold_all(pool, 2)
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: counts(pool).waiting == 1)
    pool.resize(1, 1)
    pool.putconn(one)
    assert counts(pool)[:4] == (1, 0, 1, 1)
    pool.putconn(two)
    pool.putconn(waiter.get(timeout=5))


def test_a_new_minimum_alone_is_the_maximum_too(make_pool):
    pool = make_pool(min_size=1, max_size=5)
    pool.resize(2)
    assert (pool.min_size, pool.max_size) == (2, 2)


@pytest.mark.parametrize("sizes", [(-1,), (3, 2), (0, 0), (0,), ("4",), (1.5,), (1, 2.5)])
def test_an_impossible_size_changes_nothing(make_pool, sizes):
    pool = make_pool(min_size=1, max_size=2)
    with pytest.raises(OptionError):
        pool.resize(*sizes)
    assert (pool.min_size, pool.max_size) == (1, 2)


def test_resizing_to_and_fro_under_load_loses_nothing(make_pool, rng):
    pool = make_pool(min_size=1, max_size=6)
    done = Event()

    def work():
        while not done.is_set():
            use(pool, query="SELECT pg_sleep(0.001)")

    workers = [gevent.spawn(work) for _ in range(12)]
    for _ in range(40):
        low = rng.randint(0, 3)
        pool.resize(low, rng.randint(max(low, 1), 6))
        gevent.sleep(0.01)
    pool.resize(2, 4)
    done.set()
    gevent.joinall(workers, raise_error=True)
    wait_until(lambda: counts(pool).size <= 4)


# -- draining and checking -----------------------------------------------------------------------


def test_draining_replaces_idle_connections_now_and_those_in_use_on_return(make_pool, backends):
    pool = make_pool(min_size=3, max_size=3)
    pool.wait()
    conn = pool.getconn()
    before = {b.pid for b in backends()}
    pool.drain()
    wait_until(lambda: counts(pool).idle == 2)
    assert conn.execute("SELECT 1").fetchone() == (1,)
    assert backend_pid(conn) in before
    pool.putconn(conn)
    wait_until(lambda: settled(pool, 3))
    wait_until(lambda: len(backends()) == 3)
    assert not before & {b.pid for b in backends()}


def test_draining_serves_the_waiters_with_new_connections(make_pool):
    pool = make_pool(min_size=1, max_size=1)
    conn = pool.getconn()
    first = backend_pid(conn)
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: counts(pool).waiting == 1)
    pool.drain()
    pool.putconn(conn)
    new = waiter.get(timeout=5)
    assert backend_pid(new) != first
    pool.putconn(new)


def test_checking_keeps_good_connections_and_replaces_bad_ones(make_pool, admin, backends, caplog):
    pool = make_pool(min_size=4, max_size=4)
    pool.wait()
    for lost in range(1, 6):
        pids = {b.pid for b in backends()}
        victim = min(pids)
        terminate(admin, victim)
        pool.check()
        wait_until(lambda: settled(pool, 4))
        assert pids - {b.pid for b in backends()} == {victim}
        assert pool.get_stats()["connections_lost"] == lost


def test_checking_a_silent_link_takes_one_probe_timeout(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=3, max_size=3, probe_timeout=0.3)
    pool.wait()
    proxy.stall()
    started = time.monotonic()
    pool.check()
    assert time.monotonic() - started < 0.3 + 0.25
    assert counts(pool).idle == 0
    proxy.resume()


def test_checking_does_not_take_connections_from_their_users(make_pool):
    pool = make_pool(min_size=2, max_size=2)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        pool.check()
        conn.execute("SELECT 1")
    wait_until(lambda: settled(pool, 2))


def test_callers_during_a_check_are_served_without_new_connections(make_pool, backends):
    pool = make_pool(min_size=2, max_size=8)
    pool.wait()
    checks = [gevent.spawn(pool.check) for _ in range(5)]
    users = [gevent.spawn(use, pool) for _ in range(2)]
    gevent.joinall([*checks, *users], raise_error=True)
    assert len(backends()) <= 3


def test_checking_again_and_again_at_the_same_time_closes_no_good_connection(make_pool, backends):
    pool = make_pool(min_size=4, max_size=4)
    pool.wait()
    pids = {b.pid for b in backends()}

    def check():
        for _ in range(50):
            pool.check()
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(check) for _ in range(4)], raise_error=True)
    wait_until(lambda: settled(pool, 4))
    assert {b.pid for b in backends()} == pids
    assert pool.get_stats()["connections_lost"] == 0
