"""Messages without a question: two last words at once, floods of notifications, parameters."""

from __future__ import annotations

import os
import time

import gevent
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.chaos.form import pick
from tests.chaos.peers import Interposer, error_response, parameter_status
from tests.connection.helpers import Attempt
from tests.support import wait_until
from tests.support.pools import backend_pid, counts, give_back, hold_all, settled

LAST_WORDS = error_response(
    "FATAL", "57P01", "terminating connection due to administrator command"
) + error_response("FATAL", "57P02", "terminating connection because of crash")


@pytest.fixture
def between(pg, dsn):
    """Return a man in the middle: no real server sends what these tests need."""
    parameters = conninfo_to_dict(dsn)
    with Interposer(parameters["host"], pg.port) as running:
        yield running


def pids(pool):
    conns = hold_all(pool, pool.max_size)
    try:
        return {backend_pid(conn) for conn in conns}
    finally:
        give_back(pool, conns)


def test_two_last_words_in_one_segment_on_idle_connections(
    make_pool, between, dsn, figures, ticker
):
    rounds, failures, latest = pick(short=5, long=100), 0, 0.0
    pool = make_pool(between.dsn(dsn), min_size=4, max_size=4)
    for _ in range(rounds):
        wait_until(lambda: settled(pool, 4))
        before = pids(pool)
        said = time.monotonic()
        between.say(LAST_WORDS, hang_up=True)
        wait_until(lambda: counts(pool).idle == 0)
        latest = max(latest, time.monotonic() - said)
        try:
            assert not before & pids(pool)
        except psycopg.Error:
            failures += 1
    figures.at_most("errors that users saw", failures, 0)
    figures.at_most("until all were gone", latest * 1000, 500, "ms")


@pytest.mark.parametrize("hang_up", [True, False], ids=["and-the-end", "and-nothing-more"])
def test_two_last_words_in_one_segment_during_a_statement(
    make_pool, between, dsn, backends, *, figures, hang_up
):
    pool = make_pool(between.dsn(dsn), min_size=2, max_size=2, cancel_timeout=1.0)
    pool.wait()

    def work():
        with pool.connection() as conn:
            conn.execute("SELECT pg_sleep(30)")

    attempts = [Attempt(work) for _ in range(2)]
    wait_until(lambda: len([b for b in backends() if b.state == "active"]) == 2)
    between.say(LAST_WORDS, hang_up=hang_up)
    for attempt in attempts:
        attempt.join(5)
        assert isinstance(attempt.error, psycopg.OperationalError)
    figures.at_most("until the statement failed", max(a.took for a in attempts), 4, "s")
    since = time.monotonic()
    conns = hold_all(pool, 2)
    assert [conn.execute("SELECT 42").fetchone() for conn in conns] == [(42,), (42,)]
    give_back(pool, conns)
    figures.at_most("until the next users were served", time.monotonic() - since, 2, "s")
    pool.close()
    # The real server knows nothing of the end that was put in.
    for backend in backends():
        with psycopg.connect(dsn, autocommit=True, application_name="") as conn:
            conn.execute("SELECT pg_terminate_backend(%s)", [backend.pid])


def test_a_flood_of_notifications_on_idle_connections(make_pool, admin, figures, ticker):
    channel = f"chaos_flood_{os.getpid()}"
    number = pick(short=20_000, long=200_000)

    def listen(conn):
        conn.execute(f"LISTEN {channel}")
        conn.commit()

    pool = make_pool(min_size=3, max_size=3, configure=listen)
    pool.wait()
    before = pids(pool)
    ticker.forget()
    used = time.process_time()
    flood = "SELECT count(pg_notify(%s, g || repeat('x', 100))) FROM generate_series(1, %s) g"
    for _ in range(10):
        admin.execute(flood, [channel, number // 10])
    gevent.sleep(0.1)  # the last ones are on their way
    stalled = ticker.longest
    conns = hold_all(pool, 3)
    received = []
    for conn in conns:
        notes: list[object] = []
        while len(notes) < number:
            found = list(conn.notifies(timeout=1.0, stop_after=1))
            assert found, f"{len(notes)} of {number} notifications came"
            notes += found
        received.append(len(notes))
        conn.execute(f"UNLISTEN {channel}")
        conn.commit()
    give_back(pool, conns)
    cost = (time.process_time() - used) / (3 * number)
    figures.at_most("connections lost", len(before - pids(pool)), 0)
    figures.at_least("notifications that each listener got", min(received), number)
    figures.at_most("CPU time for one", cost * 1e6, 100, "us")
    # One round of the event loop reads and keeps what came on all three.
    figures.at_most("longest hub stall while they came", stalled * 1000, 100, "ms")


def test_changed_parameters_on_idle_and_on_used_connections(make_pool, between, dsn, figures):
    pool = make_pool(between.dsn(dsn), min_size=3, max_size=3)
    pool.wait()
    before = pids(pool)
    rounds = pick(short=200, long=5000)

    def work():
        with pool.connection() as conn:
            for _ in range(50):
                assert conn.execute("SELECT 42").fetchone() == (42,)

    user = Attempt(work)
    for number in range(rounds):
        between.say(parameter_status("application_name", f"renamed-{number}"))
        gevent.sleep(0)
    user.join()
    assert user.error is None
    wait_until(lambda: settled(pool, 3))
    figures.at_most("connections lost", len(before - pids(pool)), 0)
    last = f"renamed-{rounds - 1}"
    conns = hold_all(pool, 3)
    names = [conn.info.parameter_status("application_name") for conn in conns]
    give_back(pool, conns)
    figures.at_least("connections that know the new value", names.count(last), 3)


def test_a_notification_that_came_while_the_connection_was_idle_is_not_waited_for(
    make_pool, admin, figures
):
    pool = make_pool(min_size=1, max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.execute("LISTEN chaos_idle")
    admin.execute("NOTIFY chaos_idle, 'early'")
    gevent.sleep(0.05)  # the pool has read it from the socket by now
    with pool.connection() as conn:
        since = time.monotonic()
        assert [note.payload for note in conn.notifies(timeout=5, stop_after=1)] == ["early"]
        figures.at_most("until it was there", (time.monotonic() - since) * 1000, 500, "ms")
        conn.execute("UNLISTEN chaos_idle")
