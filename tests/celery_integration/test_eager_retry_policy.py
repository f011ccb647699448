"""`retry_policy` where no worker is needed: eager tasks, annotations, what counts as passing."""

from __future__ import annotations

import psycopg
import pytest
from celery import Celery
from psycopg import errors

import geventpg
from celery_integration import install, retry_policy


@pytest.fixture
def app(dsn):
    """Return an app whose tasks use this process's own pool of one connection.

    Tasks are to be ``shared=False``: otherwise every app of this process gets them.
    """
    geventpg.configure(dsn, min_size=1, max_size=1, timeout=2)
    with Celery("eager", set_as_current=False) as app:
        yield install(app)
    geventpg.close_all()


@pytest.fixture
def notes(admin):
    """Make a table `notes`; return a function that returns what is in it."""
    admin.execute("drop table if exists notes")
    admin.execute("create table notes (note text)")
    yield lambda: [note for (note,) in admin.execute("select note from notes")]
    admin.execute("drop table notes")


def test_an_eager_task_is_run_again(app):
    tries = []

    @app.task(shared=False, **retry_policy(backoff=0))
    def work():
        tries.append(geventpg.get_conn().info.backend_pid)
        if len(tries) < 3:
            raise errors.SerializationFailure
        return "done"

    assert work.apply().get() == "done"
    assert len(tries) == 3


def test_a_task_that_gets_no_connection_in_time_is_run_again(app):
    pool = geventpg.get_pool()
    taken = pool.getconn()
    waited = []

    @app.task(bind=True, shared=False, **retry_policy(backoff=0))
    def work(self):
        waited.append(self.request.retries)
        if len(waited) == 2:
            pool.putconn(taken)
        return geventpg.get_conn().execute("select 1").fetchone()

    assert work.apply().get() == (1,)
    assert waited == [0, 1]


@pytest.mark.parametrize(
    "error", [geventpg.CommitUnknown, geventpg.ConnectRejected, errors.QueryCanceled, OSError]
)
def test_what_does_not_pass_or_is_not_known_is_final(app, error):
    tries = []

    @app.task(shared=False, **retry_policy(backoff=0))
    def work():
        tries.append(1)
        raise error("no")

    with pytest.raises(error):
        work.apply().get()
    assert len(tries) == 1


def test_one_line_of_configuration_is_for_all_tasks(app):
    app.conf.task_annotations = {"*": retry_policy(max_retries=1, backoff=0)}
    tries = []

    @app.task(shared=False)
    def work():
        tries.append(1)
        raise errors.DeadlockDetected("again")

    with pytest.raises(errors.DeadlockDetected):
        work.apply().get()
    assert len(tries) == 2


def test_an_eager_task_inside_the_callers_transaction_is_not_run_again(app, notes):
    @app.task(shared=False, **retry_policy(backoff=0))
    def work():
        geventpg.get_conn().execute("insert into notes values ('lost')")
        raise errors.SerializationFailure("outer's")

    for call in (work, lambda: work.apply(throw=True)):
        with pytest.raises(errors.SerializationFailure), geventpg.get_conn():
            call()
    assert notes() == []


def test_a_task_that_is_called_as_a_function_is_not_run_again(app):
    @app.task(shared=False, **retry_policy(backoff=0))
    def work():
        raise errors.SerializationFailure("yours")

    with pytest.raises(psycopg.Error, match="yours"):
        work()
