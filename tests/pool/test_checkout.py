"""Which greenlet gets a connection, in which order, and until when."""

from __future__ import annotations

import time

import gevent
import psycopg
import pytest
from gevent.event import Event

from geventpg import PoolClosed, PoolTimeout, TooManyRequests
from tests.support import wait_until
from tests.support.pools import backend_pid, counts, give_back, hold_all, no_switch, settled
from tests.support.stalls import HubTicker


@pytest.fixture
def full_pool(make_pool):
    """Return a pool of one connection and that connection, checked out."""
    pool = make_pool(min_size=1, max_size=1)
    return pool, pool.getconn()


def queue_up(pool, number, served, **options):
    """Start *number* greenlets that wait for *pool*; they append their number when served."""

    def wait(i):
        with pool.connection(**options) as conn:
            served.append(i)
            return conn

    already = counts(pool).waiting
    waiters = []
    for i in range(number):
        waiters.append(gevent.spawn(wait, i))
        wait_until(lambda: counts(pool).waiting == already + len(waiters))
    return waiters


# -- order ---------------------------------------------------------------------------------------


def test_the_most_recently_used_connection_is_given_first(make_pool):
    pool = make_pool(min_size=3)
    pool.wait()
    one, two, three = conns = hold_all(pool, 3)
    for conn in (two, three, one):
        pool.putconn(conn)
    assert [pool.getconn(), pool.getconn(), pool.getconn()] == [one, three, two]
    give_back(pool, conns)


def test_without_lifo_the_least_recently_used_connection_is_given_first(make_pool):
    pool = make_pool(min_size=3, use_lifo=False)
    pool.wait()
    one, two, three = conns = hold_all(pool, 3)
    for conn in (two, three, one):
        pool.putconn(conn)
    assert [pool.getconn(), pool.getconn(), pool.getconn()] == [two, three, one]
    give_back(pool, conns)


def test_waiters_are_served_first_come_first_served(full_pool):
    pool, conn = full_pool
    served = []
    waiters = queue_up(pool, 10, served)
    pool.putconn(conn)
    gevent.joinall(waiters, raise_error=True)
    assert served == list(range(10))


def test_a_newcomer_does_not_overtake_the_waiters(full_pool):
    pool, conn = full_pool
    served = []
    waiters = queue_up(pool, 3, served)
    pool.putconn(conn)
    # The connection is spoken for already, though its new holder has not run yet.
    assert counts(pool)[:4] == (1, 0, 1, 2)
    with pool.connection():
        assert served == [0, 1, 2]
    gevent.joinall(waiters, raise_error=True)


def test_a_checkout_of_an_idle_connection_does_not_switch(make_pool):
    pool = make_pool()
    pool.wait()
    with no_switch():
        conn = pool.getconn()
        pool.putconn(conn)
        with pool.connection():
            pass


# -- waiters that die ----------------------------------------------------------------------------


def test_a_killed_waiter_is_never_served(full_pool):
    pool, conn = full_pool
    served = []
    first, second, third = queue_up(pool, 3, served)
    second.kill()
    assert counts(pool).waiting == 2
    pool.putconn(conn)
    gevent.joinall([first, third], raise_error=True)
    assert served == [0, 2]


def test_a_waiter_killed_before_it_could_take_its_connection_passes_it_on(full_pool):
    pool, conn = full_pool
    served = []
    first, second = queue_up(pool, 2, served)
    first.kill(block=False)  # it dies at the next switch; until then it is as good as any
    pool.putconn(conn)
    gevent.joinall([first, second])
    assert served == [1]
    assert counts(pool)[:4] == (1, 1, 0, 0)


def test_a_connection_handed_to_a_killed_waiter_becomes_idle_without_other_waiters(full_pool):
    pool, conn = full_pool
    served = []
    (only,) = queue_up(pool, 1, served)
    only.kill(block=False)
    pool.putconn(conn)
    only.join()
    assert served == []
    assert counts(pool)[:4] == (1, 1, 0, 0)


def test_all_waiters_killed_at_the_moment_of_their_hand_over_lose_nothing(make_pool):
    pool = make_pool(min_size=5, max_size=5)
    for killed_first in range(11):
        conns = hold_all(pool, 5)
        waiters = queue_up(pool, 10, [])
        for i, waiter in enumerate(waiters):
            if i == killed_first:
                give_back(pool, conns)
            waiter.kill(block=False)
        give_back(pool, conns)
        gevent.joinall(waiters)
        wait_until(lambda: settled(pool, 5))


