"""`Pool` in place of psycopg_pool's ``ConnectionPool``: same names, defaults, errors, logs."""

from __future__ import annotations

import inspect
import logging
import re
import time
import warnings

import gevent
import psycopg
import psycopg_pool
import pytest
from gevent.event import Event
from psycopg.rows import dict_row

import geventpg
from geventpg import Connection, Pool
from tests.support import wait_until
from tests.support.pools import backend_pid, counts, settled, terminate

STOCK = psycopg_pool.ConnectionPool
STOCK_ARGUMENTS = list(inspect.signature(STOCK).parameters)
PUBLIC = [name for name in dir(STOCK) if not name.startswith("_")]


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STOCK_ARGUMENTS)
def test_every_constructor_argument_has_the_stock_default_and_kind(name):
    ours = inspect.signature(Pool).parameters[name]
    stock = inspect.signature(STOCK).parameters[name]
    assert ours.kind == stock.kind
    if name == "connection_class":
        assert ours.default is Connection
    else:
        assert ours.default == stock.default


def test_arguments_of_its_own_are_keywords_with_the_documented_defaults():
    parameters = inspect.signature(Pool).parameters
    own = {n: p.default for n, p in parameters.items() if n not in STOCK_ARGUMENTS}
    assert own == {
        "keepalive_interval": 30.0,
        "probe_timeout": 2.0,
        "cancel_timeout": 5.0,
        "leak_threshold": 0.0,
        "prepare": "auto",
        "statement_connections": 1,
        "use_lifo": True,
        "timings": False,
    }
    assert {parameters[name].kind for name in own} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_member_is_called_like_the_stock_one(name):
    stock, ours = getattr(STOCK, name), getattr(Pool, name)
    if not callable(stock):
        return
    expected = [(p.name, p.kind, p.default) for p in inspect.signature(stock).parameters.values()]
    found = [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()]
    assert found == expected


@pytest.mark.parametrize("name", ["PoolClosed", "PoolTimeout", "TooManyRequests"])
def test_exceptions_are_psycopg_pools_own(name):
    assert getattr(geventpg, name) is getattr(psycopg_pool, name)


def test_a_pool_is_a_stock_pool_and_generic_like_it(make_pool, dsn):
    pool = make_pool()
    assert isinstance(pool, STOCK)
    typed = Pool[Connection[dict]](
        dsn, kwargs={"row_factory": dict_row}, min_size=0, max_size=1, open=False
    )
    with typed, typed.connection() as conn:
        assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_attributes_have_the_values_given(make_pool):
    pool = make_pool(
        name="orders", min_size=2, max_size=3, timeout=4.0, max_waiting=5, max_lifetime=60.0,
        max_idle=70.0, reconnect_timeout=80.0, num_workers=2, kwargs={"autocommit": True},
    )  # fmt: skip
    assert (pool.name, pool.min_size, pool.max_size, pool.timeout) == ("orders", 2, 3, 4.0)
    assert (pool.max_waiting, pool.max_lifetime, pool.max_idle) == (5, 60.0, 70.0)
    assert (pool.reconnect_timeout, pool.num_workers) == (80.0, 2)
    assert pool.kwargs == {"autocommit": True}
    assert pool.closed is False


def test_max_size_defaults_to_min_size(dsn):
    assert Pool(dsn, min_size=3, open=False).max_size == 3


def test_unnamed_pools_get_different_names_of_the_stock_form(dsn):
    names = {Pool(dsn, open=False).name for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"pool-\d+", name) for name in names)


def test_the_repr_tells_name_state_and_counts(make_pool):
    pool = make_pool(name="orders", min_size=1, max_size=2)
    pool.wait()
    with pool.connection():
        text = repr(pool)
        for part in ("geventpg.Pool", "'orders'", "[open]", "size=1", "idle=0", "in_use=1"):
            assert part in text
    pool.close()
    assert "[closed]" in repr(pool)


