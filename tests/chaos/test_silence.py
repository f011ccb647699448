"""A network that throws everything away for a while, then works, then resets, then works."""

from __future__ import annotations

import time

import gevent
import pytest
from psycopg.conninfo import make_conninfo

from tests.chaos.form import pick
from tests.chaos.load import Acquires, Users
from tests.support import wait_until
from tests.support.invariants import check_counts
from tests.support.pools import sampling

# Seconds: psycopg's shortest, and what the pool takes by default.
CONNECT_TIMEOUTS = pick(short=[2], long=[2, None])
UNSAID = 10
ACQUIRE_TIMEOUT = 0.4
STATEMENT_TIMEOUT = 0.5
USERS = 20

# Seconds of: silence, working, resetting, working.
CYCLE = pick(short=(1.5, 3.2, 0.4, 0.8), long=(12.0, 12.0, 3.0, 6.0))
CYCLES = pick(short=1, long=3)


@pytest.mark.slow
@pytest.mark.parametrize("connect_timeout", CONNECT_TIMEOUTS)
@pytest.mark.hang_limit(300)
@pytest.mark.no_invariants  # a backend behind the silent network waits for its client for ever
def test_silence_and_resets_in_turn(make_pool, proxy, dsn, figures, ticker, *, connect_timeout):
    pool = make_pool(
        proxy.dsn(make_conninfo(dsn, connect_timeout=connect_timeout)),
        min_size=2,
        max_size=5,
        keepalive_interval=0.3,
        probe_timeout=0.3,
        cancel_timeout=0.3,
    )
    pool.wait()
    acquires = Acquires(pool)
    silence, up, resetting, up_again = CYCLE

    def use(user):
        limit = gevent.Timeout(ACQUIRE_TIMEOUT + STATEMENT_TIMEOUT)
        with limit, acquires.connection(ACQUIRE_TIMEOUT) as conn:
            conn.execute("SELECT pg_sleep(0.002)")

    def sample():
        assert check_counts(pool) == []

    longest_at_zero = 0.0

    def working(seconds):
        """Let the network work, and note how long it took until the first user was served."""
        nonlocal longest_at_zero
        since = time.monotonic()
        gevent.sleep(seconds)
        first = users.first_success_after(since)
        assert first is not None, (
            f"no caller was served in {seconds} s of a working network: {pool}"
        )
        longest_at_zero = max(longest_at_zero, first - since)

    with sampling(sample, 0.005), Users(USERS, use, pause=0.005) as users:
        wait_until(lambda: len(users.done) > 100)
        for _ in range(CYCLES):
            proxy.blackhole()
            gevent.sleep(silence)
            proxy.resume()
            working(up)
            end = time.monotonic() + resetting
            while time.monotonic() < end:
                proxy.drop_connections(reset=True)
                gevent.sleep(0.02)
            working(up_again)
    proxy.drop_connections(reset=True)
    figures.at_most("latest acquire past its deadline", acquires.latest(ticker) * 1000, 50, "ms")
    figures.at_most(
        "longest time without a usable connection on a working network",
        longest_at_zero,
        (connect_timeout or UNSAID) + 0.5,
        "s",
    )
    figures.at_least("uses that succeeded", len(users.done), 200)
