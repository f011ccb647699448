"""SQLAlchemy's pool events, invalidation and `detach`, with the pool behind in step."""

from __future__ import annotations

import gc
import os

import gevent
import psycopg
import pytest
from sqlalchemy import event, exc, text

from tests.sqlalchemy.conftest import in_greenlets, listen_to, pid_of, use_all
from tests.support import wait_until
from tests.support.pools import counts, terminate

# https://www.postgresql.org/docs/current/protocol-message-formats.html: it asks for nothing.
FLUSH = b"H\0\0\0\4"


def pids(backends):
    return {backend.pid for backend in backends()}


def test_connect_fires_once_for_each_connection(make_engine):
    engine = make_engine(pool_size=2, max_overflow=0)
    heard = listen_to(engine)

    def work(_):
        with engine.connect() as conn:
            conn.execute(text("SELECT pg_sleep(0.02)"))  # so that it is worth a second one
            return pid_of(conn)

    assert len(set(in_greenlets(work, 20))) == 2
    assert heard.count("connect") == 2
    assert heard.count("checkout") == heard.count("checkin") == 20


def test_events_come_in_sqlalchemys_order(engine):
    heard = listen_to(engine)
    with engine.connect() as conn:
        pid_of(conn)
    assert heard == ["connect", "checkout", "reset", "checkin"]
    del heard[:]
    engine.connect().invalidate()
    assert heard == ["checkout", "invalidate", "close", "checkin"]