# -- opening and closing -------------------------------------------------------------------------


def test_a_pool_used_before_open_says_so(dsn):
    pool = Pool(dsn, open=False, name="early")
    assert pool.closed
    for use in (pool.getconn, pool.connection().__enter__, pool.wait, pool.check):
        with pytest.raises(psycopg_pool.PoolClosed, match="the pool 'early' is not open yet"):
            use()


def test_a_pool_used_after_close_says_so(make_pool):
    pool = make_pool(name="late")
    pool.close()
    assert pool.closed
    for use in (pool.getconn, pool.connection().__enter__, pool.wait, pool.check):
        with pytest.raises(psycopg_pool.PoolClosed, match="the pool 'late' is already closed"):
            use()


def test_a_closed_pool_cannot_be_opened_again(make_pool):
    pool = make_pool()
    pool.close()
    for reopen in (pool.open, pool.__enter__):
        with pytest.raises(psycopg_pool.PoolClosed, match="already been opened/closed"):
            reopen()


def test_opening_an_open_pool_changes_nothing(make_pool):
    pool = make_pool(min_size=2)
    pool.wait()
    pool.open()
    pool.open(wait=True, timeout=1)
    with pool:
        assert settled(pool, 2)


def test_constructing_an_unopened_pool_connects_nothing(dsn, backends):
    pool = Pool(dsn, min_size=2, open=False)
    gevent.sleep(0.05)
    assert backends() == []
    with pool:
        pool.wait()
        assert len(backends()) == 2
    wait_until(lambda: not backends())


