"""The example project, in real workers of Celery and gunicorn."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from celery import Celery
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL, Identifier

from geventpg.testing.postgres import fetch_backends
from tests.support import wait_until
from tests.support.celery_worker import CeleryWorker
from tests.support.running_worker import returned_by
from tests.support.script import ROOT, clean_environment

PROJECT = ROOT / "examples" / "django_project"
VARIABLES = {"user": "PGUSER", "password": "PGPASSWORD", "host": "PGHOST", "port": "PGPORT"}


class Project:
    """The example with a database of its own, and what of it runs."""

    def __init__(self, pg: Any, redis_url: str, folder: Path) -> None:
        self.name = f"project_{uuid.uuid4().hex[:8]}"
        self.admin = pg.connect(application_name="geventpg-tests-project")
        self.admin.execute(SQL("create database {}").format(Identifier(self.name)))
        login = conninfo_to_dict(pg.dsn)
        self.environment = clean_environment(
            PYTHONPATH=os.pathsep.join([str(PROJECT), str(ROOT)]),
            PGDATABASE=self.name,
            PGAPPNAME=self.name,
            BROKER_URL=redis_url.replace("/0", "/6"),
            RESULT_BACKEND=redis_url.replace("/0", "/6"),
            **{variable: str(login[key]) for key, variable in VARIABLES.items() if key in login},
        )
        self.redis_url = self.environment["BROKER_URL"]
        self.folder = folder
        self.pg = pg

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=PROJECT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    def backends(self) -> list[Any]:
        return fetch_backends(self.admin, self.name)

    def worker(self, kind: str, concurrency: int, **env: str) -> CeleryWorker:
        worker = CeleryWorker(
            "project",
            self.folder / f"{kind}-{uuid.uuid4().hex[:8]}.log",
            pool=kind,
            concurrency=concurrency,
            env={**self.environment, **env},
            args=["-Q", f"{self.name}.{kind}"],
        )
        worker._env["PYTHONPATH"] = self.environment["PYTHONPATH"]
        return worker

    def close(self) -> None:
        self.admin.execute(
            SQL("drop database if exists {} with (force)").format(Identifier(self.name))
        )
        self.admin.close()


@pytest.fixture(scope="module")
def project(pg, redis_server, tmp_path_factory) -> Iterator[Project]:
    project = Project(pg, redis_server.url, tmp_path_factory.mktemp("project"))
    migrated = project.manage("migrate", "--verbosity", "0")
    assert migrated.returncode == 0, migrated.stdout + migrated.stderr
    yield project
    project.close()


@pytest.fixture
def query(project) -> Iterator[Callable[..., list[Any]]]:
    """Return a function that asks the project's database."""
    with project.pg.connect(dbname=project.name, application_name="geventpg-tests-query") as conn:
        yield lambda text, *params: conn.execute(text, params).fetchall()


# -- gunicorn -------------------------------------------------------------------------------------


@pytest.fixture
def gunicorn(project, tmp_path) -> Iterator[str]:
    """Run a real gunicorn with one gevent worker; return its address."""
    log = tmp_path / "gunicorn.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "gunicorn", "-k", "gevent", "-b", "127.0.0.1:0"),
                *("--worker-connections", "1000", "project.wsgi"),
            ],
            cwd=PROJECT,
            env={**project.environment, "HOME": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        found = wait_until(
            lambda: re.search(r"Listening at: (http://\S+)", log.read_text()), 20, 0.05
        )
        yield found[1]
    finally:
        server.terminate()
        try:
            server.wait(10)
        finally:
            server.kill()
            print(log.read_text())
    assert "Traceback" not in log.read_text()


def post(url: str, body: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, body.encode(), timeout=60) as response:  # noqa: S310
        answer: dict[str, Any] = json.load(response)
        return answer


@pytest.mark.hang_limit(120)
def test_gunicorn_serves_500_requests_at_once_on_20_connections(project, gunicorn, query):
    slow = [gevent.spawn(post, f"{gunicorn}/slow/", "20") for _ in range(400)]
    notes = [gevent.spawn(post, f"{gunicorn}/notes/", f"note {n}") for n in range(100)]
    most = 0
    while not all(job.ready() for job in [*slow, *notes]):
        most = max(most, len(project.backends()))
        gevent.sleep(0.02)
    gevent.joinall([*slow, *notes], raise_error=True)
    assert most <= 20
    assert len({job.value["backend"] for job in slow}) == 20
    assert query("select count(*) from notes_note where starts_with(text, 'note ')") == [(100,)]

    # And everything idle is ended, again and again, while requests go on.
    for _ in range(2):
        pids = [backend.pid for backend in project.backends()]
        wait_until(lambda: all(b.state == "idle" for b in project.backends()))
        project.admin.execute("select pg_terminate_backend(pid, 5000) from unnest(%s) pid", [pids])
        jobs = [gevent.spawn(post, f"{gunicorn}/notes/", "after") for _ in range(40)]
        gevent.joinall(jobs, raise_error=True)
    assert query("select count(*) from notes_note where text = 'after'") == [(80,)]

    before = {backend.pid for backend in project.backends()}
    drained = project.manage("geventpg", "drain", "--rest", "0.1")
    assert drained.returncode == 0, drained.stdout + drained.stderr
    assert re.search(r"[1-9]\d* session\(s\) ended, 0 still at work", drained.stdout)
    assert post(f"{gunicorn}/notes/", "drained")["id"]
    assert not before & {backend.pid for backend in project.backends()}


# -- Celery ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["gevent", "prefork"])
def worker(request, project) -> Iterator[tuple[str, CeleryWorker]]:
    kind = request.param
    running = project.worker(kind, 50 if kind == "gevent" else 2)
    running.start()
    yield kind, running
    running.stop("kill")
    print(running.log)


@pytest.fixture
def client(project):
    with Celery(broker=project.redis_url, backend=project.redis_url, set_as_current=False) as app:
        yield app


def test_fifty_tasks_keep_their_backends_and_orm_and_get_conn_share_them(project, client, worker):
    kind, _ = worker
    queue = f"{project.name}.{kind}"
    sent = [client.send_task("notes.tasks.where", queue=queue) for _ in range(50)]
    answers = returned_by(sent, 20)
    assert all(orm == plain for _, orm, plain in answers)
    # None of the sessions was closed, as Celery does it with Django's own pool after every task.
    open_now = {backend.pid for backend in project.backends()}
    assert {orm for _, orm, _ in answers} <= open_now
    assert len({process for process, _, _ in answers}) == (2 if kind == "prefork" else 1)
    assert len(open_now) <= 20


def test_in_a_task_orm_and_get_conn_commit_and_roll_back_together(project, client, worker, query):
    kind, _ = worker
    queue = f"{project.name}.{kind}"
    ((note,),) = query("insert into notes_note (text) values ('a b c') returning id")
    count = client.send_task("notes.tasks.count_words", [note], queue=queue)
    assert count.get(timeout=20) == 3
    assert query("select words from notes_note where id = %s", note) == [(3,)]
    ((empty,),) = query("insert into notes_note (text) values ('') returning id")
    with pytest.raises(ValueError, match="an empty note"):
        client.send_task("notes.tasks.count_words", [empty], queue=queue).get(timeout=20)
    assert query("select words from notes_note where id = %s", empty) == [(None,)]
