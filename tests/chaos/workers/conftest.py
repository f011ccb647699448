"""Real Celery workers, as the tests of the integration have them, full of tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.celery_integration.conftest import client, make_worker, own_worker, tag, work_admin
from tests.chaos.workers.crowd import CONNECTIONS, Crowd
from tests.support.running_worker import RunningWorker

__all__ = ["client", "make_worker", "own_worker", "tag", "work_admin"]

# A commit of a row of phase_commits takes as long as the row says.
TABLES = """
    drop table if exists phase_rows, phase_commits;
    create table phase_rows (tag text);
    create table phase_commits (seconds float);
    create or replace function phase_commit() returns trigger language plpgsql as
        $$ begin perform pg_sleep(new.seconds); return null; end $$;
    create constraint trigger slow after insert on phase_commits
        deferrable initially deferred for each row execute function phase_commit();
    """


@pytest.fixture
def make_crowd(
    work_admin: Callable[[], Any],
    own_worker: Callable[..., RunningWorker],
    rng: random.Random,
    tag: str,
) -> Iterator[Callable[..., Crowd]]:
    """Return a function that starts a gevent worker of 100 greenlets and 10 connections.

    *env* is added to the worker's environment.
    """
    work_admin().execute(TABLES)
    crowds: list[Crowd] = []

    def make(**env: str) -> Crowd:
        worker = own_worker(
            app="tests.apps.phases",
            concurrency=100,
            env={"GEVENTPG_MAX_SIZE": str(CONNECTIONS), "GEVENTPG_TIMEOUT": "60", **env},
        )
        crowds.append(Crowd(worker, rng, tag))
        return crowds[-1]

    yield make
    for crowd in crowds:
        crowd.worker.process.stop("kill")
    work_admin().execute("drop table phase_rows, phase_commits")


@pytest.fixture
def crowd(make_crowd: Callable[..., Crowd]) -> Crowd:
    """Return the tasks of such a worker."""
    return make_crowd()
