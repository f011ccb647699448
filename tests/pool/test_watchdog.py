"""Dead and silent idle connections are found before a user meets them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time

import gevent
import psycopg
import pytest
from gevent.event import Event

from tests.support import wait_until
from tests.support.pools import (
    backend_pid,
    counts,
    engine_greenlets,
    give_back,
    hold_all,
    no_switch,
    settled,
    terminate,
)


def select_one(pool, timeout=None):
    with pool.connection(timeout=timeout) as conn:
        return conn.execute("SELECT 1").fetchone() == (1,)


# -- what the server ends ------------------------------------------------------------------------


def test_after_all_idle_backends_were_terminated_no_caller_sees_an_error(
    make_pool, admin, backends
):
    pool = make_pool(min_size=20, max_size=20)
    pool.wait()
    dead = {b.pid for b in backends()}
    terminate(admin, *dead)
    gevent.sleep(0.05)
    users = [gevent.spawn(select_one, pool) for _ in range(200)]
    gevent.joinall(users, raise_error=True)
    assert all(user.value for user in users)
    wait_until(lambda: settled(pool, 20))
    assert not dead & {b.pid for b in backends()}
    assert pool.get_stats()["connections_lost"] == 20
    assert pool.get_stats()["returns_bad"] == 0


def test_terminated_idle_connections_leave_the_pool_without_being_asked_for(
    make_pool, admin, backends
):
    pool = make_pool(min_size=3, max_size=3)
    pool.wait()
    dead = {b.pid for b in backends()}
    terminate(admin, *dead)
    wait_until(lambda: len({b.pid for b in backends()} - dead) == 3)
    assert settled(pool, 3)


def test_the_pool_gives_out_no_session_whose_server_said_goodbye_though_it_is_not_over_yet(
    make_pool, admin
):
    pool = make_pool(min_size=1, max_size=1, keepalive_interval=0)
    with pool.connection() as conn:
        dying = backend_pid(conn)
        conn.execute("CREATE TEMP TABLE removed_at_the_end ()")
        row = conn.execute("SELECT 'removed_at_the_end'::regclass::oid").fetchone()
    table = "SELECT oid::regclass FROM pg_class WHERE oid = %s"
    with admin.transaction():
        # The backend drops its temporary tables and waits for the process that has one locked.
        name = admin.execute(table, row).fetchone()[0]
        admin.execute(f"LOCK TABLE {name} IN ACCESS SHARE MODE")
        admin.execute("SELECT pg_terminate_backend(%s)", [dying])
        waits = "SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: admin.execute(waits, [dying]).fetchone() == ("Lock",))
        for _ in range(3):
            assert select_one(pool)
        assert pool.get_stats()["connections_lost"] == 1
    assert pool.get_stats()["returns_bad"] == 0


def test_a_reset_link_is_noticed_like_a_goodbye(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=3, max_size=3)
    pool.wait()
    for reset in (True, False):
        before = pool.get_stats()["connections_num"]
        proxy.drop_connections(reset=reset)
        wait_until(lambda: pool.get_stats()["connections_num"] == before + 3)  # noqa: B023
        wait_until(lambda: settled(pool, 3))


def test_a_server_with_an_idle_session_timeout_costs_no_errors(make_pool, backends):
    pool = make_pool(min_size=2, max_size=2, kwargs={"options": "-c idle_session_timeout=150"})
    pool.wait()
    first = {b.pid for b in backends()}
    wait_until(lambda: not first & {b.pid for b in backends()})
    for _ in range(20):
        assert select_one(pool)
        gevent.sleep(0.02)
    pool.close()  # the check of what a test leaves may hold one for longer than 150 ms


def test_a_connection_that_dies_in_use_is_replaced_and_the_others_are_verified(
    make_pool, proxy, dsn, admin
):
    # Without a keepalive nothing else looks at the silent ones.
    pool = make_pool(
        proxy.dsn(dsn), min_size=4, max_size=4, keepalive_interval=0, probe_timeout=0.2
    )
    pool.wait()
    conn = pool.getconn()
    terminate(admin, backend_pid(conn))
    wait_until(lambda: _is_broken(conn))
    proxy.stall()
    pool.putconn(conn)
    wait_until(lambda: counts(pool).idle == 0)
    wait_until(lambda: pool.get_stats()["connections_lost"] >= 3)
    proxy.resume()
    assert select_one(pool)


def _is_broken(conn):
    try:
        conn.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


# -- what is no reason to leave ------------------------------------------------------------------


def test_a_notification_keeps_the_idle_connection_and_reaches_its_listener(make_pool, admin):
    pool = make_pool(min_size=1, max_size=1, kwargs={"autocommit": True})
    received = []
    with pool.connection() as conn:
        conn.add_notify_handler(received.append)
        conn.execute("LISTEN geventpg_news")
        pid = backend_pid(conn)
    for i in range(5):
        admin.execute("SELECT pg_notify('geventpg_news', %s)", [str(i)])
        gevent.sleep(0.02)
    assert counts(pool)[:2] == (1, 1)
    with pool.connection() as conn:
        assert backend_pid(conn) == pid
        conn.execute("SELECT 1")
        assert [notify.payload for notify in received] == list("01234")


def test_a_notification_to_a_connection_that_is_held_does_not_spin_and_keeps_it(make_pool, admin):
    pool = make_pool(min_size=1, max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.execute("LISTEN geventpg_news")
        pid = backend_pid(conn)
        admin.execute("NOTIFY geventpg_news")
        before = time.process_time()
        gevent.sleep(0.3)
        assert time.process_time() - before < 0.15
    with pool.connection() as conn:
        assert backend_pid(conn) == pid


def test_a_changed_server_parameter_keeps_the_idle_connection(make_pool, embedded_pg, embedded_dsn):
    # The server tells of the change when it hears from the client next: at a keepalive.
    pool = make_pool(embedded_dsn, min_size=2, max_size=2, keepalive_interval=0.1)
    pool.wait()
    with pool.connection() as conn:
        pids = {backend_pid(conn)}
        assert conn.info.parameter_status("DateStyle") == "ISO, MDY"
    with embedded_pg.connect() as admin:
        admin.execute("ALTER SYSTEM SET datestyle = 'German, DMY'")
        admin.execute("SELECT pg_reload_conf()")
        try:
            conn = pool.getconn()
            pool.putconn(conn)
            wait_until(lambda: conn.info.parameter_status("DateStyle") == "German, DMY")
            assert settled(pool, 2)
            assert pids <= {backend_pid(conn)}
            assert pool.get_stats()["connections_lost"] == 0
        finally:
            admin.execute("ALTER SYSTEM RESET datestyle")
            admin.execute("SELECT pg_reload_conf()")


# -- links that went silent ----------------------------------------------------------------------


@pytest.fixture
def stopped():
    """Return a function that stops backends with SIGSTOP; they go on after the test."""
    pids = []

    def stop(*more):
        for pid in more:
            os.kill(pid, signal.SIGSTOP)
            pids.append(pid)

    yield stop
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_no_user_waits_for_stopped_backends_after_a_keepalive_interval(
    make_pool, embedded_dsn, embedded_pg, application_name, stopped
):
    pool = make_pool(
        embedded_dsn, min_size=10, max_size=10, keepalive_interval=0.5, probe_timeout=0.3
    )
    pool.wait()
    stopped(*[b.pid for b in embedded_pg.backends(application_name)][:5])
    wait_until(lambda: pool.get_stats()["connections_lost"] == 5)
    wait_until(lambda: counts(pool).idle == 10)
    started = time.monotonic()
    users = [gevent.spawn(select_one, pool) for _ in range(50)]
    gevent.joinall(users, raise_error=True, timeout=5)
    assert all(user.value for user in users)
    assert time.monotonic() - started < 1


def test_a_silent_backend_is_found_though_it_was_in_use_when_all_was_quiet(
    make_pool, embedded_dsn, stopped
):
    pool = make_pool(
        embedded_dsn, min_size=1, max_size=1, keepalive_interval=0.3, probe_timeout=0.2
    )
    conn = pool.getconn()
    pid = backend_pid(conn)
    gevent.sleep(0.1)
    pool.putconn(conn)
    stopped(pid)
    wait_until(lambda: pool.get_stats()["connections_lost"] == 1, timeout=3)
    assert select_one(pool, timeout=3)


def test_one_silent_connection_makes_all_the_others_suspect(make_pool, embedded_dsn, stopped):
    # Different ages, so that their keepalives are not due at the same time.
    pool = make_pool(
        embedded_dsn, min_size=4, max_size=4, keepalive_interval=2.0, probe_timeout=0.2
    )
    pool.wait()
    conns = hold_all(pool, 4)
    pids = [backend_pid(conn) for conn in conns]
    oldest = conns.pop()
    pool.putconn(oldest)
    gevent.sleep(0.6)
    give_back(pool, conns)
    stopped(*pids)
    wait_until(lambda: pool.get_stats()["connections_lost"] >= 1, timeout=4)
    first = time.monotonic()
    wait_until(lambda: pool.get_stats()["connections_lost"] == 4, timeout=4)
    assert time.monotonic() - first < 0.5


def test_a_user_who_meets_a_stalled_link_is_served_after_one_probe_timeout(make_pool, proxy, dsn):
    pool = make_pool(
        proxy.dsn(dsn), min_size=3, max_size=3, keepalive_interval=0.2, probe_timeout=0.3
    )
    pool.wait()
    proxy.stall()
    wait_until(lambda: counts(pool).idle == 0)
    proxy.drop_connections()
    proxy.resume()
    started = time.monotonic()
    assert select_one(pool, timeout=5)
    assert time.monotonic() - started < 2


def test_with_a_keepalive_interval_of_zero_nothing_is_probed(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=2, keepalive_interval=0, probe_timeout=0.1)
    pool.wait()
    proxy.stall()
    gevent.sleep(0.4)
    assert settled(pool, 2)
    proxy.resume()


def test_a_connection_in_use_is_not_probed(make_pool, backends):
    pool = make_pool(min_size=2, max_size=2, keepalive_interval=0.05, probe_timeout=0.05)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
        gevent.sleep(0.2)
        conn.execute("SELECT pg_sleep(0.2)")
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert pool.get_stats()["connections_lost"] == 0


def test_keepalives_do_not_disturb_users(make_pool):
    pool = make_pool(min_size=3, max_size=3, keepalive_interval=0.005)
    pool.wait()
    before = pool.get_stats()["connections_num"]

    def work():
        for _ in range(60):
            assert select_one(pool)
            gevent.sleep(0.003)

    gevent.joinall([gevent.spawn(work) for _ in range(5)], raise_error=True)
    stats = pool.get_stats()
    assert stats["connections_num"] == before
    assert stats["connections_lost"] == stats["returns_bad"] == 0


def test_a_keepalive_is_a_round_trip_without_a_transaction(make_pool, admin, backends):
    pool = make_pool(min_size=1, max_size=1, keepalive_interval=0.05)
    pool.wait()
    (backend,) = backends()
    wait_until(lambda: backends()[0].query_start != backend.query_start)
    gevent.sleep(0.1)
    (backend,) = backends()
    assert backend.state == "idle"
    assert backend.xact_start is None


# -- the watchdog itself -------------------------------------------------------------------------


def test_a_killed_watchdog_is_replaced_and_said_so(make_pool, admin, backends, caplog):
    pool = make_pool(min_size=2, max_size=2, name="guarded")
    pool.wait()
    gevent.killall(engine_greenlets())
    wait_until(lambda: "guarded" in caplog.text)
    terminate(admin, *(b.pid for b in backends()))
    wait_until(lambda: pool.get_stats()["connections_lost"] == 2)
    wait_until(lambda: settled(pool, 2))
    assert select_one(pool)


def test_a_pool_whose_greenlets_are_all_killed_again_and_again_works(make_pool, admin):
    pool = make_pool(
        min_size=2, max_size=4, keepalive_interval=0.02, max_lifetime=0.1, reset=lambda _conn: None
    )
    pool.wait()
    done = Event()

    def work():
        while not done.is_set():
            assert select_one(pool)
            gevent.sleep(0.001)

    workers = [gevent.spawn(work) for _ in range(6)]
    for _ in range(20):
        gevent.killall(engine_greenlets(), block=False)
        gevent.sleep(0.02)
    done.set()
    gevent.joinall(workers, raise_error=True)


def test_a_logging_handler_that_raises_does_not_stop_the_watchdog(make_pool, admin, backends):
    class Broken(logging.Handler):
        def emit(self, record):
            raise RuntimeError("the disk is full")

    handler = Broken()
    logger = logging.getLogger("psycopg.pool")
    level = logger.level
    pool = make_pool(min_size=2, max_size=2)
    pool.wait()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        for _ in range(2):
            terminate(admin, *(b.pid for b in backends()))
            gevent.sleep(0.2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    wait_until(lambda: settled(pool, 2))
    assert select_one(pool)


def test_an_idle_watchdog_costs_nothing(make_pool):
    pool = make_pool(min_size=3, max_size=10)
    pool.wait()
    before = time.process_time()
    gevent.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_an_idle_pool_makes_no_switches_on_checkout(make_pool):
    pool = make_pool(min_size=1, keepalive_interval=0.05)
    pool.wait()
    gevent.sleep(0.2)
    with no_switch():
        pool.putconn(pool.getconn())


def test_users_hardly_wait_while_connections_are_probed_all_the_time(make_pool):
    pool = make_pool(min_size=4, max_size=4, keepalive_interval=0.05)
    pool.wait()
    waits = []
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        started = time.monotonic()
        assert select_one(pool)
        waits.append(time.monotonic() - started)
        gevent.sleep(0.002)
    assert sorted(waits)[len(waits) * 9 // 10] < 0.05


def test_probes_are_not_counted_as_use(make_pool):
    pool = make_pool(min_size=2, max_size=2, keepalive_interval=0.05)
    pool.wait()
    pool.pop_stats()
    gevent.sleep(0.3)
    stats = pool.get_stats()
    assert stats["requests_num"] == stats["usage_ms"] == stats["requests_wait_ms"] == 0


def test_probes_run_at_the_same_time(make_pool, proxy, dsn):
    pool = make_pool(
        proxy.dsn(dsn), min_size=6, max_size=6, keepalive_interval=0.2, probe_timeout=0.4
    )
    pool.wait()
    proxy.stall()
    wait_until(lambda: pool.get_stats()["connections_lost"] >= 1)
    first = time.monotonic()
    wait_until(lambda: pool.get_stats()["connections_lost"] == 6)
    assert time.monotonic() - first < 0.3
    proxy.drop_connections()
    proxy.resume()