@pytest.mark.parametrize("exception", [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_a_waiter_leaves_the_queue_by_any_exception(full_pool, exception):
    pool, conn = full_pool
    caught = []

    def wait():
        try:
            pool.getconn()
        except BaseException as error:
            caught.append(error)

    waiter = gevent.spawn(wait)
    wait_until(lambda: counts(pool).waiting == 1)
    waiter.kill(exception)
    assert isinstance(caught[0], exception)
    assert counts(pool).waiting == 0
    pool.putconn(conn)


def test_a_waiter_in_a_raw_greenlet_is_served(full_pool):
    from gevent.hub import get_hub, spawn_raw

    pool, conn = full_pool
    served = Event()

    def wait():
        with pool.connection():
            served.set()

    spawn_raw(wait)
    wait_until(lambda: counts(pool).waiting == 1)
    pool.putconn(conn)
    assert served.wait(5)
    assert get_hub() is not None


def test_a_checkout_in_a_hub_callback_is_a_clear_error(full_pool):
    pool, conn = full_pool
    outcome = []

    def callback():
        try:
            pool.getconn()
        except BaseException as error:
            outcome.append(error)

    gevent.get_hub().loop.run_callback(callback)
    wait_until(lambda: outcome)
    assert isinstance(outcome[0], psycopg.InterfaceError)
    pool.putconn(conn)
    assert counts(pool).waiting == 0


# -- deadlines -----------------------------------------------------------------------------------


def test_one_waiter_is_told_at_its_deadline(full_pool):
    pool, conn = full_pool
    lateness = []
    for _ in range(5):
        started = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0.1)
        lateness.append(time.monotonic() - started - 0.1)
    assert min(lateness) >= -0.001
    # The second best of five: other processes share the cores.
    assert sorted(lateness)[1] <= 0.05
    pool.putconn(conn)


def test_a_thousand_waiters_are_told_at_their_deadlines(full_pool, rng):
    pool, conn = full_pool
    told = []

    def wait(timeout):
        deadline = time.monotonic() + timeout
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=timeout)
        told.append((deadline, time.monotonic()))

    with HubTicker() as ticker:
        waiters = [gevent.spawn(wait, rng.uniform(0.3, 0.9)) for _ in range(1000)]
        gevent.joinall(waiters, raise_error=True)
    assert len(told) == 1000
    assert min(at - deadline for deadline, at in told) >= -0.001
    # Other processes share the cores: the time that they took does not count.
    lateness = sorted(at - deadline - ticker.machine_between(deadline, at) for deadline, at in told)
    assert lateness[990] <= 0.1
    pool.putconn(conn)


def test_a_thousand_waiters_with_one_deadline_are_told_at_it(full_pool):
    pool, conn = full_pool
    ended = []

    def wait(timeout):
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=timeout)
        ended.append(time.monotonic())

    lateness = []
    with HubTicker() as ticker:
        for _ in range(3):
            deadline = time.monotonic() + 0.3
            waiters = [gevent.spawn(wait, deadline - time.monotonic()) for _ in range(1000)]
            gevent.joinall(waiters, raise_error=True)
            assert deadline - 0.001 <= min(ended)
            machine = ticker.machine_between(deadline, max(ended))
            lateness.append(max(ended) - deadline - machine)
            ended.clear()
    # The best of three: other processes share the cores.
    assert min(lateness) <= 0.1
    pool.putconn(conn)


def test_a_short_deadline_behind_a_long_one_is_met(full_pool):
    pool, conn = full_pool
    patient = gevent.spawn(pool.getconn, 30)
    wait_until(lambda: counts(pool).waiting == 1)
    started = time.monotonic()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.1)
    assert time.monotonic() - started < 1
    assert counts(pool).waiting == 1
    pool.putconn(conn)
    pool.putconn(patient.get())


def test_the_pools_own_timeout_is_the_default(make_pool):
    pool = make_pool(max_size=1, timeout=0.1)
    with pool.connection(), pytest.raises(PoolTimeout, match=r"after 0\.10 sec"):
        pool.getconn()


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_timeout_of_nothing_fails_at_once(full_pool, timeout):
    pool, conn = full_pool
    with no_switch(), pytest.raises(PoolTimeout):
        pool.getconn(timeout=timeout)
    assert counts(pool).waiting == 0
    pool.putconn(conn)


def test_an_infinite_timeout_waits(full_pool):
    pool, conn = full_pool
    waiter = gevent.spawn(pool.getconn, float("inf"))
    wait_until(lambda: counts(pool).waiting == 1)
    pool.putconn(conn)
    pool.putconn(waiter.get(timeout=5))


