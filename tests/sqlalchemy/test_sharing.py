"""An engine on a named pool: `get_conn` and SQLAlchemy share connections, not settings."""

from __future__ import annotations

import gevent
import pytest
from psycopg.rows import dict_row
from sqlalchemy import event, exc, text

import geventpg
from tests.sqlalchemy.conftest import in_greenlets, listen_to, pid_of
from tests.support import wait_until
from tests.support.pools import counts, give_back, hold_all


def test_one_limit_for_get_conn_and_the_engine(make_engine, named_pool, backends):
    engine = make_engine(pool_name=named_pool)

    def work(number):
        if number % 2:
            with engine.connect() as conn:
                return conn.scalar(
                    text("SELECT :n + 0 * length(pg_sleep(0.01)::text)"), {"n": number}
                )
        with geventpg.get_conn(named_pool) as conn:
            query = "SELECT %s + 0 * length(pg_sleep(0.01)::text)"
            return conn.execute(query, [number]).fetchone()[0]

    assert in_greenlets(work, 40) == list(range(40))
    assert len(backends()) == 3
    assert engine.pool.connection_pool is geventpg.get_pool(named_pool)


def test_events_fire_once_for_each_connection_that_the_engine_meets(make_engine, named_pool):
    with geventpg.get_conn(named_pool) as conn:
        first = conn.info.backend_pid
    engine = make_engine(pool_name=named_pool)
    heard = listen_to(engine)
    for _ in range(3):
        with engine.connect() as conn:
            assert pid_of(conn) == first
    assert heard[:2] == ["connect", "checkout"]
    assert (heard.count("connect"), heard.count("checkout")) == (1, 3)


def test_each_keeps_its_own_settings(make_engine, dsn, named_pool):
    geventpg.configure(
        dsn,
        name=named_pool,
        min_size=0,
        max_size=1,
        kwargs={"autocommit": True, "row_factory": dict_row},
    )
    engine = make_engine(pool_name=named_pool, isolation_level="SERIALIZABLE")
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.execute(text("SHOW transaction_isolation")).one() == ("serializable",)
            assert not conn.connection.driver_connection.autocommit
        with geventpg.get_conn(named_pool) as conn:
            row = conn.execute("SHOW transaction_isolation").fetchone()
            assert row == {"transaction_isolation": "read committed"}
            assert conn.autocommit


def test_each_keeps_its_own_adapters(make_engine, dsn, named_pool):
    geventpg.configure(dsn, name=named_pool, min_size=0, max_size=1)
    engine = make_engine(pool_name=named_pool, json_deserializer=lambda data: f"engine {data}")
    query = "SELECT '[1]'::jsonb"
    for _ in range(2):
        with engine.connect() as conn:
            assert conn.scalar(text(query)).startswith("engine")
        with geventpg.get_conn(named_pool) as conn:
            assert conn.execute(query).fetchone() == ([1],)


def test_invalidating_evicts_from_the_shared_pool_also_where_close_returns(
    make_engine, dsn, named_pool, backends
):
    geventpg.configure(dsn, name=named_pool, min_size=0, max_size=1, close_returns=True)
    engine = make_engine(pool_name=named_pool)
    with engine.connect() as conn:
        first = pid_of(conn)
        conn.invalidate()
    wait_until(lambda: first not in [backend.pid for backend in backends()])
    with geventpg.get_conn(named_pool) as conn:
        assert conn.info.backend_pid != first


def test_a_failing_connect_listener_costs_the_shared_pool_no_place(make_engine, named_pool):
    engine = make_engine(pool_name=named_pool)

    @event.listens_for(engine, "connect")
    def connected(_conn, _record):
        raise LookupError("on purpose")

    for _ in range(4):
        with pytest.raises(LookupError):
            engine.connect()
    assert counts(geventpg.get_pool(named_pool)).in_use == 0


def test_a_kill_mid_query_gives_the_connection_back_to_the_shared_pool(make_engine, named_pool):
    engine = make_engine(pool_name=named_pool)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.05), engine.connect() as conn:
        conn.execute(text("SELECT pg_sleep(60)"))
    wait_until(lambda: counts(geventpg.get_pool(named_pool)).in_use == 0)


def test_dispose_leaves_the_shared_pool_alone(make_engine, named_pool):
    engine = make_engine(pool_name=named_pool)
    with engine.connect() as conn:
        first = pid_of(conn)
    engine.dispose()
    with engine.connect() as conn:
        assert pid_of(conn) == first


def test_a_pool_that_was_closed_is_opened_again(make_engine, named_pool):
    engine = make_engine(pool_name=named_pool)
    engine.connect().close()
    geventpg.close_all()
    with engine.connect() as conn:
        assert pid_of(conn)


def test_a_detached_connection_leaves_the_shared_pool(make_engine, dsn, named_pool):
    geventpg.configure(dsn, name=named_pool, min_size=0, max_size=1)
    engine = make_engine(pool_name=named_pool, isolation_level="SERIALIZABLE")
    mine = engine.connect()
    mine.detach()
    assert mine.scalar(text("SHOW transaction_isolation")) == "serializable"
    with geventpg.get_conn(named_pool) as conn:
        assert conn.info.backend_pid != pid_of(mine)
    mine.close()


def test_an_unknown_name_is_told_of_at_the_first_checkout(make_engine):
    engine = make_engine(pool_name="nobody-configured-this")
    with pytest.raises(exc.DBAPIError, match="no pool 'nobody-configured-this' is configured"):
        engine.connect()


def test_a_url_that_names_a_server_too_is_refused(make_engine, named_pool):
    with pytest.raises(exc.ArgumentError, match="pool_name"):
        make_engine("postgresql+geventpg://somebody@somewhere/db", pool_name=named_pool)


def test_a_busy_shared_pool_is_sqlalchemys_timeout_error(make_engine, named_pool):
    pool = geventpg.get_pool(named_pool)
    give_back(pool, hold_all(pool, 3))  # so that no caller has to connect in that time
    engine = make_engine(pool_name=named_pool, pool_timeout=0.05)
    conns = [engine.connect() for _ in range(3)]
    with pytest.raises(exc.TimeoutError):
        engine.connect()
    for conn in conns:
        conn.close()


def test_the_status_is_the_shared_pools(make_engine, named_pool):
    engine = make_engine(pool_name=named_pool)
    with geventpg.get_conn(named_pool), engine.connect():
        assert (engine.pool.size(), engine.pool.checkedout()) == (3, 2)
