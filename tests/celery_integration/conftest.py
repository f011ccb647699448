"""One worker of each kind is shared by all tests; a test that needs another starts it."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

pytest.importorskip("celery")

from celery import Celery
from psycopg.conninfo import make_conninfo

from tests.support.celery_worker import CeleryWorker
from tests.support.running_worker import RunningWorker
from tests.support.script import clean_environment
from tests.support.server import Server

TABLES = """
    drop table if exists work_links, work_fatal, work_notes;
    create table work_notes (id int generated always as identity primary key, tag text);
    create table work_links (tag text,
        target int references work_notes deferrable initially deferred);
    create table work_fatal (id int);
    create or replace function work_terminate() returns trigger language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()), pg_sleep(10); return null; end $$;
    create constraint trigger work_terminate after insert on work_fatal
        deferrable initially deferred for each row execute function work_terminate();
    """


@pytest.fixture(scope="session")
def work_admin(pg: Server) -> Iterator[Callable[[], psycopg.Connection[Any]]]:
    """Return a function that gives an open autocommit connection; the tables are there."""
    conns = [pg.connect(application_name="geventpg-tests-work")]
    conns[0].execute(TABLES)

    def admin() -> psycopg.Connection[Any]:
        try:
            conns[0].execute("select 1")
        except psycopg.OperationalError:  # a test has restarted the server
            conns[0].close()
            conns[0] = pg.connect(application_name="geventpg-tests-work")
        return conns[0]

    yield admin
    conns[0].close()


@pytest.fixture(scope="session")
def client(redis_server) -> Iterator[Celery]:
    """Return an app that sends tasks by name and reads results."""
    with Celery(broker=redis_server.url, backend=redis_server.url, set_as_current=False) as app:
        yield app


@pytest.fixture(scope="session")
def make_worker(
    pg: Server, redis_server, client, work_admin, tmp_path_factory
) -> Iterator[Callable[..., RunningWorker]]:
    """Return a function that makes a worker of ``tests.apps.work`` with everything around it.

    *conf* are Celery settings, *conninfo* changes parameters of the worker's connection string,
    *dsn* replaces it; what else there is goes to `CeleryWorker`.
    """
    started: list[CeleryWorker] = []
    logs = tmp_path_factory.mktemp("workers")

    def make(
        *,
        app: str = "tests.apps.work",
        pool: str = "gevent",
        start: bool = True,
        conf: dict[str, Any] | None = None,
        dsn: str | None = None,
        env: dict[str, str | None] | None = None,
        args: tuple[str, ...] = (),
        client: Celery = client,
        **options: Any,
    ) -> RunningWorker:
        name = f"{os.getpid()}.{uuid.uuid4().hex[:8]}.{pool}"
        dsn = make_conninfo(dsn or pg.dsn, application_name=name)
        environment = {
            "BROKER_URL": redis_server.url,
            "RESULT_BACKEND": redis_server.url,
            "GEVENTPG_CONNINFO": dsn,
            "APP_CONF": json.dumps(conf or {}),
            **(env or {}),
        }
        process = CeleryWorker(
            app,
            logs / f"{name}.log",
            pool=pool,
            env={k: v for k, v in environment.items() if v is not None},
            args=["-Q", name, *args],
            **options,
        )
        started.append(process)
        if start:
            process.start()
        return RunningWorker(process, client, name, dsn, work_admin)

    with pytest.MonkeyPatch.context() as patch:
        for variable in set(os.environ) - set(clean_environment()):
            patch.delenv(variable)
        yield make
    for process in started:
        if process.launched:
            process.stop("kill")


@pytest.fixture
def own_worker(
    make_worker: Callable[..., RunningWorker],
) -> Iterator[Callable[..., RunningWorker]]:
    """Like ``make_worker``, for one test: its workers are killed, and their logs shown."""
    workers: list[RunningWorker] = []

    def make(**options: Any) -> RunningWorker:
        launch = options.pop("start", True)
        worker = make_worker(start=False, **options)
        workers.append(worker)
        if launch:
            worker.process.start()
        return worker

    yield make
    for worker in workers:
        if worker.process.launched:
            worker.process.stop("kill")
        print(f"---- log of {worker.queue}\n{worker.process.log}")


@pytest.fixture(scope="session")
def shared_workers(make_worker) -> Callable[[str], RunningWorker]:
    """Return a function that gives the session's worker of a pool kind."""
    workers: dict[str, RunningWorker] = {}
    options: dict[str, dict[str, Any]] = {
        "gevent": {"concurrency": 100, "env": {"GEVENTPG_MAX_SIZE": "5"}, "args": ("-E",)},
        "prefork": {"concurrency": 2},
        "threads": {"concurrency": 4},
        "solo": {"concurrency": 1},
    }

    def get(kind: str) -> RunningWorker:
        if kind not in workers:
            workers[kind] = make_worker(pool=kind, **options[kind])
        return workers[kind]

    return get


@contextlib.contextmanager
def lent(worker: RunningWorker) -> Iterator[RunningWorker]:
    """Lend a shared worker to one test, which leaves nothing at work."""
    before = len(worker.process.log)
    try:
        yield worker
        worker.wait_until_quiet()
        assert worker.process.returncode is None
    finally:
        print(f"---- log of {worker.queue} during this test\n{worker.process.log[before:]}")


@pytest.fixture
def worker(shared_workers) -> Iterator[RunningWorker]:
    """Return a gevent worker of 100 greenlets with a pool of 5, shared with other tests."""
    with lent(shared_workers("gevent")) as running:
        yield running


@pytest.fixture(params=["gevent", "prefork", "threads", "solo"])
def any_worker(request, shared_workers) -> Iterator[RunningWorker]:
    """Return one worker of each kind, in turn."""
    with lent(shared_workers(request.param)) as running:
        yield running


@pytest.fixture
def tag() -> str:
    """Return what this test's notes begin with."""
    return uuid.uuid4().hex
