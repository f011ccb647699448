"""Slow servers and name servers: only the connecting greenlet waits, never the hub."""

from __future__ import annotations

import time
from contextlib import contextmanager

import gevent
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg import PoolTimeout
from geventpg.testing import CertificateAuthority, TlsProxy
from tests.chaos.form import pick
from tests.chaos.load import Acquires, Users
from tests.chaos.peers import SlowNameServer, names_from
from tests.connection.conftest import deaf_port
from tests.support import wait_until
from tests.support.pools import counts, give_back, hold_all

__all__ = ["deaf_port"]

LONGEST_STALL = 10  # ms, of the hub, because of us
HELD = 3


@contextmanager
def others_working(pool, figures, ticker):
    """Let the connections that exist be used all the time, and see that nothing slows that down."""
    waits = []
    held = hold_all(pool, HELD)
    there = set(held)
    give_back(pool, held)

    def use(user):
        since = time.monotonic()
        with pool.connection(timeout=5) as conn:
            conn.execute("SELECT 1")
        until = time.monotonic()
        if conn in there:  # the new one may be as slow as the way to it
            waits.append(until - since - ticker.machine_between(since, until))

    with Users(HELD, use, pause=0.002) as users:
        wait_until(lambda: len(users.done) > 10)
        ticker.forget()
        del waits[:]
        yield
    assert not users.failures
    figures.at_most("longest hub stall", ticker.longest * 1000, LONGEST_STALL, "ms")
    figures.at_most("longest use of a connection that was there", max(waits) * 1000, 100, "ms")


@pytest.mark.slow
def test_a_server_that_accepts_and_never_answers(make_pool, proxy, dsn, figures, ticker):
    conninfo = proxy.dsn(make_conninfo(dsn, connect_timeout=2))
    pool = make_pool(conninfo, min_size=HELD, max_size=HELD + 2)
    pool.wait()
    proxy.mute()  # what comes from now on; asking for it takes as long as the proxy's process does
    with others_working(pool, figures, ticker):
        pool.resize(HELD + 2, HELD + 2)  # from now on two attempts are always under way
        wait_until(lambda: counts(pool).connecting, message="it connects")
        gevent.sleep(pick(short=1.0, long=10.0))  # connect_timeout is 2
    assert counts(pool).idle == HELD
    proxy.drop_connections()
    proxy.resume()
    wait_until(lambda: counts(pool).idle == HELD + 2, timeout=10)


def test_when_no_server_answers_checkouts_end_at_their_deadlines(
    make_pool, dsn, deaf_port, figures, ticker
):
    conninfo = make_conninfo(dsn, host="127.0.0.1", port=deaf_port, connect_timeout=2)
    ticker.forget()  # the test runner starts a thread, for which it waits
    pool = make_pool(conninfo, min_size=2, max_size=4)
    acquires = Acquires(pool)

    def use(user):
        with pytest.raises(PoolTimeout), acquires.connection(0.05 + user * 0.01):
            pass

    with Users(40, use, apart=0.002) as users:
        gevent.sleep(pick(short=0.6, long=10.0))
    assert not users.failures
    assert not [acquire for acquire in acquires.all if acquire.served]
    figures.at_most("latest acquire past its deadline", acquires.latest(ticker) * 1000, 50, "ms")
    figures.at_most("longest hub stall", ticker.longest * 1000, LONGEST_STALL, "ms")
    pool.close()


@pytest.mark.slow
def test_a_name_server_that_takes_its_time(make_pool, pg, dsn, figures, ticker):
    with SlowNameServer(delay=0.5) as server, names_from(server):
        conninfo = make_conninfo(dsn, host="db.chaos.test", connect_timeout=10)
        pool = make_pool(conninfo, min_size=HELD, max_size=HELD + 1)
        pool.wait()
        server.delay = pick(short=1.0, long=5.0)
        with others_working(pool, figures, ticker):
            asked, begun = server.asked, time.monotonic()
            pool.resize(HELD + 1, HELD + 1)
            wait_until(lambda: server.asked > asked, message="the name server was asked")
            wait_until(lambda: counts(pool).size - counts(pool).connecting > HELD, timeout=12)
            took = time.monotonic() - begun
        figures.at_least("time that the connector waited for the name", took, server.delay, "s")
        pool.close()


@pytest.mark.slow
def test_a_tls_handshake_that_takes_its_time(
    make_pool, proxy, pg, dsn, tmp_path, *, figures, ticker
):
    pause = pick(short=0.1, long=0.7)
    certificate = CertificateAuthority(tmp_path / "certificates").issue("127.0.0.1")
    with TlsProxy(pg.host, pg.port, certificate) as tls:
        proxy.retarget("127.0.0.1", tls.port)
        proxy.delay(pause)
        conninfos = [dsn]
        pool = make_pool(lambda: conninfos[-1], min_size=HELD, max_size=HELD + 1)
        pool.wait()
        conninfos.append(proxy.dsn(tls.dsn(dsn)))
        with others_working(pool, figures, ticker):
            begun = time.monotonic()
            pool.resize(HELD + 1, HELD + 1)
            wait_until(lambda: counts(pool).connecting, message="it connects")
            wait_until(lambda: counts(pool).size - counts(pool).connecting > HELD, timeout=30)
            took = time.monotonic() - begun
        # Asked for TLS and was told yes; hello and certificate; password or not, ready.
        figures.at_least("time that the connector took to shake hands", took, 3 * pause, "s")
        conns = hold_all(pool, HELD + 1)
        assert [conn.pgconn.ssl_in_use for conn in conns].count(True) == 1
        give_back(pool, conns)
        pool.close()


@pytest.mark.slow
def test_one_dead_address_of_two(make_pool, pg, dsn, deaf_port, *, figures, ticker):
    # The dead one is tried first, by everyone, and gets its share of the time: half of it.
    host = conninfo_to_dict(dsn)["host"]
    conninfo = make_conninfo(
        dsn, host=f"127.0.0.1,{host}", port=f"{deaf_port},{pg.port}", connect_timeout=2
    )
    pool = make_pool(conninfo, min_size=HELD, max_size=HELD + 2)
    begun = time.monotonic()
    pool.wait()
    first = time.monotonic() - begun
    acquires = Acquires(pool)
    with others_working(pool, figures, ticker):
        pool.resize(HELD + 2, HELD + 2)
        wait_until(lambda: counts(pool).connecting, message="it connects")
        wait_until(lambda: counts(pool).size == HELD + 2 and not counts(pool).connecting, timeout=5)
    conns = hold_all(pool, HELD + 2)
    with pytest.raises(PoolTimeout), acquires.connection(0.2):
        pass
    give_back(pool, conns)
    figures.at_most("until the pool was full, over the living address", first, 1.5, "s")
    figures.at_most("latest acquire past its deadline", acquires.latest(ticker) * 1000, 50, "ms")
    assert pool.get_stats()["connections_errors"] == 0