def test_the_first_use_of_an_implicitly_opened_pool_warns_once(dsn):
    pool = Pool(dsn, min_size=1)
    assert not pool.closed
    with pytest.warns(DeprecationWarning, match="the default for the Pool 'open' parameter"):
        conn = pool.getconn()
    pool.putconn(conn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pool.putconn(pool.getconn())
    pool.close()


def test_as_a_context_manager_an_implicitly_opened_pool_does_not_warn(dsn):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Pool(dsn, min_size=1) as pool:
            pool.putconn(pool.getconn())
    assert pool.closed


def test_wait_returns_when_min_size_connections_are_idle(make_pool):
    pool = make_pool(min_size=3)
    pool.wait(timeout=10)
    assert settled(pool, 3)
    pool.wait(timeout=10)  # full already


def test_open_can_wait(dsn):
    pool = Pool(dsn, min_size=2, open=False)
    pool.open(wait=True, timeout=10)
    assert settled(pool, 2)
    pool.close()


def test_several_greenlets_can_wait_for_a_full_pool(make_pool):
    pool = make_pool(min_size=2)
    waiting = [gevent.spawn(pool.wait, 10) for _ in range(5)]
    gevent.joinall(waiting, raise_error=True)
    assert all(greenlet.ready() for greenlet in waiting)


def test_a_wait_that_times_out_closes_the_pool(make_pool, proxy, dsn):
    proxy.stall()
    pool = make_pool(proxy.dsn(dsn))
    started = time.monotonic()
    with pytest.raises(psycopg_pool.PoolTimeout, match=r"pool initialization incomplete after 0.2"):
        pool.wait(timeout=0.2)
    assert time.monotonic() - started < 1
    assert pool.closed


def test_an_interrupted_wait_leaves_the_pool_open(make_pool, proxy, dsn):
    proxy.stall()
    pool = make_pool(proxy.dsn(dsn))
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
        pool.wait()
    assert not pool.closed
    proxy.resume()
    pool.wait(timeout=10)


# -- statistics ----------------------------------------------------------------------------------


def test_statistics_have_the_stock_keys(make_pool, dsn):
    def use(pool):
        pool.wait()
        with pool.connection() as conn:
            conn.execute("SELECT 1")
            with pytest.raises(psycopg_pool.PoolTimeout), pool.connection(timeout=0.05):
                pass
        return set(pool.get_stats())

    with STOCK(dsn, min_size=1, max_size=1, open=True) as stock:
        expected = use(stock)
    assert use(make_pool(min_size=1, max_size=1)) >= expected


def test_statistics_count_what_happened(make_pool):
    pool = make_pool(min_size=1, max_size=2)
    pool.wait()
    with pool.connection() as conn:
        conn.execute("SELECT pg_sleep(0.02)")
        with pool.connection() as other:
            other.close()
    pool.putconn(pool.getconn(timeout=5))
    stats = pool.pop_stats()
    assert stats["pool_min"] == 1
    assert stats["pool_max"] == 2
    assert stats["requests_num"] == 3
    assert stats["requests_queued"] >= 1
    assert stats["requests_errors"] == 0
    assert stats["requests_waiting"] == 0
    assert stats["usage_ms"] >= 20
    assert stats["returns_bad"] == 1
    assert stats["connections_num"] >= 2
    assert stats["connections_ms"] > 0
    pool.close()


def test_pop_stats_sets_the_counters_to_zero_and_keeps_the_sizes(make_pool):
    pool = make_pool(min_size=1)
    with pool.connection():
        pass
    wait_until(lambda: settled(pool, 1))
    assert pool.pop_stats()["requests_num"] == 1
    after = pool.get_stats()
    assert (after["pool_size"], after["pool_available"]) == (1, 1)
    assert after["requests_num"] == after["usage_ms"] == after["connections_num"] == 0


def test_errors_are_counted(make_pool):
    pool = make_pool(min_size=1, max_size=1, max_waiting=1)
    with pool.connection():
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn(timeout=0.01)
        waiter = gevent.spawn(pool.getconn)
        wait_until(lambda: counts(pool).waiting == 1)
        with pytest.raises(psycopg_pool.TooManyRequests):
            pool.getconn()
        waiter.kill()
    assert pool.get_stats()["requests_errors"] == 3


# -- logs ----------------------------------------------------------------------------------------


def test_the_stock_log_lines_are_on_the_stock_logger(make_pool, caplog):
    caplog.set_level(logging.INFO, "psycopg.pool")
    pool = make_pool(min_size=1, max_size=2, name="orders")
    pool.wait()
    with pool.connection(), pool.connection():
        pass
    pool.resize(1, 3)
    lines = [r.getMessage() for r in caplog.records if r.name == "psycopg.pool"]
    for expected in (
        "waiting for pool 'orders' initialization",
        "adding new connection to the pool",
        "pool 'orders' is ready to use",
        "growing pool 'orders' to 2",
        "resizing 'orders' to min_size=1 max_size=3",
    ):
        assert expected in lines


# -- callbacks -----------------------------------------------------------------------------------


def test_configure_is_called_once_for_each_new_connection(make_pool):
    configured = []

    def configure(conn):
        configured.append(conn)
        conn.execute("SET geventpg.flavour = 'vanilla'")
        conn.commit()

    pool = make_pool(min_size=2, max_size=2, configure=configure)
    for _ in range(5):
        with pool.connection() as conn:
            assert conn.execute("SHOW geventpg.flavour").fetchone() == ("vanilla",)
    pool.wait()
    assert len(configured) == 2
    assert len(set(configured)) == 2


@pytest.mark.parametrize("bad", ["raises", "leaves a transaction"])
def test_a_bad_configure_is_logged_and_tried_again(make_pool, caplog, backends, bad):
    calls = []

    def configure(conn):
        calls.append(conn)
        if len(calls) == 1:
            if bad == "raises":
                raise RuntimeError("the flavour is out")
            conn.execute("SELECT 1")

    pool = make_pool(min_size=1, max_size=1, configure=configure, num_workers=1)
    pool.wait(timeout=10)
    assert len(calls) == 2
    assert calls[0].closed
    expected = "the flavour is out" if bad == "raises" else "left in status INTRANS by configure"
    assert expected in caplog.text
    wait_until(lambda: len(backends()) == 1)


def test_configures_failure_is_in_the_timeout_that_it_causes(make_pool):
    tried = []

    def configure(conn):
        tried.append(conn)
        raise RuntimeError("the flavour is out")

    pool = make_pool(configure=configure)
    wait_until(lambda: tried)
    with pytest.raises(psycopg_pool.PoolTimeout, match="the flavour is out"):
        pool.getconn(timeout=0.2)
    pool.close()


def test_a_configure_that_leaves_a_transaction_is_not_blamed_on_the_server(make_pool):
    tried = []

    def configure(conn):
        conn.execute("SELECT 1")
        tried.append(conn)

    pool = make_pool(configure=configure)
    wait_until(lambda: tried)
    with pytest.raises(psycopg_pool.PoolTimeout, match="by configure function") as caught:
        pool.getconn(timeout=0.2)
    assert "the server refuses" not in str(caught.value)
    pool.close()


def test_reset_is_called_on_every_return_and_its_damage_is_undone(make_pool):
    resets = []

    def reset(conn):
        resets.append(conn.info.backend_pid)
        conn.execute("RESET ALL")
        conn.commit()

    pool = make_pool(min_size=1, max_size=1, reset=reset)
    for expected in range(3):
        with pool.connection() as conn:
            assert len(resets) == expected
            assert conn.execute("SHOW statement_timeout").fetchone() == ("0",)
            conn.execute("SET statement_timeout = '7s'")
    wait_until(lambda: len(resets) == 3)
    assert len(set(resets)) == 1


@pytest.mark.parametrize("bad", ["raises", "leaves a transaction", "closes"])
def test_a_connection_that_reset_failed_on_is_replaced(make_pool, caplog, bad):
    calls = []

    def reset(conn):
        calls.append(conn)
        if len(calls) == 1:
            if bad == "raises":
                raise RuntimeError("cannot reset")
            if bad == "closes":
                conn.close()
            else:
                conn.execute("SELECT 1")

    pool = make_pool(min_size=1, max_size=1, reset=reset)
    with pool.connection() as conn:
        first = backend_pid(conn)
    with pool.connection() as conn:
        assert backend_pid(conn) != first
        assert conn.execute("SELECT 1").fetchone() == (1,)
    if bad != "closes":
        assert "error resetting connection" in caplog.text


@pytest.mark.parametrize("close_returns", [False, True])
def test_check_is_called_on_checkout_and_a_refused_connection_is_not_given(
    make_pool, close_returns
):
    checked = []

    def check(conn):
        checked.append(backend_pid(conn))
        if len(checked) == 1:
            conn.close()
            raise psycopg.OperationalError("not this one")

    pool = make_pool(min_size=2, max_size=2, check=check, close_returns=close_returns)
    pool.wait()
    with pool.connection(timeout=10) as conn:
        assert backend_pid(conn) == checked[-1] != checked[0]


@pytest.mark.parametrize("callback", ["configure", "reset"])
def test_a_connection_that_a_callback_closes_is_replaced_also_where_close_returns(
    make_pool, backends, callback
):
    seen = []

    def close_the_first(conn):
        seen.append(backend_pid(conn))
        if len(seen) == 1:
            conn.close()

    pool = make_pool(max_size=1, close_returns=True, **{callback: close_the_first})
    for _ in range(2):
        with pool.connection(timeout=10) as conn:
            conn.execute("SELECT 1")
        wait_until(lambda: len(seen) and counts(pool).idle == 1)
    assert seen[0] not in [backend.pid for backend in backends()]


def test_the_stock_check_does_not_delay_a_checkout_after_a_failover(make_pool, admin, backends):
    pool = make_pool(min_size=4, max_size=4, check=STOCK.check_connection)
    pool.wait()
    with gevent.Timeout(5):
        terminate(admin, *(b.pid for b in backends()))
        with pool.connection(timeout=3) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_the_stock_check_keeps_autocommit_and_leaves_no_transaction(make_pool):
    for autocommit in (False, True):
        pool = make_pool(check=Pool.check_connection, kwargs={"autocommit": autocommit})
        for _ in range(2):
            with pool.connection() as conn:
                assert conn.autocommit is autocommit
                assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_a_check_that_always_fails_ends_with_a_timeout(make_pool):
    calls = []

    def check(conn):
        calls.append(conn)
        raise RuntimeError("no")

    pool = make_pool(min_size=1, max_size=1, check=check)
    pool.wait()
    with pytest.raises(psycopg_pool.PoolTimeout):
        pool.getconn(timeout=0.3)
    assert len(calls) < 10  # it does not spin
    assert counts(pool).in_use == 0
    pool.close()


def test_a_check_that_hangs_does_not_overrun_the_deadline(make_pool):
    never = Event()
    pool = make_pool(min_size=1, max_size=1, check=lambda _conn: never.wait())
    pool.wait()
    with gevent.Timeout(2), pytest.raises(psycopg_pool.PoolTimeout):
        pool.getconn(timeout=0.1)
    wait_until(lambda: counts(pool).in_use == 0)
    pool.close()


def test_a_kill_during_check_loses_nothing(make_pool):
    busy = Event()

    def check(conn):
        if not busy.is_set():
            busy.set()
            gevent.sleep(60)

    pool = make_pool(min_size=1, max_size=1, check=check)
    killed = gevent.spawn(pool.getconn)
    busy.wait()
    killed.kill()
    with pool.connection(timeout=2):
        pass


# -- where connections come from -----------------------------------------------------------------


def test_conninfo_and_kwargs_are_asked_anew_for_each_connection(make_pool, dsn):
    asked = []

    def conninfo():
        asked.append("conninfo")
        return dsn

    def kwargs():
        asked.append("kwargs")
        return {"autocommit": True}

    pool = make_pool(conninfo, kwargs=kwargs, min_size=1, max_size=2)
    with pool.connection() as one, pool.connection() as two:
        assert one.autocommit
        assert two.autocommit
    assert sorted(asked) == ["conninfo"] * 2 + ["kwargs"] * 2


def test_kwargs_go_to_connect(make_pool):
    pool = make_pool(kwargs={"autocommit": True, "row_factory": dict_row})
    with pool.connection() as conn:
        assert conn.autocommit
        assert conn.execute("SELECT 1 AS one").fetchone() == {"one": 1}


def test_a_conninfo_callable_that_raises_is_an_outage_and_nothing_worse(make_pool, dsn):
    broken = True

    def conninfo():
        if broken:
            raise RuntimeError("the vault is sealed")
        return dsn

    pool = make_pool(conninfo)
    with pytest.raises(psycopg_pool.PoolTimeout, match="the vault is sealed"):
        pool.getconn(timeout=0.2)
    broken = False
    with pool.connection(timeout=5):
        pass


def test_a_users_subclass_of_psycopgs_connection_is_used_and_waits_on_the_hub(make_pool):
    made = []

    class Mine(psycopg.Connection):
        @classmethod
        def connect(cls, conninfo="", **kwargs):
            made.append(conninfo)
            return super().connect(conninfo, **kwargs)

        def shout(self):
            return "mine"

    pool = make_pool(connection_class=Mine)
    ticks = []
    ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.01)) for _ in range(100)])
    with pool.connection() as conn:
        assert isinstance(conn, Mine)
        assert conn.shout() == "mine"
        conn.execute("SELECT pg_sleep(0.1)")
    ticker.kill()
    assert len(ticks) > 3
    assert len(made) == 1
    assert pool.connection_class is Mine


