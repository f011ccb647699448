"""Servers that stop, are full, refuse or cannot be reached; and what happens when they are back."""

from __future__ import annotations

import logging
import time

import gevent
import psycopg
import pytest
from gevent.event import Event
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg import ConnectRejected, OptionError, Pool, PoolTimeout
from tests.support import wait_until
from tests.support.pools import counts, give_back, hold_all, settled


def select_one(pool, timeout=None):
    with pool.connection(timeout=timeout) as conn:
        return conn.execute("SELECT 1").fetchone() == (1,)


# -- the server is away for a while --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_pool_survives_a_server_restart(make_pool, embedded_pg, embedded_dsn, mode):
    pool = make_pool(embedded_dsn, min_size=4, max_size=4)
    pool.wait()
    embedded_pg.restart(mode)
    ready = time.monotonic()
    assert select_one(pool, timeout=5)
    wait_until(lambda: settled(pool, 4))
    assert time.monotonic() - ready < 2


def test_under_load_a_restart_costs_one_error_per_user_and_the_rate_is_back_in_two_seconds(
    make_pool, embedded_pg, embedded_dsn
):
    pool = make_pool(embedded_dsn, min_size=2, max_size=8, timeout=20)
    pool.wait()
    done = Event()
    errors, finished = [], []

    def work(i):
        failed = 0
        while not done.is_set():
            try:
                select_one(pool)
            except psycopg.OperationalError:
                failed += 1
            else:
                finished.append(time.monotonic())
            gevent.sleep(0.01)
        errors.append(failed)

    workers = [gevent.spawn(work, i) for i in range(30)]
    wait_until(lambda: len(finished) > 200)
    embedded_pg.restart("fast")
    ready = time.monotonic()
    wait_until(lambda: len([t for t in finished if t > ready]) > 200, timeout=10)
    first_200 = sorted(t for t in finished if t > ready)[200]
    done.set()
    gevent.joinall(workers, raise_error=True)
    assert first_200 - ready < 2
    assert max(errors) <= 1


def test_waiters_are_served_when_an_outage_ends(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=2, max_size=4)
    pool.wait()
    proxy.stop()
    wait_until(lambda: counts(pool).size == 0)
    waiters = [gevent.spawn(select_one, pool) for _ in range(20)]
    gevent.sleep(1.2)
    assert counts(pool).waiting == 20
    proxy.start()
    back = time.monotonic()
    gevent.joinall(waiters, raise_error=True)
    assert all(waiter.value for waiter in waiters)
    assert time.monotonic() - back < 2


def test_an_unused_pool_recovers_when_it_is_needed_after_a_long_outage(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=1)
    pool.wait()
    proxy.stop()
    wait_until(lambda: pool.get_stats()["connections_errors"] >= 2, timeout=8)
    proxy.start()
    # The next attempt by itself is seconds away by now; a caller brings it forward.
    started = time.monotonic()
    assert select_one(pool)
    assert time.monotonic() - started < 0.8


def test_the_pool_fills_up_again_by_itself(make_pool, proxy, dsn):
    pool = make_pool(proxy.dsn(dsn), min_size=3, max_size=3)
    pool.wait()
    proxy.stop()
    wait_until(lambda: counts(pool).size == 0)
    proxy.start()
    wait_until(lambda: settled(pool, 3), timeout=8)


def test_attempts_back_off_while_no_waiter_can_be_served(make_pool, proxy, dsn, caplog):
    proxy.stop()
    pool = make_pool(proxy.dsn(dsn), min_size=4, max_size=4)
    gevent.sleep(1.5)
    # Three at once, then one after about 1 s: no thundering herd.
    assert 3 <= pool.get_stats()["connections_errors"] <= 6
    waiters = [gevent.spawn(select_one, pool) for _ in range(50)]
    before = pool.get_stats()["connections_errors"]
    gevent.sleep(1.0)
    assert pool.get_stats()["connections_errors"] - before <= 6
    proxy.start()
    gevent.joinall(waiters, raise_error=True)


def test_a_refusing_server_costs_little_cpu(make_pool, proxy, dsn):
    proxy.stop()
    pool = make_pool(proxy.dsn(dsn), min_size=4, max_size=4)
    wait_until(lambda: pool.get_stats()["connections_errors"])
    before = time.process_time()
    gevent.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_reconnect_failed_is_called_and_the_pool_does_not_give_up(make_pool, proxy, dsn, caplog):
    failed = []
    proxy.stop()
    pool = make_pool(
        proxy.dsn(dsn), min_size=1, reconnect_timeout=0.3, reconnect_failed=failed.append
    )
    wait_until(lambda: len(failed) >= 2, timeout=8)
    assert set(failed) == {pool}
    assert "failed after 0.3 sec" in caplog.text
    proxy.start()
    assert select_one(pool)


