"""A worker and a server that is not there: at the start, for a moment, under load."""

from __future__ import annotations

import time

import gevent
import pytest
from psycopg.conninfo import conninfo_to_dict

from geventpg.testing import EmbeddedPostgres
from tests.celery_integration.conftest import TABLES
from tests.support import wait_until
from tests.support.running_worker import returned_by


@pytest.fixture
def own_server():
    """Return a server that the other workers do not use."""
    with EmbeddedPostgres() as server:
        with server.connect() as conn:
            conn.execute(TABLES)
        yield server


@pytest.mark.parametrize("pool", ["gevent", "prefork"])
def test_a_worker_starts_without_its_server_and_works_when_it_comes_up(
    own_worker, proxy, pg, tag, pool
):
    proxy.stop()
    worker = own_worker(pool=pool, concurrency=2, dsn=proxy.dsn(pg.dsn))
    line = worker.process.wait_for_log(r".*geventpg: no connection yet, going on without: .*")
    assert "WARNING" in line[0]
    assert conninfo_to_dict(pg.dsn).get("password", "no password") not in worker.process.log
    assert worker.call("nothing")
    proxy.start()
    since = time.monotonic()
    assert worker.call("note", tag) == tag
    assert worker.notes(tag) == [""]
    assert time.monotonic() - since < 5


def test_a_task_that_comes_while_the_server_is_away_waits_for_it(own_worker, proxy, pg, tag):
    worker = own_worker(dsn=proxy.dsn(pg.dsn))
    worker.call("note", f"{tag}-before")
    proxy.stop()
    result = worker.send("note", f"{tag}-during")
    gevent.sleep(0.3)
    assert not result.ready()
    proxy.start()
    since = time.monotonic()
    assert result.get(timeout=10)
    assert time.monotonic() - since < 2
    assert worker.notes(tag) == ["before", "during"]


@pytest.mark.hang_limit(90)
def test_a_restart_under_load_costs_one_error_a_task_in_flight_at_most(own_worker, own_server, tag):
    pool_size, in_flight = 10, 40
    worker = own_worker(
        dsn=own_server.dsn, concurrency=in_flight, env={"GEVENTPG_MAX_SIZE": str(pool_size)}
    )
    sent, ends, stop = [], [], []

    def load():
        while not stop:
            # So long that connections set the rate, and not the machine.
            result = worker.send("sleep", f"{tag}-{len(sent)}", 0.2)
            sent.append(result)
            result.get(timeout=30, propagate=False)
            ends.append((time.monotonic(), result.state))

    def rate(since, until):
        return sum(since <= at < until and state == "SUCCESS" for at, state in ends)

    greenlets = [gevent.spawn(load) for _ in range(in_flight)]
    wait_until(lambda: len(ends) > in_flight, timeout=10)
    start = time.monotonic()
    gevent.sleep(1.5)
    before = rate(start, start + 1.5) / 1.5
    own_server.restart()
    up = time.monotonic()
    gevent.sleep(4)
    stop.append(True)
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    failed = [state for _, state in ends if state != "SUCCESS"]
    assert len(failed) <= in_flight
    after = rate(up + 2, up + 4) / 2
    assert after > 0.8 * before, f"{before:.0f} tasks per second before, {after:.0f} after"
    assert len(ends) == len(sent)
    with own_server.connect() as conn:
        assert conn.execute("select count(*) from work_notes").fetchone() == (
            len(sent) - len(failed),
        )
    assert len(own_server.backends()) <= pool_size


def test_sessions_that_are_terminated_while_idle_cost_no_task(worker, tag, admin):
    for _ in range(3):
        admin.execute(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = %s and state = 'idle'",
            [conninfo_to_dict(worker.dsn)["application_name"]],
        )
        gevent.sleep(0.1)
        results = [worker.send("note", f"{tag}-{number}") for number in range(20)]
        returned_by(results, timeout=10)
    assert len(worker.notes(tag)) == 60