def test_info_stays_with_the_connection(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    with engine.connect() as conn:
        conn.info["mine"] = first = pid_of(conn)
    with engine.connect() as conn:
        assert conn.info["mine"] == pid_of(conn) == first
        conn.invalidate()
    with engine.connect() as conn:
        assert "mine" not in conn.info


def test_listeners_added_later_and_those_of_the_engine_before_dispose_are_heard(engine):
    engine.connect().close()
    heard = listen_to(engine)
    engine.connect().close()
    assert heard == ["checkout", "reset", "checkin"]
    del heard[:]
    engine.dispose()
    engine.connect().close()
    assert heard == ["close", "connect", "checkout", "reset", "checkin"]


def test_a_failing_connect_listener_fails_the_caller_and_costs_no_place(make_engine, backends):
    engine = make_engine(pool_size=1, max_overflow=0)
    fail = True

    @event.listens_for(engine, "connect")
    def connected(_conn, _record):
        if fail:
            raise LookupError("on purpose")

    for _ in range(3):
        with pytest.raises(LookupError, match="on purpose"):
            engine.connect()
    wait_until(lambda: backends() == [])
    fail = False
    engine.connect().close()


def test_a_connect_listener_may_use_the_connection(make_engine):
    engine = make_engine()

    @event.listens_for(engine, "connect")
    def set_up(dbapi_connection, _record):
        with dbapi_connection.cursor() as cursor:
            cursor.execute("SET work_mem = '777kB'")
        dbapi_connection.commit()

    def look(_):
        with engine.connect() as conn:
            return conn.scalar(text("SHOW work_mem"))

    assert set(in_greenlets(look, 6)) == {"777kB"}


def test_invalidate_evicts_the_connection_from_the_pool_behind(engine, backends):
    with engine.connect() as conn:
        first = pid_of(conn)
        conn.invalidate()
        assert counts(engine.pool.connection_pool).size == 0
        conn.rollback()
        assert pid_of(conn) != first
    wait_until(lambda: first not in pids(backends))


def test_soft_invalidation_replaces_the_connection_after_its_return(engine, backends):
    heard = listen_to(engine, "soft_invalidate", "close")
    with engine.connect() as conn:
        first = pid_of(conn)
        conn.connection.invalidate(soft=True)
        assert pid_of(conn) == first
    assert heard == ["soft_invalidate", "close"]
    wait_until(lambda: first not in pids(backends))
    with engine.connect() as conn:
        assert pid_of(conn) != first


@pytest.mark.parametrize("soft", [False, True])
def test_a_record_invalidated_while_it_is_idle_is_not_handed_out(make_engine, soft):
    engine = make_engine(pool_size=1, max_overflow=0)
    records = []
    event.listen(engine, "connect", lambda _conn, record: records.append(record))
    with engine.connect() as conn:
        first = pid_of(conn)
    records[0].invalidate(soft=soft)
    with engine.connect() as conn:
        assert pid_of(conn) != first


def test_an_idle_connection_that_was_closed_is_not_handed_out(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    with engine.connect() as conn:
        driver_connection = conn.connection.driver_connection
    driver_connection.close()
    with engine.connect() as conn:
        assert pid_of(conn)


def test_a_detached_connection_is_its_users_and_its_place_is_free(make_engine, backends):
    engine = make_engine(pool_size=1, max_overflow=0)
    heard = listen_to(engine, "detach", "close_detached", "close")
    mine = engine.connect()
    first = pid_of(mine)
    mine.detach()
    with engine.connect() as conn:
        assert pid_of(conn) != first
    assert pid_of(mine) == first
    mine.close()
    assert heard == ["detach", "close_detached"]
    wait_until(lambda: first not in pids(backends))


def test_who_waits_gets_the_place_of_a_detached_connection(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    mine = engine.connect()
    waiter = gevent.spawn(engine.connect)
    wait_until(lambda: counts(engine.pool.connection_pool).waiting == 1)
    mine.detach()
    waiter.get().close()
    mine.close()


# -- connections that end ------------------------------------------------------------------------


def test_close_is_told_of_what_the_pool_behind_closes(make_engine, admin):
    engine = make_engine()
    heard = listen_to(engine, "connect", "close")
    conns = [engine.connect() for _ in range(3)]
    lost = [pid_of(conn) for conn in conns]
    for conn in conns:
        conn.close()
    terminate(admin, *lost)
    wait_until(lambda: heard == ["connect"] * 3 + ["close"] * 3)
    engine.connect().close()
    engine.dispose()
    assert heard.count("close") == 4


def test_a_close_listener_that_fails_or_waits_disturbs_no_checkout(make_engine, admin):
    engine = make_engine()
    reached = []

    @event.listens_for(engine, "close")
    def closing(_conn, _record):
        gevent.sleep(0.01)
        reached.append(True)

    with engine.connect() as conn:
        lost = pid_of(conn)
    terminate(admin, lost)
    wait_until(lambda: reached)


def test_a_lost_connection_is_invalidated_and_the_others_are_kept(make_engine, admin, backends):
    engine = make_engine()
    with engine.connect() as conn, engine.connect() as other:
        kept = pid_of(other)
        lost = pid_of(conn)
        other.close()
        terminate(admin, lost)
        with pytest.raises(exc.OperationalError) as caught:
            pid_of(conn)
        assert caught.value.connection_invalidated
        assert conn.invalidated
        with pytest.raises(exc.PendingRollbackError):
            pid_of(conn)
        conn.rollback()
        assert pid_of(conn)
    assert kept in pids(backends)


def test_who_declares_a_live_connection_lost_has_all_of_them_replaced(make_engine, backends):
    engine = make_engine()

    @event.listens_for(engine, "handle_error")
    def decide(context):
        context.is_disconnect = True

    with engine.connect() as conn, engine.connect() as other:
        idle = pid_of(other)
        other.close()
        first = pid_of(conn)
        with pytest.raises(exc.DBAPIError):
            conn.execute(text("SELECT 1 / 0"))
    wait_until(lambda: not pids(backends) & {idle, first})


# -- at checkout ---------------------------------------------------------------------------------


def test_a_checkout_listener_may_refuse_a_connection(make_engine, backends):
    engine = make_engine()
    conns = [engine.connect() for _ in range(3)]
    refused = {pid_of(conn) for conn in conns[:1]}
    for conn in conns:
        conn.close()

    @event.listens_for(engine, "checkout")
    def look(dbapi_connection, _record, _proxy):
        if dbapi_connection.info.backend_pid in refused:
            raise exc.DisconnectionError

    def work(_):
        with engine.connect() as conn:
            return pid_of(conn)

    assert not set(in_greenlets(work, 6)) & refused
    wait_until(lambda: not pids(backends) & refused)


def test_the_connection_that_replaces_a_refused_one_keeps_its_info(make_engine):
    engine = make_engine(pool_size=2, max_overflow=0)
    heard = listen_to(engine, "connect")
    with engine.connect() as conn, engine.connect() as other:
        for each in (conn, other):
            each.info["pid"] = pid_of(each)
    refusals = [exc.DisconnectionError()]

    @event.listens_for(engine, "checkout")
    def look(_conn, _record, _proxy):
        if refusals:
            raise refusals.pop()

    with engine.connect() as conn:
        assert conn.info["pid"] == pid_of(conn)
    assert heard == ["connect"] * 2


def test_a_listener_that_refuses_everything_ends_in_sqlalchemys_error(make_engine):
    engine = make_engine()

    @event.listens_for(engine, "checkout")
    def look(_conn, _record, _proxy):
        raise exc.DisconnectionError

    with pytest.raises(exc.InvalidRequestError, match="This connection is closed"):
        engine.connect()
    event.remove(engine, "checkout", look)
    use_all(engine)


def test_a_failing_checkout_listener_costs_no_place(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)

    @event.listens_for(engine, "checkout")
    def look(_conn, _record, _proxy):
        raise LookupError("on purpose")

    for _ in range(3):
        with pytest.raises(LookupError):
            engine.connect()
    event.remove(engine, "checkout", look)
    use_all(engine)


def test_pre_ping_replaces_every_connection_that_died_in_silence(proxy, make_engine, dsn):
    engine = make_engine(
        connect_args=psycopg.conninfo.conninfo_to_dict(proxy.dsn(dsn)),
        pool_pre_ping=True,
        pool_options={"probe_timeout": 0.2, "keepalive_interval": 0},
    )
    conns = [engine.connect() for _ in range(3)]
    silent = {pid_of(conn) for conn in conns}
    sockets = [conn.connection.driver_connection.fileno() for conn in conns]
    for conn in conns:
        conn.close()
    proxy.blackhole()
    for socket in sockets:
        os.write(socket, FLUSH)
    for _ in range(5):
        proxy.forwarded("from_client")  # the proxy's loop comes around, and drops them
    proxy.resume()
    with engine.connect() as conn:
        assert pid_of(conn) not in silent


def test_a_connection_collected_with_its_cycle_comes_back(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    conn = engine.connect()
    pid_of(conn)
    cycle = {"conn": conn}
    cycle["self"] = cycle
    del conn, cycle
    gc.collect()
    with engine.connect() as conn:
        assert pid_of(conn)
