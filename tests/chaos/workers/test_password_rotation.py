"""A worker's password that is changed while its tasks are at work."""

from __future__ import annotations

from collections import Counter

import gevent
import pytest
from psycopg.conninfo import make_conninfo

from tests.support import wait_until
from tests.support.pools import terminate

LAG = 1.5
USERS = 50


@pytest.fixture
def role(work_admin):
    """Return a role whose password the test changes; it is dropped after the worker's end."""
    name = "rotating_worker"
    work_admin().execute(f"create role {name} superuser login password 'first'")
    yield name
    ours = "select pid from pg_stat_activity where usename = %s"
    terminate(work_admin(), *(pid for (pid,) in work_admin().execute(ours, [name]).fetchall()))
    work_admin().execute(f"drop role {name}")


@pytest.fixture
def secret(tmp_path):
    """Return the file that the worker reads its password from."""
    path = tmp_path / "secret"
    path.write_text("first")
    return path


@pytest.fixture
def rotating_worker(own_worker, role, pg, secret):
    """Return a worker that replaces each connection twice a second."""
    return own_worker(
        app="tests.apps.rotating",
        dsn=make_conninfo(pg.dsn, user=role),
        concurrency=USERS,
        env={"SECRET": str(secret)},
    )


@pytest.mark.hang_limit(90)
def test_no_task_fails_when_the_password_is_changed_before_the_worker_can_know_it(
    role, rotating_worker, work_admin, secret, tag
):
    worker = rotating_worker
    ends: Counter[str] = Counter()
    stop = []

    def load(user):
        while not stop:
            result = worker.send("note", f"{tag}-{user}-{len(stop)}-{sum(ends.values())}")
            result.get(timeout=30, propagate=False)
            ends[result.state] += 1

    users = [gevent.spawn(load, user) for user in range(USERS)]
    for number in range(3):
        aim = ends["SUCCESS"] + 2 * USERS
        wait_until(lambda aim=aim: ends["SUCCESS"] >= aim, timeout=20)
        work_admin().execute(f"alter role {role} password 'change-{number}'")
        gevent.sleep(LAG)
        secret.write_text(f"change-{number}")
    aim = ends["SUCCESS"] + 2 * USERS
    wait_until(lambda: ends["SUCCESS"] >= aim, timeout=20)
    stop.append(True)
    gevent.joinall(users, timeout=30, raise_error=True)
    assert ends == {"SUCCESS": ends["SUCCESS"]}
    assert len(worker.notes(tag)) == ends["SUCCESS"]
    refused = worker.process.log.count("password authentication failed")
    assert refused, "the wrong password was never tried"
    assert worker.process.stop("warm") == 0
    print(f"{dict(ends)}, 3 changes of the password, {refused} refusals in the log")
