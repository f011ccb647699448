"""A worker with a bad setting ends at once, with one line that says which and why."""

from __future__ import annotations

import re

import pytest
from psycopg.conninfo import make_conninfo

SECRET = "open-sesame"

# What the worker is started with, and what its one line has to say.
CASES = {
    "an unknown option": ({"conf": {"geventpg": {"max_siez": 3}}}, r"'max_siez'.*'max_size'"),
    "a wrong type": ({"conf": {"geventpg": {"max_size": "3"}}}, "max_size must be an integer"),
    "an impossible value": (
        {"conf": {"geventpg": {"max_size": 2, "min_size": 3}}},
        "max_size must be greater or equal than min_size",
    ),
    "settings that are no dict": ({"conf": {"geventpg": 3}}, "geventpg must be a dict.*int"),
    "an unknown variable": ({"env": {"GEVENTPG_MAX_SIEZ": "3"}}, "GEVENTPG_MAX_SIEZ"),
    "a variable of a wrong type": (
        {"env": {"GEVENTPG_TIMEOUT": "soon"}},
        "GEVENTPG_TIMEOUT.*a number of seconds",
    ),
    "no connection string": (
        {"env": {"GEVENTPG_CONNINFO": None}},
        "no conninfo.*GEVENTPG_CONNINFO",
    ),
    "a bad connection string": (
        {"env": {"GEVENTPG_CONNINFO": f"host=localhost pass word={SECRET}"}},
        "conninfo is not a valid",
    ),
    "a bad URL": (
        {"env": {"GEVENTPG_CONNINFO": f"postgresql://me:{SECRET}@[::1/db"}},
        "conninfo is not a valid",
    ),
    "a wrong password": ({"conninfo": {"password": SECRET}}, "password authentication failed"),
    "an unknown user": ({"conninfo": {"user": "nobody-here", "password": SECRET}}, "nobody-here"),
    "an unknown database": ({"conninfo": {"dbname": "no-such-db"}}, "no-such-db.*does not exist"),
    "a wrong option under prefork": (
        {"pool": "prefork", "conf": {"geventpg": {"max_siez": 3}}},
        "'max_siez'",
    ),
    "a wrong option under threads": (
        {"pool": "threads", "conf": {"geventpg": {"max_siez": 3}}},
        "'max_siez'",
    ),
    "a wrong password under threads": (
        {"pool": "threads", "conninfo": {"password": SECRET}},
        "password authentication failed",
    ),
    "imports only": (
        {"env": {"APP_IMPORTS_ONLY": "1"}, "conf": {"geventpg": {"max_siez": 3}}},
        "'max_siez'",
    ),
}
AT_A_TIME = 4


@pytest.fixture(scope="module")
def ends(make_worker, pg):
    """Start all those workers, some at a time; return their exit statuses and logs."""
    ends = {}
    waiting = list(CASES)
    while waiting:
        names, waiting = waiting[:AT_A_TIME], waiting[AT_A_TIME:]
        workers = {}
        for name in names:
            options = dict(CASES[name][0])
            if changes := options.pop("conninfo", None):
                dsn = make_conninfo(pg.dsn, **changes)
                options["env"] = {"GEVENTPG_CONNINFO": dsn}
            workers[name] = make_worker(start=False, **options)
            workers[name].process.launch()
        for name, worker in workers.items():
            ends[name] = (worker.process.wait(timeout=20), worker.process.log)
    return ends


@pytest.mark.parametrize("case", CASES)
def test_a_worker_does_not_start_with(ends, case):
    status, log = ends[case]
    said = [line for line in log.splitlines() if line.startswith("geventpg: ")]
    assert status not in (0, None), log
    assert len(said) == 1, log
    assert re.search(CASES[case][1], said[0]), said[0]
    assert "Traceback" not in log, log
    assert SECRET not in log


def test_a_worker_does_not_start_with_the_eventlet_pool(tmp_path, own_worker):
    # Celery imports eventlet, which need not be installed to be refused.
    package = tmp_path / "eventlet"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from types import SimpleNamespace\n"
        "def monkey_patch(*args, **kwargs): pass\n"
        "hubs = SimpleNamespace(get_hub=lambda: None)\n"
    )
    for name in ("debug", "greenthread", "hubs"):
        (package / f"{name}.py").write_text(
            "def spawn_after(*a, **k): pass\ndef hub_blocking_detection(*a): pass\n"
        )
    worker = own_worker(start=False, pool="eventlet", env={"PYTHONPATH": str(tmp_path)})
    worker.process.launch()
    status = worker.process.wait(timeout=20)
    said = [line for line in worker.process.log.splitlines() if line.startswith("geventpg: ")]
    assert status != 0
    assert len(said) == 1, worker.process.log
    assert "eventlet" in said[0]
    assert "-P gevent" in said[0]


def test_a_wrong_password_under_prefork_is_told_once_and_in_the_first_child(own_worker, pg, tag):
    # Nothing connects in the parent, and a child that ended would only be replaced.
    dsn = make_conninfo(pg.dsn, password=SECRET)
    worker = own_worker(pool="prefork", concurrency=2, env={"GEVENTPG_CONNINFO": dsn})
    worker.process.wait_for_log("geventpg: tasks .* will fail: .*password authentication failed")
    assert worker.process.log.count("will fail") == 1
    assert worker.call("nothing") > 0
    assert SECRET not in worker.process.log