def test_a_generic_alias_is_a_connection_class(make_pool):
    class Mine(psycopg.Connection[dict]):
        pass

    for alias in (psycopg.Connection[dict], Connection[dict], Mine):
        with make_pool(connection_class=alias).connection() as conn:
            assert isinstance(conn, Connection)


def test_connections_belong_to_geventpg_by_default(make_pool):
    with make_pool().connection() as conn:
        assert type(conn) is Connection


# -- close_returns -------------------------------------------------------------------------------


@pytest.mark.parametrize("connection_class", [psycopg.Connection, Connection])
def test_with_close_returns_closing_gives_the_connection_back(make_pool, connection_class):
    pool = make_pool(close_returns=True, max_size=1, connection_class=connection_class)
    conn = pool.getconn()
    pid = backend_pid(conn)
    conn.close()
    assert not conn.closed
    wait_until(lambda: counts(pool).idle == 1)
    with pool.connection() as again:
        assert backend_pid(again) == pid


def test_with_close_returns_a_closed_pools_connection_really_closes(make_pool, backends):
    pool = make_pool(close_returns=True)
    conn = pool.getconn()
    pool.close()
    conn.close()
    wait_until(lambda: not backends())
    assert conn.closed


def test_without_close_returns_closing_closes(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        conn.close()
        assert conn.closed
    with pool.connection() as other:
        assert other is not conn


# -- the context manager -------------------------------------------------------------------------


@pytest.fixture
def table(admin, request):
    admin.execute("CREATE TABLE pool_contract (n int)")
    yield "pool_contract"
    admin.execute("DROP TABLE pool_contract")


def test_connection_commits_on_success_and_rolls_back_on_an_exception(make_pool, admin, table):
    pool = make_pool()
    with pool.connection() as conn:
        conn.execute("INSERT INTO pool_contract VALUES (1)")
    with pytest.raises(psycopg.errors.DivisionByZero), pool.connection() as conn:
        conn.execute("INSERT INTO pool_contract VALUES (2)").execute("SELECT 1/0")
    assert admin.execute("SELECT n FROM pool_contract").fetchall() == [(1,)]


def test_psycopgs_rollback_exception_ends_only_its_block(make_pool, admin, table):
    pool = make_pool()
    with pool.connection() as conn, conn.transaction():
        conn.execute("INSERT INTO pool_contract VALUES (3)")
        raise psycopg.Rollback
    assert admin.execute("SELECT n FROM pool_contract").fetchall() == []


def test_returning_inside_the_block_is_harmless(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        pool.putconn(conn)
        assert counts(pool).idle == 1
    assert counts(pool).idle == 1


def test_a_block_that_returned_its_connection_early_leaves_the_next_holder_alone(make_pool):
    pool = make_pool(max_size=1)
    with pool.connection() as conn:
        pool.putconn(conn)
        next_holder = pool.getconn()
        next_holder.execute("SELECT 1")
    # The block is over; the connection was not its own any more.
    assert counts(pool).in_use == 1
    assert next_holder.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    pool.putconn(next_holder)


def test_one_checkout_object_serves_one_block_after_the_other(make_pool):
    pool = make_pool(max_size=1)
    for _ in range(2):
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_num_workers_bounds_how_many_connect_at_once(make_pool):
    connecting = peak = 0

    class Slow(Connection):
        @classmethod
        def connect(cls, *args, **kwargs):
            nonlocal connecting, peak
            connecting += 1
            peak = max(peak, connecting)
            gevent.sleep(0.02)
            try:
                return super().connect(*args, **kwargs)
            finally:
                connecting -= 1

    pool = make_pool(connection_class=Slow, min_size=8, max_size=8, num_workers=2)
    pool.wait()
    assert peak == 2


def test_what_other_packages_read_of_a_pool_is_there(make_pool):
    """Django's own tests ask whether its pool has a ``check``, by psycopg_pool's private name."""

    def nothing(_conn):
        pass

    pool = make_pool(min_size=1, check=nothing, reset=nothing, configure=nothing)
    pool.wait()
    assert pool._check is pool._reset is pool._configure is nothing
    assert (len(pool._pool), pool._nconns, len(pool._waiting)) == (1, 1, 0)
    assert make_pool()._check is None
