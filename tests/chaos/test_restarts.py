"""A server that restarts again and again under load, or is gone for longer than anybody waits."""

from __future__ import annotations

import itertools
import time

import gevent
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from geventpg import PoolTimeout
from tests.chaos.form import pick
from tests.chaos.load import Acquires, Users
from tests.support import wait_until
from tests.support.invariants import check_counts
from tests.support.pools import counts, sampling, settled

USERS = 30
MAX_SIZE = 8


class Ledger:
    """Rows that users insert, each a number of its own, and what they were told became of it."""

    def __init__(self, server):
        self._server = server
        self._numbers = itertools.count()
        self.acknowledged = set()
        self.in_doubt = set()
        with server.connect() as conn:
            conn.execute("DROP TABLE IF EXISTS chaos_ledger")
            conn.execute("CREATE TABLE chaos_ledger (n bigint PRIMARY KEY)")

    def drop(self):
        with self._server.connect() as conn:
            conn.execute("DROP TABLE chaos_ledger")

    def insert(self, acquired):
        number = next(self._numbers)
        with acquired as conn:
            conn.execute("INSERT INTO chaos_ledger VALUES (%s)", [number])
            self.in_doubt.add(number)  # until we are told: COMMIT is what comes next
        self.in_doubt.discard(number)
        self.acknowledged.add(number)

    def rows(self):
        with self._server.connect() as conn:
            return {number for (number,) in conn.execute("SELECT n FROM chaos_ledger")}


@pytest.fixture
def ledger(embedded_pg):
    ledger = Ledger(embedded_pg)
    yield ledger
    embedded_pg.start()
    ledger.drop()


@pytest.mark.slow
@pytest.mark.hang_limit(600)
@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_a_server_restarting_under_load(
    make_pool, embedded_pg, embedded_dsn, ledger, *, figures, ticker, rng, mode
):
    # A crash of the server loses no commit that reached the kernel; without this it could.
    durable = make_conninfo(embedded_dsn, options="-c synchronous_commit=on")
    pool = make_pool(durable, min_size=2, max_size=MAX_SIZE)
    pool.wait()
    acquires = Acquires(pool)
    restarts = pick(short=2, long=50)
    recoveries, most_errors = [], 0

    def sample():
        assert check_counts(pool) == []

    with (
        sampling(sample, 0.005),
        Users(USERS, lambda _user: ledger.insert(acquires.connection(5.0)), pause=0.005) as users,
    ):
        for _ in range(restarts):
            before, begun = len(users.done), time.monotonic()
            wait_until(lambda: len(users.done) > before + 50, timeout=10)  # noqa: B023
            gevent.sleep(rng.random() * 0.05)
            embedded_pg.restart(mode)
            ready = time.monotonic()
            wait_until(lambda: users.first_success_after(ready), timeout=10)  # noqa: B023
            recoveries.append(users.first_success_after(ready) - ready)
            after = len(users.done)
            wait_until(lambda: len(users.done) > after + USERS, timeout=10)  # noqa: B023
            most_errors = max(most_errors, users.most_failures_of_one(begun, time.monotonic()))
    assert not [f for f in users.failures if f.error is PoolTimeout]
    rows = ledger.rows()
    figures.at_least("restarts survived", restarts, restarts)
    figures.at_most("acknowledged rows that are not there", len(ledger.acknowledged - rows), 0)
    figures.at_most(
        "rows that are there, though no caller was told or left in doubt",
        len(rows - ledger.acknowledged - ledger.in_doubt),
        0,
    )
    figures.at_most("errors of one user in one restart", most_errors, 1)
    figures.at_most("first success after the server was ready", max(recoveries), 2, "s")
    figures.at_most("latest acquire past its deadline", acquires.latest(ticker) * 1000, 50, "ms")
    wait_until(lambda: counts(pool).idle >= 2, message="min_size connections are there")


@pytest.mark.slow
@pytest.mark.hang_limit(180)
def test_a_server_gone_past_every_retry_and_back(
    make_pool, embedded_pg, embedded_dsn, figures, ticker
):
    given_up = []
    pool = make_pool(
        embedded_dsn,
        min_size=2,
        max_size=MAX_SIZE,
        reconnect_timeout=0.3,
        reconnect_failed=given_up.append,
    )
    pool.wait()
    acquires = Acquires(pool)

    def use(user):
        with acquires.connection(0.3) as conn:
            conn.execute("SELECT 1")

    with Users(USERS, use, pause=0.05) as users:
        wait_until(lambda: len(users.done) > 50)
        embedded_pg.stop("fast")
        gone = time.monotonic()
        gevent.sleep(pick(short=1.6, long=45.0))
        during = [f for f in users.failures if f.at > gone + 1]
        embedded_pg.start()
        ready = time.monotonic()
        wait_until(lambda: users.first_success_after(ready), timeout=10)
        wait_until(lambda: len([at for at in users.done if at > ready]) > USERS, timeout=10)
    assert {failure.error for failure in during} == {PoolTimeout}
    assert all(issubclass(failure.cause, psycopg.OperationalError) for failure in during)
    figures.at_least("times the pool reported that it gave up", len(given_up), 2)
    figures.at_most(
        "first success after the server was back", users.first_success_after(ready) - ready, 2, "s"
    )
    figures.at_most("latest acquire past its deadline", acquires.latest(ticker) * 1000, 50, "ms")
    wait_until(lambda: settled(pool, counts(pool).size) and counts(pool).size >= 2)
