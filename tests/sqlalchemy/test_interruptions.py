"""Kills and time-outs, wherever they hit: pool, engine and session go on."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import psycopg
import pytest
from sqlalchemy import event, exc, text
from sqlalchemy.orm import Session

from tests.chaos.switch_points import EXCEPTIONS, MOMENTS, ThrowAtSwitch
from tests.sqlalchemy.conftest import pid_of, sleep, use_all
from tests.support import wait_until
from tests.support.pools import counts


def all_quiet(backends):
    return all(backend.state == "idle" for backend in backends())


def test_a_time_out_mid_query_cancels_it_and_leaves_the_session_usable(engine, backends):
    with Session(engine) as session:
        pid_of(session)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            sleep(session, 60)
        wait_until(lambda: all_quiet(backends))
        session.rollback()
        assert pid_of(session)


def test_a_time_out_mid_query_leaves_the_connection_usable_after_a_rollback(engine):
    with engine.connect() as conn:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            sleep(conn, 60)
        with pytest.raises(exc.PendingRollbackError):
            pid_of(conn)
        conn.rollback()
        assert pid_of(conn)


def test_greenlets_killed_mid_query_leave_no_statement_and_lose_no_connection(engine, backends):
    def work():
        with Session(engine) as session, session.begin():
            sleep(session, 60)

    victims = [gevent.spawn(work) for _ in range(3)]
    wait_until(lambda: sum(backend.state == "active" for backend in backends()) == 3)
    gevent.killall(victims)
    wait_until(lambda: not any(backend.state == "active" for backend in backends()))
    use_all(engine)


def test_a_greenlet_killed_while_it_waits_is_never_served(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    with engine.connect():
        victims = [gevent.spawn(engine.connect) for _ in range(5)]
        wait_until(lambda: counts(engine.pool.connection_pool).waiting == 5)
        gevent.killall(victims[:3])
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            engine.connect()
        assert counts(engine.pool.connection_pool).waiting == 2
    for victim in victims[3:]:
        victim.get().close()


def test_a_time_out_while_the_dialect_initializes_lets_the_next_one_do_it(make_engine):
    engine = make_engine()
    patience = [0.05]

    @event.listens_for(engine, "connect", insert=True)
    def slow(dbapi_connection, _record):
        if patience:
            patience.pop()
            dbapi_connection.execute("SELECT pg_sleep(60)")

    others = []
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.1):
        others.append(gevent.spawn(engine.connect))
        engine.connect()
    others[0].get().close()
    with engine.connect() as conn:
        assert conn.dialect.server_version_info


# -- every switch point --------------------------------------------------------------------------


def core(engine):
    with engine.begin() as conn:
        conn.execute(text("SELECT pg_sleep(0.001)"))
        with conn.begin_nested():
            pid_of(conn)


def orm(engine):
    with Session(engine) as session:
        pid_of(session)
        session.commit()
        pid_of(session)


def raw_without_commit(engine):
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("SELECT 1")
    finally:
        raw.close()


def first_checkout(engine):
    engine.dispose()
    core(engine)


def refused_checkout(engine):
    refusals = [exc.DisconnectionError()]

    def look(_conn, _record, _proxy):
        if refusals:
            raise refusals.pop()

    event.listen(engine, "checkout", look)
    try:
        core(engine)
    finally:
        event.remove(engine, "checkout", look)


OPERATIONS: dict[str, tuple[Callable[..., None], dict[str, object]]] = {
    "a transaction": (core, {}),
    "a session": (orm, {}),
    "a raw connection that is rolled back": (raw_without_commit, {}),
    "a checkout with a ping": (core, {"pool_pre_ping": True}),
    "the first checkout": (first_checkout, {}),
    "a checkout that is refused": (refused_checkout, {}),
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_exception_at_any_switch_point_loses_nothing(make_engine, name, moment, rng, caplog):
    caplog.set_level("CRITICAL")
    operation, options = OPERATIONS[name]
    engine = make_engine(
        pool_size=2, max_overflow=0, pool_options={"cancel_timeout": 2.0}, **options
    )
    operation(engine)
    point = 0
    while point < 100:
        point += 1
        error = EXCEPTIONS[rng.choice(sorted(EXCEPTIONS))]()
        ended = []

        def attempt(ended=ended):
            try:
                operation(engine)
            except BaseException as caught:
                ended.append(caught)

        victim = gevent.Greenlet(attempt)
        with ThrowAtSwitch(lambda origin, victim=victim: origin is victim, {point: error}, moment):
            victim.start()
            victim.join(timeout=20)
        assert victim.ready(), f"still running after an exception at switch {point}"
        if not ended:
            break  # it has fewer switch points
        assert ended[0] is error, f"{ended[0]!r} came out at switch {point}"
        use_all(engine)
    assert point > 1


def test_an_interrupted_statement_is_not_repeated_nor_committed(engine, admin):
    admin.execute("CREATE TABLE sqlalchemy_once (n int)")
    try:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.1), engine.begin() as conn:
            conn.execute(text("INSERT INTO sqlalchemy_once VALUES (1)"))
            sleep(conn, 60)
        assert admin.execute("SELECT count(*) FROM sqlalchemy_once").fetchone() == (0,)
    finally:
        admin.execute("DROP TABLE sqlalchemy_once")


def test_errors_of_the_pool_are_psycopgs(engine):
    engine.connect().close()
    engine.pool.connection_pool.close()
    with pytest.raises(exc.OperationalError) as caught:
        engine.connect()
    assert isinstance(caught.value.orig, psycopg.OperationalError)
    engine.dispose()
