"""Fixtures for all tests; each one's docstring says what it gives."""

from __future__ import annotations

import itertools
import os
import random
import re
import secrets
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from geventpg.testing import Backend, EmbeddedPostgres, TcpProxy
from geventpg.testing.postgres import fetch_backends
from tests.plugin_programs import is_allowed_in_ci
from tests.support.celery_worker import CeleryWorker
from tests.support.hang_guard import DEFAULT_LIMIT, hang_guard
from tests.support.invariants import PoolTracker, check_server
from tests.support.redis import RedisServer
from tests.support.server import ExternalServer, Server, end_backends

# Kept in the environment: the processes of pytest-xdist have the same.
SEED = os.environ.setdefault("GEVENTPG_TEST_SEED", str(secrets.randbelow(10**9)))
EXTERNAL_DSN = os.environ.get("GEVENTPG_TEST_DSN")
SKIPS_ARE_FAILURES = os.environ.get("CI", "").lower() in ("1", "true", "yes")

_test_numbers = itertools.count(1)
_call_report = pytest.StashKey[pytest.TestReport]()


# -- how tests run -------------------------------------------------------------------------------


def pytest_report_header(config: pytest.Config) -> str:
    server = "GEVENTPG_TEST_DSN" if EXTERNAL_DSN else "embedded"
    return f"geventpg: seed {SEED}, server {server}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[_call_report] = report
    if report.failed and "rng" in getattr(item, "fixturenames", ()):
        report.sections.append(("seed", f"repeat it with GEVENTPG_TEST_SEED={SEED}"))
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure where everything is expected to run (``CI=true``)."""
    if SKIPS_ARE_FAILURES and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if is_allowed_in_ci(reason):
            return
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with hang_guard(_hang_limit(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with hang_guard(_hang_limit(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with hang_guard(_hang_limit(item)):
        return (yield)


def _hang_limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("hang_limit")
    return float(marker.args[0]) if marker else DEFAULT_LIMIT


@pytest.fixture(autouse=True)
def invariants(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the pools that the test opened, and its backends, when everything else is torn down.

    A test that has failed is not checked: its first failure says more. What it left at work on
    the server is ended, which would be in the way of the tests after it.
    """
    uses_server = "dsn" in request.fixturenames
    server: Server | None = request.getfixturevalue("pg") if uses_server else None
    name: str = request.getfixturevalue("application_name") if uses_server else ""
    tracker = PoolTracker()
    with tracker.active():
        yield
    problems = tracker.check()
    report = request.node.stash.get(_call_report, None)
    if report is None or not report.passed:
        if server is not None:
            end_backends(server, name)
        return
    if request.node.get_closest_marker("no_invariants"):
        return
    if server is not None:
        problems += check_server(lambda: server.backends(name))
    assert not problems, "invariants are broken after the test:\n" + "\n".join(problems)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Return a generator seeded by GEVENTPG_TEST_SEED (or afresh) and the test's own name."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


# -- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def embedded_server() -> Iterator[EmbeddedPostgres]:
    """Start the session's own server; tests ask for ``pg`` or ``embedded_pg`` instead."""
    with EmbeddedPostgres(version=int(os.environ.get("GEVENTPG_TEST_VERSION", "16"))) as server:
        yield server


@pytest.fixture(scope="session")
def pg(request: pytest.FixtureRequest) -> Server:
    """Return the server: embedded, or the one that GEVENTPG_TEST_DSN names."""
    if EXTERNAL_DSN:
        return ExternalServer(EXTERNAL_DSN)
    server: EmbeddedPostgres = request.getfixturevalue("embedded_server")
    return server


@pytest.fixture
def embedded_pg(embedded_server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Return the embedded server for a test that stops, restarts or kills it.

    It is up again after the test. With GEVENTPG_TEST_DSN it is another server than ``pg``: such
    tests make their conninfo from ``embedded_pg.dsn``.
    """
    yield embedded_server
    embedded_server.start()


@pytest.fixture
def application_name(request: pytest.FixtureRequest) -> str:
    """Return the application_name of this test's connections, its own among all tests."""
    words = re.sub(r"[^a-zA-Z0-9_]+", "-", request.node.name)
    return f"{os.getpid()}.{next(_test_numbers)}.{words}"[:63].rstrip("-")


@pytest.fixture
def dsn(pg: Server, application_name: str) -> str:
    """Return a conninfo of the server whose application_name is this test's own."""
    return make_conninfo(pg.dsn, application_name=application_name)


@pytest.fixture
def admin(pg: Server) -> Iterator[psycopg.Connection[Any]]:
    """Return the superuser's plain autocommit connection, for looking at the server."""
    with pg.connect(application_name="geventpg-tests-admin") as conn:
        yield conn


@pytest.fixture
def backends(admin: psycopg.Connection[Any], application_name: str) -> Callable[[], list[Backend]]:
    """Return a function that gives this test's own backends, oldest first."""
    return lambda: fetch_backends(admin, application_name)


@pytest.fixture
def proxy(pg: Server) -> Iterator[TcpProxy]:
    """Return a running TCP proxy in front of the server: ``proxy.dsn(dsn)`` goes through it."""
    parameters = conninfo_to_dict(pg.dsn)
    host = str(parameters.get("hostaddr") or pg.host)
    if host.startswith("/"):
        pytest.skip("the proxy speaks TCP only: let GEVENTPG_TEST_DSN name a TCP host")
    with TcpProxy(host, pg.port) as running:
        yield running


# -- Celery --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Return a real Redis on a port of its own: ``redis_server.url``."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def celery_worker(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., CeleryWorker]]:
    """Return a function that starts a worker: ``celery_worker("tests.apps.x", pool="gevent")``.

    Its parameters are :class:`CeleryWorker`'s, and ``start=False`` only makes it. Workers are
    killed after the test; the log is shown if it failed.
    """
    pytest.importorskip("celery")
    workers: list[CeleryWorker] = []

    def factory(app: str, *, start: bool = True, **options: Any) -> CeleryWorker:
        worker = CeleryWorker(app, tmp_path / f"worker-{len(workers) + 1}.log", **options)
        workers.append(worker)
        if start:
            worker.start()
        return worker

    yield factory
    report = request.node.stash.get(_call_report, None)
    for worker in workers:
        if worker.launched:
            worker.stop("kill")
        if report is None or not report.passed:
            print(f"---- log of {worker.name}\n{worker.log}")
