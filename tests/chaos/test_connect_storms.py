"""All greenlets want a connection at once: few are opened, and all greenlets are served."""

from __future__ import annotations

import time

import gevent
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.chaos.load import percentile
from tests.chaos.server_log import logging_connections, most_at_once
from tests.support import wait_until
from tests.support.pools import counts

CALLERS = 1000
ROOM = 5


@pytest.fixture
def log(embedded_pg, application_name):
    """Return the log of the test's connections that the server saw."""
    with logging_connections(embedded_pg, application_name) as connections:
        yield connections
        embedded_pg.start()


def hold_up(seconds):
    def call(pool):
        since = time.monotonic()
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(%s)", [seconds])
        return time.monotonic() - since

    return call


@pytest.mark.slow
def test_a_thousand_callers_after_an_outage(make_pool, embedded_pg, embedded_dsn, figures, log):
    pool = make_pool(embedded_dsn, min_size=4, max_size=20, timeout=30.0)
    pool.wait()
    embedded_pg.stop("immediate")
    wait_until(lambda: not counts(pool).idle)
    failed_before = pool.get_stats()["connections_errors"]
    callers = [gevent.spawn(hold_up(0.005), pool) for _ in range(CALLERS)]
    gevent.sleep(1.0)
    assert counts(pool).waiting == CALLERS
    figures.at_most(
        "attempts in a second without a server",
        pool.get_stats()["connections_errors"] - failed_before,
        6,
    )
    log.restart()
    embedded_pg.start()
    ready = time.monotonic()
    gevent.joinall(callers, raise_error=True)
    took = time.monotonic() - ready
    shakes = [shake for shake in log.handshakes() if "starting up" not in shake.refused]
    figures.at_least("callers served", len([c for c in callers if c.value]), CALLERS)
    figures.at_most("connections that the server saw", len(shakes), pool.max_size + 2)
    figures.at_most("handshakes under way at once", most_at_once(shakes), pool.num_workers)
    figures.at_most("until all were served", took, 5, "s")


@pytest.fixture
def limited(embedded_pg, embedded_dsn):
    """Return a conninfo of a role that may have five connections, and only five."""
    role = sql.Identifier("chaos_limited")
    with embedded_pg.connect() as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'limited' CONNECTION LIMIT 5").format(role)
        )
        yield make_conninfo(embedded_dsn, user="chaos_limited", password="limited")
        gone = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = %s"
        wait_until(lambda: admin.execute(gone, ["chaos_limited"]).fetchone() == (0,))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.slow
def test_a_thousand_callers_at_a_full_server(make_pool, limited, figures, log, backends):
    pool = make_pool(limited, min_size=1, max_size=20, timeout=30.0)
    pool.wait()
    log.restart()
    begun = time.monotonic()
    callers = [gevent.spawn(hold_up(0.006), pool) for _ in range(CALLERS)]
    gevent.joinall(callers, raise_error=True)
    took = time.monotonic() - begun
    refused = [shake for shake in log.handshakes() if "too many connections" in shake.refused]
    waits = [caller.value for caller in callers]
    figures.at_least("callers served", len(waits), CALLERS)
    figures.at_least("refusals (53300) that no caller saw", len(refused), 1)
    # Four a second are the most that waiting callers can bring about.
    figures.at_most("refusals for each second", len(refused) / took, 5)
    figures.at_most("connections used", len(backends()), ROOM)
    figures.at_most("longest wait", max(waits), took, "s")
    assert percentile(waits, 0.5) > 0
    pool.close()


@pytest.mark.slow
def test_a_fleet_of_pools_after_a_restart(make_pool, embedded_pg, embedded_dsn, figures, log):
    # Thirty processes' pools, in one process here: the server sees the same.
    attempts = [[] for _ in range(30)]

    def noting(mine):
        def conninfo():  # asked for anew at each attempt
            mine.append(time.monotonic())
            return embedded_dsn

        return conninfo

    fleet = [make_pool(noting(mine), min_size=1, max_size=1) for mine in attempts]
    for pool in fleet:
        pool.wait()
    for mine in attempts:
        mine.clear()
    embedded_pg.stop("immediate")
    wait_until(lambda: all(len(mine) >= 2 for mine in attempts), message="all have tried again")
    retries = [mine[1] for mine in attempts]
    log.restart()
    embedded_pg.start()
    wait_until(lambda: all(counts(pool).idle for pool in fleet), timeout=15)
    shakes = [shake for shake in log.handshakes() if shake.until is not None]
    figures.at_most("connections that the server saw", len(shakes), len(fleet))
    # A pause of a second, a tenth more or less: without that all would come in the same moment.
    figures.at_least(
        "time their retries were spread over", (max(retries) - min(retries)) * 1000, 130, "ms"
    )
    for pool in fleet:
        pool.close()
