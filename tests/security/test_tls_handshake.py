"""A slow handshake delays the waiters of that connection, and no others."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import gevent
import psycopg
import pytest

import geventpg
from tests.support.stalls import HubTicker

PAUSE = 0.15
ROUNDS = 5
MOST = 0.010
"""Longest time (s) that the hub may be busy with one step of a connection attempt."""


def least_of_worst(action):
    """Return how long *action* stalled the hub: the best of some rounds.

    What blocks the hub by design does it in every round; a busy machine does not.
    """
    worst = []
    for _ in range(ROUNDS):
        with HubTicker() as ticker:
            action()
        worst.append(ticker.longest)
    return min(worst)


def test_a_slow_handshake_of_a_connection_does_not_stall_the_hub(terminator):
    with terminator(pause=PAUSE) as conninfo:

        def connect():
            started = time.monotonic()
            geventpg.Connection.connect(conninfo).close()
            assert time.monotonic() - started > 2 * PAUSE

        stalled, without = least_of_worst(connect), least_of_worst(lambda: gevent.sleep(0.3))
    print(f"hub stalled for {1000 * stalled:.1f} ms, without connecting {1000 * without:.1f} ms")
    assert stalled < MOST + without


def test_the_measure_sees_a_handshake_that_blocks(terminator):
    # psycopg's own waiting, as it is where nothing is patched.
    with terminator(pause=PAUSE) as conninfo:

        def connect():
            pgconn = psycopg.pq.PGconn.connect(conninfo.encode())
            assert pgconn.status == psycopg.pq.ConnStatus.OK
            pgconn.finish()

        assert least_of_worst(connect) > PAUSE


def test_while_the_pool_shakes_hands_slowly_its_other_connections_serve(terminator, dsn, open_pool):
    with terminator(pause=PAUSE) as slow:
        conninfos = [dsn]
        pool = open_pool(lambda: conninfos[-1], min_size=1, max_size=3)
        pool.wait(10)
        conninfos.append(slow)
        held = pool.getconn()
        growing = gevent.spawn(pool.getconn)  # makes the pool open a second connection
        gevent.sleep(0.05)
        served, started = 0, time.monotonic()
        while not growing.ready():
            assert held.execute("select 1").fetchone() == (1,)
            served += 1
        held.rollback()
        second = growing.get()
        assert second.pgconn.ssl_in_use
        assert time.monotonic() - started > PAUSE
        assert served > 20
        pool.putconn(held)
        pool.putconn(second)


def test_a_handshake_that_never_ends_is_given_up_at_the_deadline(terminator, tls):
    with terminator(pause=30) as conninfo:
        started = time.monotonic()
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            geventpg.Connection.connect(conninfo, connect_timeout=2)
        assert 1.9 < time.monotonic() - started < 3


def test_a_handshake_that_is_killed_closes_its_socket(terminator, admin, application_name):
    with terminator(pause=30) as conninfo:
        before = open_sockets()
        connecting = gevent.spawn(geventpg.Connection.connect, conninfo)
        gevent.sleep(0.1)
        assert open_sockets() == before + 1
        connecting.kill()
        assert open_sockets() == before


def open_sockets():
    """Return how many sockets this process has."""
    return sum(1 for fd in Path("/proc/self/fd").iterdir() if "socket:" in _target(fd))


def _target(fd):
    with contextlib.suppress(OSError):
        return str(fd.readlink())
    return ""
