"""Connections that end while they are idle are no user's concern."""

from __future__ import annotations

import gevent
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from tests.sqlalchemy.conftest import in_greenlets, pid_of
from tests.support import wait_until
from tests.support.pools import counts, terminate


def fill(engine, number):
    """Make the engine open *number* connections, all idle afterwards; return their processes."""
    conns = [engine.connect() for _ in range(number)]
    pids = [pid_of(conn) for conn in conns]
    for conn in conns:
        conn.close()
    return pids


@pytest.mark.parametrize("through", ["engine", "session"])
def test_terminating_every_idle_backend_fails_no_statement(make_engine, admin, through):
    engine = make_engine(pool_size=20, max_overflow=0)
    lost = fill(engine, 20)
    terminate(admin, *lost)

    def work(number):
        with engine.connect() if through == "engine" else Session(engine) as conn:
            return conn.scalar(text("SELECT :number"), {"number": number}), pid_of(conn)

    answers = in_greenlets(work, 100)
    assert [answer for answer, _ in answers] == list(range(100))
    assert not {pid for _, pid in answers} & set(lost)


def test_queue_pool_is_what_fails_there(make_engine, admin):
    """The test above can fail: it does so with SQLAlchemy's own pool."""
    engine = make_engine(poolclass=QueuePool, pool_size=5, max_overflow=0)
    terminate(admin, *fill(engine, 5))
    with pytest.raises(Exception, match="terminating connection"), engine.connect() as conn:
        pid_of(conn)


def test_who_has_ended_them_does_not_meet_them_next(engine):
    first, second, third = fill(engine, 3)
    with engine.connect() as conn:
        conn.execute(
            text("SELECT pg_terminate_backend(pid, 5000) FROM unnest(:pids) pid"),
            {"pids": list({first, second, third} - {pid_of(conn)})},
        )
        with engine.connect() as other:
            assert pid_of(other) not in {first, second, third}


def test_waiters_outlast_an_outage(make_engine, embedded_pg, application_name):
    parameters = {**conninfo_to_dict(embedded_pg.dsn), "application_name": application_name}
    engine = make_engine(connect_args=parameters, pool_timeout=30)
    fill(engine, 3)
    embedded_pg.stop("fast")
    waiters = [gevent.spawn(engine.connect) for _ in range(3)]
    wait_until(lambda: counts(engine.pool.connection_pool).waiting == 3)
    embedded_pg.start()
    for waiter in waiters:
        with waiter.get() as conn:
            assert pid_of(conn)


def test_a_lost_connection_makes_the_others_suspect(proxy, make_engine, dsn, admin):
    engine = make_engine(
        connect_args=conninfo_to_dict(proxy.dsn(dsn)),
        pool_options={"probe_timeout": 0.2, "keepalive_interval": 0},
    )
    fill(engine, 3)
    with engine.connect() as conn:
        lost = pid_of(conn)
        proxy.blackhole()  # the two idle ones will not answer
        conn.connection.driver_connection.pgconn.finish()
        with pytest.raises(exc.OperationalError):
            pid_of(conn)
        wait_until(lambda: counts(engine.pool.connection_pool).size == 0)
        proxy.resume()
    with engine.connect() as conn:
        assert pid_of(conn) != lost
