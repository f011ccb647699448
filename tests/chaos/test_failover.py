"""A standby that takes over under load: with the old primary gone, fenced, or back as a standby."""

from __future__ import annotations

import itertools
import time
from functools import partial

import gevent
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

import geventpg
from geventpg.testing import PrimaryAndStandby
from tests.chaos.form import pick
from tests.chaos.load import Users
from tests.support import wait_until
from tests.support.pools import counts

WRITERS = 30
MAX_SIZE = 8
INSERT = "INSERT INTO written VALUES (%s)"


@pytest.fixture
def pair():
    with PrimaryAndStandby() as pair:
        with pair.primary.connect() as conn:
            conn.execute("CREATE TABLE written (n bigint PRIMARY KEY)")
        pair.wait_caught_up()
        yield pair


@pytest.fixture
def dsn_of_both(pair, application_name):
    return make_conninfo(
        pair.dsn,
        target_session_attrs="read-write",
        connect_timeout=2,
        application_name=application_name,
    )


def in_a_checkout(pool, number):
    with pool.connection(timeout=10) as conn:
        conn.execute(INSERT, [number])


def as_a_single_statement(pool, number):
    pool.execute(INSERT, [number], timeout=10)


def in_a_transaction_that_is_tried_again(pool, number):
    geventpg.run_in_transaction(
        lambda conn: conn.execute(INSERT, [number]), pool=pool, max_attempts=20, timeout=20
    )


# A way to write, and how many of 30 writers a server can refuse at once.
IN_A_CHECKOUT = pytest.param(in_a_checkout, MAX_SIZE, id="in a checkout")
AS_A_SINGLE_STATEMENT = pytest.param(as_a_single_statement, WRITERS, id="as a single statement")


class Writer:
    """Inserts numbers, and notes which of them the server has taken and when it refused."""

    def __init__(self, insert):
        self._insert = insert
        self._numbers = itertools.count()
        self.taken = set()
        self.refused = []

    def __call__(self, _user):
        number = next(self._numbers)
        try:
            self._insert(number)
        except psycopg.errors.ReadOnlySqlTransaction:
            self.refused.append(time.monotonic())
            raise
        self.taken.add(number)


def rows(server):
    with server.connect() as conn:
        return {number for (number,) in conn.execute("SELECT n FROM written")}


def fence(server):
    """Make a server refuse writes though it goes on: what tools do before a switch-over."""
    with server.connect() as conn:
        conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        conn.execute("SELECT pg_reload_conf()")
    with server.connect() as conn:
        wait_until(lambda: conn.execute("SHOW default_transaction_read_only").fetchone() == ("on",))


@pytest.mark.slow
@pytest.mark.hang_limit(300)
@pytest.mark.parametrize(
    "insert",
    [
        pytest.param(in_a_transaction_that_is_tried_again, id="in a transaction"),
        pytest.param(as_a_single_statement, id="as a single statement"),
    ],
)
def test_a_primary_that_stops_loses_no_row_that_is_not_in_doubt(
    pair, dsn_of_both, make_pool, figures, insert
):
    recoveries, lost, errors = [], 0, 0
    pool = make_pool(dsn_of_both, min_size=4, max_size=MAX_SIZE)
    pool.wait()

    for _ in range(pick(short=1, long=5)):
        writer = Writer(partial(insert, pool))
        with Users(WRITERS, writer, pause=0.005) as users:
            wait_until(lambda: len(users.done) > 100, timeout=10)
            # Stopped in order it sends all it has to its standby: nothing is lost that way.
            pair.primary.stop("fast")
            pair.promote()
            promoted = time.monotonic()
            wait_until(lambda: users.first_success_after(promoted), timeout=20)  # noqa: B023
            recoveries.append(users.first_success_after(promoted) - promoted)
            after = len(users.done)
            wait_until(lambda: len(users.done) > after + 100, timeout=10)  # noqa: B023
        errors += sum(failure.error is not geventpg.CommitUnknown for failure in users.failures)
        lost += len(writer.taken - rows(pair.standby))
        with pair.standby.connect() as conn:
            conn.execute("TRUNCATE written")
        pair.rejoin()
    figures.at_most("acknowledged rows that are not there", lost, 0)
    figures.at_most("transactions that failed and were not in doubt", errors, 0)
    figures.at_most("first success after the promotion", max(recoveries), 2, "s")


@pytest.mark.slow
@pytest.mark.hang_limit(120)
@pytest.mark.parametrize(("insert", "at_once"), [IN_A_CHECKOUT, AS_A_SINGLE_STATEMENT])
def test_a_primary_that_is_fenced_and_lives_on_gets_no_more_writes(
    pair, dsn_of_both, make_pool, figures, *, insert, at_once
):
    pool = make_pool(dsn_of_both, min_size=4, max_size=MAX_SIZE)
    pool.wait()
    old = pair.primary

    writer = Writer(partial(insert, pool))
    with Users(WRITERS, writer, pause=0.005) as users:
        wait_until(lambda: len(users.done) > 100, timeout=10)
        fence(old)
        pair.wait_caught_up()
        pair.promote()
        promoted = time.monotonic()
        wait_until(lambda: users.first_success_after(promoted), timeout=10)
        recovered = users.first_success_after(promoted)
        gevent.sleep(pick(short=0.5, long=10.0))
    assert pair.standby.backends(), "the pool is at the new primary"
    connections = counts(pool).size
    figures.at_most(
        "acknowledged rows that are not there", len(writer.taken - rows(pair.standby)), 0
    )
    figures.at_most("writes refused, of those at work at once", len(writer.refused) / at_once, 1)
    figures.at_most(
        "writes sent to a read-only server after the first success",
        sum(at > recovered for at in writer.refused),
        0,
    )
    figures.at_most("first success after the promotion", recovered - promoted, 2, "s")
    old_ones = [backend for backend in old.backends() if backend.application_name]
    figures.at_most("connections left at the old primary", len(old_ones), 0)
    assert 0 < connections <= MAX_SIZE


@pytest.mark.slow
@pytest.mark.hang_limit(120)
@pytest.mark.parametrize("insert", [in_a_checkout, as_a_single_statement])
def test_an_address_that_leads_to_a_standby_is_left_when_it_leads_to_the_new_primary(
    pair, make_pool, proxy, *, figures, application_name, insert
):
    # A virtual address, and the conninfo does not ask for a writable server: refused writes tell.
    proxy.retarget(pair.primary.host, pair.primary.port)
    dsn = make_conninfo(proxy.dsn(pair.primary.dsn), application_name=application_name)
    pool = make_pool(dsn, min_size=2, max_size=MAX_SIZE)
    pool.wait()

    writer = Writer(partial(insert, pool))
    with Users(WRITERS, writer, pause=0.005) as users:
        wait_until(lambda: len(users.done) > 100, timeout=10)
        fence(pair.primary)
        pair.wait_caught_up()
        pair.promote()
        proxy.retarget(pair.standby.host, pair.standby.port)
        switched = time.monotonic()
        # The holders of a connection to the old one meet it; no later caller does.
        wait_until(lambda: users.first_success_after(switched), timeout=30)
        recovered = users.first_success_after(switched)
        gevent.sleep(0.5)
    figures.at_most(
        "acknowledged rows that are not there", len(writer.taken - rows(pair.standby)), 0
    )
    figures.at_most("first success after the address moved", recovered - switched, 4, "s")
    figures.at_most(
        "writes refused a second after the first success",
        sum(at > recovered + 1 for at in writer.refused),
        0,
    )