def test_the_timeout_error_tells_what_the_pool_was_doing(make_pool):
    pool = make_pool(min_size=2, max_size=2, name="orders")
    conns = hold_all(pool, 2)
    others = queue_up(pool, 3, [])
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.05)
    text = str(caught.value)
    assert text.startswith("couldn't get a connection after 0.05 sec")
    for part in ("'orders'", "size=2", "idle=0", "in_use=2", "waiting=3"):
        assert part in text
    assert "last connection failure" not in text
    give_back(pool, conns)
    gevent.joinall(others, raise_error=True)


def test_the_timeout_error_tells_why_no_connection_could_be_opened(make_pool, proxy, dsn):
    proxy.stop()
    pool = make_pool(proxy.dsn(dsn))
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.3)
    assert "last connection failure" in str(caught.value)
    assert "onnection refused" in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_the_time_spent_waiting_is_counted(full_pool):
    pool, conn = full_pool
    pool.pop_stats()
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.1)
    stats = pool.get_stats()
    assert stats["requests_queued"] == 1
    assert stats["requests_wait_ms"] >= 90
    pool.putconn(conn)


# -- limits --------------------------------------------------------------------------------------


def test_more_than_max_waiting_are_refused_at_once(make_pool):
    pool = make_pool(max_size=1, max_waiting=2, name="orders")
    conn = pool.getconn()
    served = []
    waiters = queue_up(pool, 2, served)
    with (
        no_switch(),
        pytest.raises(TooManyRequests, match="the pool 'orders' has already 2 requests waiting"),
    ):
        pool.getconn()
    waiters[0].kill()
    waiters += queue_up(pool, 1, served)  # the dead one has made room
    pool.putconn(conn)
    gevent.joinall(waiters)
    assert len(served) == 2


def test_errors_of_the_pool_are_psycopg_operational_errors():
    for error in (PoolTimeout, PoolClosed, TooManyRequests):
        assert issubclass(error, psycopg.OperationalError)


def test_a_waiter_is_served_when_the_connection_of_another_greenlet_breaks(full_pool, admin):
    pool, conn = full_pool
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: counts(pool).waiting == 1)
    first = backend_pid(conn)
    admin.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
    with pytest.raises(psycopg.OperationalError):
        conn.execute("SELECT 1")
    pool.putconn(conn)
    other = waiter.get(timeout=5)
    assert backend_pid(other) != first
    pool.putconn(other)


def test_a_waiter_is_served_when_another_greenlet_closes_its_connection_instead_of_committing(
    full_pool,
):
    pool, conn = full_pool
    waiter = gevent.spawn(pool.getconn)
    wait_until(lambda: counts(pool).waiting == 1)
    conn.close()
    pool.putconn(conn)
    pool.putconn(waiter.get(timeout=5))


def test_many_greenlets_share_few_connections_and_all_are_served(make_pool):
    pool = make_pool(min_size=2, max_size=5)
    pids = set()

    def work(i):
        with pool.connection() as conn:
            pids.add(backend_pid(conn))
            return conn.execute("SELECT %s::int", [i]).fetchone()[0]

    greenlets = [gevent.spawn(work, i) for i in range(500)]
    gevent.joinall(greenlets, raise_error=True)
    assert [g.value for g in greenlets] == list(range(500))
    assert len(pids) <= 5


# -- the statements of a whole pool --------------------------------------------------------------


def test_cancelling_all_statements_ends_them_and_keeps_the_connections(make_pool):
    pool = make_pool(min_size=3, max_size=3, kwargs={"autocommit": True})
    started = time.monotonic()

    def work():
        with pytest.raises(psycopg.errors.QueryCanceled), pool.connection() as conn:
            conn.execute("SELECT pg_sleep(30)")

    pool.wait()
    workers = [gevent.spawn(work) for _ in range(2)]
    idle_holder = pool.getconn()
    wait_until(lambda: counts(pool).in_use == 3)
    wait_until(lambda: pool.cancel_statements(timeout=2) == 2)
    gevent.joinall(workers, raise_error=True, timeout=5)
    assert time.monotonic() - started < 10
    assert idle_holder.execute("SELECT 1").fetchone() == (1,)
    pool.putconn(idle_holder)
    assert settled(pool, 3)


def test_cancelling_over_a_silent_network_is_bounded(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=2, max_size=2, cancel_timeout=0.3)
    conns = hold_all(pool, 2)
    for conn in conns:
        conn.pgconn.send_query(b"SELECT pg_sleep(1)")
    proxy.stall()
    started = time.monotonic()
    assert pool.cancel_statements(timeout=0.2) == 2
    assert time.monotonic() - started < 0.2 + 0.25
    proxy.drop_connections()
    proxy.resume()
    give_back(pool, conns)