def test_a_reconnect_failed_that_raises_is_logged_and_harmless(make_pool, proxy, dsn, caplog):
    def reconnect_failed(pool):
        raise RuntimeError("the phone is not answered")

    proxy.stop()
    pool = make_pool(
        proxy.dsn(dsn), min_size=1, reconnect_timeout=0.2, reconnect_failed=reconnect_failed
    )
    wait_until(lambda: "the phone is not answered" in caplog.text)
    proxy.start()
    assert select_one(pool)


@pytest.mark.parametrize("min_size", [0, 1])
def test_a_reconnect_failed_that_takes_long_does_not_hold_up_the_recovery(
    make_pool, proxy, dsn, min_size
):
    called, may_end = Event(), Event()

    def reconnect_failed(pool):
        called.set()
        may_end.wait()

    proxy.stop()
    pool = make_pool(
        proxy.dsn(dsn),
        min_size=min_size,
        reconnect_timeout=0.2,
        reconnect_failed=reconnect_failed,
    )
    waiter = gevent.spawn(select_one, pool, 8)
    assert called.wait(5)
    proxy.start()
    try:
        assert waiter.get(timeout=4)
    finally:
        may_end.set()


def test_a_silent_network_while_connecting_does_not_delay_the_deadline(make_pool, proxy, dsn):
    proxy.stall()
    pool = make_pool(proxy.dsn(dsn), min_size=1)
    started = time.monotonic()
    with pytest.raises(PoolTimeout, match=r"waiting=|in_use=0"):
        pool.getconn(timeout=0.3)
    assert time.monotonic() - started < 0.3 + 0.25
    proxy.resume()


def test_a_connect_timeout_ends_an_attempt_and_the_next_one_succeeds(make_pool, proxy, dsn):
    proxy.stall()
    pool = make_pool(proxy.dsn(make_conninfo(dsn, connect_timeout=2)), min_size=0)
    waiter = gevent.spawn(select_one, pool, 10)
    wait_until(lambda: pool.get_stats()["connections_errors"] == 1, timeout=5)
    proxy.drop_connections()
    proxy.resume()
    assert waiter.get(timeout=5)


def test_an_attempt_that_fell_into_a_silent_network_does_not_outlive_it_for_long(
    make_pool, proxy, dsn, monkeypatch
):
    # The program gave no time-out, and psycopg's 130 s are not for a pool.
    monkeypatch.setattr("geventpg.pool.connector.CONNECT_TIMEOUT", 0.5)
    proxy.mute()
    pool = make_pool(proxy.dsn(dsn), min_size=1, max_size=1)
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0.1)
    proxy.resume()
    assert select_one(pool, timeout=5)


def test_a_callable_that_never_returns_does_not_keep_the_pool_at_zero(make_pool, dsn, monkeypatch):
    monkeypatch.setattr("geventpg.pool.connector.CONNECT_TIMEOUT", 0.2)
    asked = []

    def conninfo():
        asked.append(time.monotonic())
        if len(asked) == 1:
            Event().wait()
        return dsn

    pool = make_pool(conninfo, min_size=1, max_size=1)
    with pytest.raises(PoolTimeout) as caught:
        pool.getconn(timeout=0.5)
    assert "took more than 0.2 s" in str(caught.value)
    assert select_one(pool, timeout=5)


def test_connecting_slowly_does_not_block_others(make_pool, proxy, dsn):
    proxy.delay(0.1)
    pool = make_pool(proxy.dsn(dsn), min_size=2, max_size=2)
    pauses, last = [], time.monotonic()
    filling = gevent.spawn(pool.wait)
    while not filling.ready():
        gevent.sleep(0.005)
        now = time.monotonic()
        pauses.append(now - last)
        last = now
    filling.get()
    # Hub never blocked: the median pause is the sleep's own, and none as long as a round trip.
    assert sorted(pauses)[-2] < 0.1


# -- the server is full --------------------------------------------------------------------------


