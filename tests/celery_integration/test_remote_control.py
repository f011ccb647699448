"""What `celery inspect geventpg` tells, and what `control` changes, in real workers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.celery_integration.conftest import lent
from tests.support import wait_until
from tests.support.script import ROOT, clean_environment

STATEMENT = "select pg_sleep(%s)"


@pytest.fixture(params=["gevent", "prefork", "threads"])
def busy_worker(request, shared_workers):
    """Return one worker of each kind that answers while its tasks run."""
    with lent(shared_workers(request.param)) as running:
        yield running
        running.cancel_everything()


def holders_of(worker):
    return [holder for pool in worker.pools() for holder in pool["holders"]]


def holding(worker, count):
    """Wait until that number of connections runs the statement; return their holders."""

    def found():
        holders = [h for h in holders_of(worker) if h["statement"] == STATEMENT]
        return len(holders) == count and holders

    return wait_until(found, 10, 0.05, f"{count} hold a connection and run the statement")


def test_inspect_names_the_task_and_the_statement_that_hold_a_connection(busy_worker, tag):
    results = [busy_worker.send("sleep", f"{tag}-{number}", 60) for number in range(2)]
    holders = holding(busy_worker, 2)
    assert {holder["task"] for holder in holders} == {"sleep"}
    assert {holder["task_id"] for holder in holders} == {result.id for result in results}
    assert {holder["transaction"] for holder in holders} == {"ACTIVE"}
    assert all(0 <= holder["seconds"] < 60 for holder in holders)
    running = {backend.pid for backend in busy_worker.backends() if backend.state == "active"}
    assert {holder["pid"] for holder in holders} == running
    assert sum(pool["in_use"] for pool in busy_worker.pools()) == 2
    busy_worker.cancel_everything()
    wait_until(lambda: holders_of(busy_worker) == [], 10, 0.05, "no connection is held")


def test_inspect_tells_the_waiters_and_since_when_they_wait(worker, tag):
    results = [worker.send("sleep", tag, 60) for _ in range(8)]

    def waiters():
        (pool,) = worker.pools()
        # Handed over a moment ago, a connection has a holder that has not run yet.
        known = all(holder["task_id"] for holder in pool["holders"])
        return (pool["in_use"], pool["waiting"]) == (5, 3) and known and pool

    def ended():
        worker.cancel_everything()
        return all(result.ready() for result in results)

    try:
        pool = wait_until(waiters, 10, 0.05, "three tasks wait for one of five connections")
    finally:
        wait_until(ended, 20, 0.05, "all tasks have ended")
    assert (pool["size"], pool["idle"], pool["max_size"]) == (5, 0, 5)
    waiting = {waiter["task_id"] for waiter in pool["waiters"]}
    held = {holder["task_id"] for holder in pool["holders"]}
    assert waiting | held == {result.id for result in results}
    assert not waiting & held
    assert {waiter["task"] for waiter in pool["waiters"]} == {"sleep"}


def test_resize_reaches_every_process(busy_worker):
    before = busy_worker.pools()
    try:
        answer = busy_worker.control("geventpg_resize", min_size=1, max_size=3)
        assert answer == {"ok": f"'default' resized in {len(before)} process(es)"}
        assert {(pool["min_size"], pool["max_size"]) for pool in busy_worker.pools()} == {(1, 3)}
        assert busy_worker.call("stats")["pool_max"] == 3
    finally:
        sizes = {name: before[0][name] for name in ("min_size", "max_size")}
        busy_worker.control("geventpg_resize", **sizes)


def test_drain_replaces_the_connections_of_every_process(busy_worker):
    busy_worker.call("backend")
    wait_until(lambda: not busy_worker.running(), interval=0.02)
    before = {backend.pid for backend in busy_worker.backends()}
    answer = busy_worker.control("geventpg_drain")
    assert answer == {"ok": f"'default' drained in {len(busy_worker.pools())} process(es)"}
    wait_until(
        lambda: not before & {backend.pid for backend in busy_worker.backends()},
        interval=0.02,
        message="the old connections are gone",
    )
    assert busy_worker.call("backend") not in before


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("geventpg_resize", {}, "geventpg_resize MIN"),
        ("geventpg_resize", {"min_size": 5, "max_size": 2}, "2 < 5"),
        ("geventpg_resize", {"min_size": 1, "pool": "reports"}, "no pool 'reports'"),
        ("geventpg_drain", {"pool": "reports"}, "no pool 'reports'"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_why(busy_worker, command, arguments, said):
    answer = busy_worker.control(command, **arguments)
    assert said in answer["error"]


def both_at_work(worker):
    """Run two tasks at the same time; return whose connections they had."""
    results = [worker.send("backend", 0.3) for _ in range(2)]
    return {result.get(timeout=15) for result in results}


def test_children_that_hang_are_named_and_new_ones_have_the_new_size(own_worker):
    folder = Path(tempfile.mkdtemp(prefix="g", dir="/tmp"))
    worker = own_worker(pool="prefork", concurrency=2, env={"TMPDIR": str(folder)})
    try:
        pids = wait_until(lambda: len(found := worker.pools()) == 2 and found, 10, 0.05)
        first, second = sorted(pool["pid"] for pool in pids)
        os.kill(first, signal.SIGSTOP)
        try:
            processes = worker.control("geventpg")["processes"]
            errors = {process["pid"]: process.get("error") for process in processes}
            assert errors[first] == "no answer within 0.6 s"

            def resized():  # the other one may be slow to answer
                answer = worker.control("geventpg_resize", min_size=1, max_size=7)
                return f"in 1 process(es); process {first}: no answer" in answer["error"]

            wait_until(resized, 15, 0.05, "the child that is not stopped is resized")
        finally:
            os.kill(first, signal.SIGCONT)
        os.kill(first, signal.SIGKILL)
        wait_until(
            lambda: {pool["max_size"] for pool in worker.pools() if pool["pid"] != second} == {7},
            15,
            0.1,
            "the child in its place has the new size",
        )
        # Celery may wait in vain for a child that is not up yet: let both do something first.
        wait_until(lambda: len(both_at_work(worker)) == 2, 15, 0.05, "both children are at work")
        (sockets,) = folder.glob("geventpg-*")
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert worker.process.stop("warm") == 0
        assert not list(folder.glob("geventpg-*"))
    finally:
        shutil.rmtree(folder)


def test_connections_lost_in_a_burst_are_one_event_and_not_many(worker, client):
    told = []
    handlers = {"worker-geventpg-evicted": told.append}
    with (
        client.connection_for_read() as broker,
        client.events.Receiver(broker, handlers=handlers).consumer_context() as (connection, *_),
    ):

        def events():
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.1)
            return [event for event in told if event["hostname"] == worker.node]

        assert events() == []  # which makes Redis listen
        idle = [backend.pid for backend in worker.backends()]
        for pid in idle:
            worker.terminate(pid)
        wait_until(lambda: sum(e["count"] for e in events()) == len(idle), 15, 0.01, "all are told")
    assert len(told) < len(idle)  # one, unless the machine stood still
    for event in told:
        assert event["pool"] == "default"
        assert event["count"] == sum(event["causes"].values())


def test_the_command_line_knows_the_commands(worker, redis_server):
    def celery(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "celery", "-A", "tests.apps.work", *arguments],
            capture_output=True, text=True, cwd=ROOT, timeout=60, check=False,
            env=clean_environment(BROKER_URL=redis_server.url),
        )  # fmt: skip

    done = celery("inspect", "geventpg", "-d", worker.node, "-t", "10", "--json")
    assert done.returncode == 0, done.stderr
    (process,) = json.loads(done.stdout)[worker.node]["processes"]
    assert process["pools"][0]["engine"] == "geventpg"
