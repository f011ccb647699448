"""Where a worker's settings come from, and what the worker says about them."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

SETTINGS_LINE = r"geventpg: pool min_size=(\d+) max_size=(\d+) in (\d+) process.*"


@pytest.fixture(scope="module")
def workers(make_worker, pg):
    """Start one worker for each way to configure it, all at the same time."""
    dsn = make_conninfo(pg.dsn, application_name="from-settings")
    nothing = {"GEVENTPG_CONNINFO": None}
    pool_of_7 = {"conninfo": dsn, "max_size": 7}
    made = {
        "app config": {"conf": {"geventpg": pool_of_7}, "env": nothing},
        "imports only": {
            "conf": {"geventpg": pool_of_7},
            "env": {**nothing, "APP_IMPORTS_ONLY": "1"},
        },
        "conninfo only": {"conf": {"geventpg": dsn}, "env": nothing, "concurrency": 7},
        "config wins": {"conf": {"geventpg": pool_of_7}, "env": {"GEVENTPG_MAX_SIZE": "2"}},
        "environment": {"env": {"GEVENTPG_MAX_SIZE": "7"}},
        "conninfo from environment": {"conf": {"geventpg": {"max_size": 7}}},
        "many greenlets": {"concurrency": 500},
        "namespace": {
            "app": "tests.apps.django_style",
            "env": {**nothing, "SETTINGS_CONNINFO": dsn},
        },
        "too large": {"env": {"GEVENTPG_MAX_SIZE": "1000", "GEVENTPG_MIN_SIZE": "1"}},
        "too many processes": {
            "pool": "prefork",
            "concurrency": 2,
            "env": {"GEVENTPG_MAX_SIZE": "150", "GEVENTPG_MIN_SIZE": "1"},
        },
    }
    running = {name: make_worker(start=False, **options) for name, options in made.items()}
    for worker in running.values():
        worker.process.launch()
    yield running
    for worker in running.values():
        worker.process.stop("kill")


@pytest.fixture
def worker_with(workers):
    """Return a function that gives one of the workers when it is ready."""

    def get(name):
        worker = workers[name]
        worker.process.wait_for_log(r"@\S+ ready\.", timeout=30)
        return worker

    return get


@pytest.mark.parametrize("name", ["app config", "imports only", "config wins"])
def test_from_the_apps_config(worker_with, name, tag):
    worker = worker_with(name)
    stats = worker.call("stats")
    assert stats["pool_max"] == 7
    assert worker.call("note", tag) == tag
    assert worker.notes(tag) == [""]
    assert worker.backends() == []  # they have the name in the config, not that in the environment


def test_a_connection_string_is_configuration_enough(worker_with, tag):
    worker = worker_with("conninfo only")
    assert worker.call("stats")["pool_max"] == 7
    worker.call("note", tag)
    assert worker.notes(tag) == [""]


@pytest.mark.parametrize("name", ["environment", "conninfo from environment"])
def test_from_the_environment(worker_with, name):
    worker = worker_with(name)
    assert worker.call("stats")["pool_max"] == 7
    assert worker.backends()


def test_from_djangos_settings(worker_with):
    worker = worker_with("namespace")
    assert worker.call("stats") == ["from-settings", 3]


def test_the_default_size_does_not_follow_hundreds_of_greenlets(worker_with):
    assert worker_with("many greenlets").call("stats")["pool_max"] == 20


def test_the_start_is_told_in_one_line(worker_with, admin):
    limit = admin.execute("show max_connections").fetchone()[0]
    line = worker_with("environment").process.wait_for_log(SETTINGS_LINE)
    assert line.groups() == ("4", "7", "1")
    assert f"max_connections={limit}" in line[0]
    assert "gevent, concurrency 10" in line[0]


@pytest.mark.parametrize(
    ("name", "processes", "asked"), [("too large", 1, 1000), ("too many processes", 2, 300)]
)
def test_a_worker_that_cannot_fit_warns(worker_with, name, processes, asked):
    worker = worker_with(name)
    warning = worker.process.wait_for_log(r"WARNING.*geventpg: .* can ask for (\d+) connections.*")
    assert warning[1] == str(asked)
    assert f"{processes} process(es)" in warning[0]
    assert worker.process.log.count("can ask for") == 1


def test_a_worker_that_fits_does_not_warn(worker_with):
    log = worker_with("environment").process.log
    assert "WARNING" not in "\n".join(line for line in log.splitlines() if "geventpg" in line)


def test_no_log_shows_a_password(workers, pg):
    password = conninfo_to_dict(pg.dsn).get("password")
    if password:
        assert not [name for name, w in workers.items() if f"password={password}" in w.process.log]