@pytest.fixture
def role(pg, admin, application_name):
    """Return a function that makes a login role and gives its conninfo."""
    made = []

    def make(name, password, options=""):
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + options).format(
                sql.Identifier(name), sql.Literal(password)
            )
        )
        made.append(name)
        return make_conninfo(
            pg.dsn, user=name, password=password, application_name=application_name
        )

    yield make
    for name in made:
        wait_until(
            lambda: (
                admin.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE usename = %s",
                    [name],  # noqa: B023
                ).fetchone()
                == (0,)
            )
        )
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def test_a_full_server_is_back_pressure_and_not_an_error(make_pool, role, backends, caplog):
    conninfo = role("limited", "of-limited", options="CONNECTION LIMIT 3")
    pool = make_pool(conninfo, min_size=1, max_size=10)

    def work():
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(0.005)")

    greenlets = [gevent.spawn(work) for _ in range(200)]
    gevent.joinall(greenlets, raise_error=True)
    assert len(backends()) <= 3
    # The server was not hammered with attempts that cannot succeed.
    assert pool.get_stats()["connections_errors"] <= 8
    pool.close()


def test_at_a_full_server_the_timeout_tells_why(make_pool, role):
    conninfo = role("limited", "of-limited", options="CONNECTION LIMIT 1")
    pool = make_pool(conninfo, min_size=1, max_size=2)
    conn = pool.getconn()
    with pytest.raises(PoolTimeout, match="too many connections for role") as caught:
        pool.getconn(timeout=1)
    assert type(caught.value) is PoolTimeout
    pool.putconn(conn)
    assert select_one(pool)
    pool.close()


def test_a_full_server_with_no_connection_of_ours_is_waited_for(make_pool, role, admin):
    conninfo = role("limited", "of-limited", options="CONNECTION LIMIT 1")
    with psycopg.connect(conninfo) as other:
        pool = make_pool(conninfo, min_size=1, max_size=2)
        waiter = gevent.spawn(select_one, pool, 8)
        wait_until(lambda: pool.get_stats()["connections_errors"])
        assert counts(pool).waiting == 1
        other.close()
    assert waiter.get(timeout=4)
    pool.close()


# -- the server says no --------------------------------------------------------------------------


def test_a_wrong_password_fails_the_first_acquire_with_the_servers_words(make_pool, dsn):
    pool = make_pool(make_conninfo(dsn, password="not-the-password"))
    started = time.monotonic()
    with pytest.raises(ConnectRejected, match="password authentication failed") as caught:
        pool.getconn()
    assert time.monotonic() - started < 1
    assert isinstance(caught.value, PoolTimeout)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "not-the-password" not in str(caught.value)


def test_a_wrong_password_fails_all_waiters_and_later_callers(make_pool, dsn):
    pool = make_pool(make_conninfo(dsn, password="not-the-password"))
    for _ in range(2):
        waiters = [gevent.spawn(pool.getconn) for _ in range(10)]
        started = time.monotonic()
        gevent.joinall(waiters, timeout=5)
        assert time.monotonic() - started < 1
        assert {type(waiter.exception) for waiter in waiters} == {ConnectRejected}


def test_wait_reports_a_wrong_password_at_once(make_pool, dsn):
    pool = make_pool(make_conninfo(dsn, password="not-the-password"))
    started = time.monotonic()
    with pytest.raises(ConnectRejected, match="password authentication failed"):
        pool.wait()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dbname": "no_such_database"}, 'database "no_such_database" does not exist'),
        ({"user": "no_such_role", "password": "x"}, "authentication failed"),
    ],
)
def test_a_wrong_name_fails_the_first_acquire_with_the_servers_words(make_pool, dsn, change, words):
    pool = make_pool(make_conninfo(dsn, **change))
    started = time.monotonic()
    with pytest.raises(ConnectRejected, match=words):
        pool.getconn()
    assert time.monotonic() - started < 1


def test_a_rejected_pool_does_not_hammer_the_server(make_pool, dsn):
    pool = make_pool(make_conninfo(dsn, password="not-the-password"), min_size=4)
    gevent.sleep(1.2)
    assert pool.get_stats()["connections_errors"] <= 6


def test_a_pool_works_after_its_password_was_mended_on_the_server(make_pool, role, admin):
    conninfo = role("mended", "old")
    wrong = make_conninfo(conninfo, password="new")
    pool = make_pool(wrong)
    with pytest.raises(ConnectRejected):
        pool.getconn()
    admin.execute("ALTER ROLE mended PASSWORD 'new'")
    assert select_one(pool, timeout=3)
    pool.close()


def test_a_password_that_is_asked_for_may_become_right(make_pool, dsn):
    passwords = ["not-the-password", conninfo_to_dict(dsn)["password"]]

    def conninfo():
        return make_conninfo(dsn, password=passwords.pop(0) if len(passwords) > 1 else passwords[0])

    pool = make_pool(conninfo, num_workers=1)
    assert select_one(pool, timeout=5)


def test_a_password_that_is_asked_for_and_stays_wrong_is_an_error_too(make_pool, dsn):
    pool = make_pool(lambda: make_conninfo(dsn, password="not-the-password"))
    with pytest.raises(PoolTimeout, match="password authentication failed"):
        pool.getconn(timeout=2)


def test_a_rotated_password_does_not_disturb_the_connections_that_exist(
    make_pool, role, admin, backends
):
    conninfo = role("rotated", "old")
    pool = make_pool(conninfo, min_size=2, max_size=4)
    pool.wait()
    admin.execute("ALTER ROLE rotated PASSWORD 'new'")
    conns = hold_all(pool, 2)
    waiter = gevent.spawn(select_one, pool, 5)
    wait_until(lambda: pool.get_stats()["connections_errors"])
    give_back(pool, conns)
    assert waiter.get(timeout=5)
    pool.close()


def test_a_server_of_another_kind_is_an_error_that_names_the_place(make_pool, redis_port):
    pool = make_pool(f"host=127.0.0.1 port={redis_port} user=u dbname=d password=p")
    wait_until(lambda: pool.get_stats().get("connections_errors"))
    with pytest.raises(PoolTimeout, match=f"127.0.0.1.*{redis_port}"):
        pool.getconn(timeout=0.3)


@pytest.fixture
def redis_port(monkeypatch):
    """Return the port of a server that greets with what no PostgreSQL would say."""
    from gevent.server import StreamServer

    server = StreamServer(("127.0.0.1", 0), lambda sock, _address: sock.sendall(b"-ERR what?\r\n"))
    server.start()
    yield server.server_port
    server.stop()


def test_an_unknown_host_is_an_error_that_names_it(make_pool):
    pool = make_pool("host=no-such-host.invalid user=u dbname=d")
    wait_until(lambda: pool.get_stats().get("connections_errors"))
    with pytest.raises(PoolTimeout, match=r"no-such-host\.invalid"):
        pool.getconn(timeout=0.5)


def test_a_connect_argument_that_psycopg_does_not_know_is_an_error_at_once(make_pool):
    pool = make_pool(kwargs={"flavour": "vanilla"})
    with pytest.raises(PoolTimeout, match="flavour"):
        pool.getconn(timeout=2)


@pytest.mark.parametrize(
    "conninfo",
    [
        "host=127.0.0.1 password=open sesame-42",
        "postgresql://app:sesame-42@[127.0.0.1/db",
        "flavour=vanilla password=sesame-42",
        "postgresql://app:pa@sesame-42@127.0.0.1/db",
        "sesame-42",
    ],
)
def test_an_invalid_conninfo_is_an_error_at_construction_that_keeps_its_secret(conninfo):
    with pytest.raises(OptionError, match="conninfo") as caught:
        Pool(conninfo, open=False)
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# -- secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["none", "wrong password", "unreachable", "malformed"])
def test_a_password_is_in_no_log_line_error_repr_or_statistic(
    make_pool, dsn, caplog, trouble, proxy
):
    caplog.set_level(logging.DEBUG)
    secret = "sesame-42"
    real = conninfo_to_dict(dsn)["password"]
    if trouble == "none":
        pool = make_pool()
        secret = real
        assert select_one(pool)
    elif trouble == "wrong password":
        pool = make_pool(make_conninfo(dsn, password=secret))
    elif trouble == "unreachable":
        proxy.stop()
        pool = make_pool(make_conninfo(proxy.dsn(dsn), password=secret))
    else:
        pool = make_pool(lambda: f"host=127.0.0.1 password=open {secret} user=app")
    texts = []
    for use in (lambda: pool.getconn(timeout=0.3), lambda: pool.wait(timeout=0.3)):
        try:
            conn = use()
        except psycopg.Error as error:
            while error is not None:
                texts += [str(error), repr(error)]
                error = error.__cause__ or error.__context__
        else:
            texts.append(repr(conn))
            if conn is not None:
                pool.putconn(conn)
    texts += [repr(pool), str(pool.get_stats()), caplog.text]
    texts += [repr(record.args) for record in caplog.records]
    for text in texts:
        assert secret not in text
        assert real not in text
    pool.close()
