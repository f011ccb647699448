"""Tasks that run where they are called: eagerly, applied, or called like a function."""

from __future__ import annotations

import gevent
import pytest
from celery import Celery

import geventpg
from celery_integration import install
from tests.support import wait_until


@pytest.fixture
def notes(admin):
    """Return a function that gives the committed notes."""
    admin.execute("drop table if exists eager_notes")
    admin.execute("create table eager_notes (note text unique deferrable initially deferred)")
    yield lambda: [n for (n,) in admin.execute("select note from eager_notes order by note")]
    admin.execute("drop table eager_notes")


@pytest.fixture
def app(dsn, notes):
    """Return an app with tasks, on the default pool."""
    geventpg.close_all()
    geventpg.configure(dsn, min_size=1, max_size=2, timeout=5)
    with Celery(broker="memory://", backend="cache+memory://", set_as_current=False) as app:
        yield install(app)
    geventpg.release_conn()
    geventpg.close_all()


def insert(note):
    geventpg.get_conn().execute("insert into eager_notes values (%s)", [note])


@pytest.fixture
def task(app):
    @app.task(
        name="task",
        bind=True,
        autoretry_for=(ZeroDivisionError,),
        default_retry_delay=0,
        shared=False,
    )
    def task(self, note, ending="return"):
        insert(note)
        if ending == "raise":
            raise RuntimeError("on purpose")
        if ending == "retry" and self.request.retries < 1:
            raise ZeroDivisionError
        if ending == "twice":
            insert(note)
        return geventpg.get_conn()

    return task


def nothing_is_held():
    stats = geventpg.get_pool().get_stats()
    return stats["pool_available"] == stats["pool_size"]


@pytest.fixture(params=["called", "applied", "always eager"])
def run(request, app, task):
    """Return a function that runs the task in one of three ways and returns its result."""
    if request.param == "called":
        return task
    if request.param == "applied":
        return lambda *args: task.apply(args, throw=True).get()
    app.conf.task_always_eager = True
    app.conf.task_eager_propagates = True
    return lambda *args: task.delay(*args).get()


def test_it_is_committed_when_it_returns(run, notes):
    run("a")
    assert notes() == ["a"]
    assert nothing_is_held()


def test_it_is_rolled_back_when_it_fails(run, notes):
    with pytest.raises(RuntimeError):
        run("a", "raise")
    assert notes() == []
    wait_until(nothing_is_held)


def test_a_commit_that_fails_is_its_failure(run, notes):
    with pytest.raises(Exception, match="unique constraint"):
        run("a", "twice")
    assert notes() == []
    wait_until(nothing_is_held)


def test_a_retry_runs_again_and_commits_once(app, task, notes):
    app.conf.task_always_eager = True
    task.delay("a", "retry").get()
    assert notes() == ["a"]
    with pytest.raises(ZeroDivisionError):
        task("b", "retry")  # a direct call is not retried
    assert notes() == ["a"]


def test_a_task_called_twice_in_a_greenlet_reuses_one_connection(run):
    assert run("a") is run("b")


def test_inside_a_block_it_joins_and_the_block_decides(run, notes):
    with geventpg.get_conn() as conn:
        assert run("a") is conn
        assert notes() == []
        assert conn.info.transaction_status.name == "INTRANS"
    assert notes() == ["a"]


def test_inside_a_block_that_fails_it_is_rolled_back(run, notes):
    with pytest.raises(ValueError, match="outer"), geventpg.get_conn():
        run("a")
        raise ValueError("outer")
    assert notes() == []


def test_with_a_connection_that_the_caller_holds_the_caller_decides(run, notes):
    insert("mine")
    run("theirs")
    assert notes() == []
    geventpg.get_conn().rollback()
    geventpg.release_conn()
    assert notes() == []


def test_inside_another_task_it_joins(app, run, notes):
    @app.task(name="outer", shared=False)
    def outer(ending):
        insert("outer")
        run("inner")
        assert notes() == []
        if ending == "raise":
            raise RuntimeError("outer")

    with pytest.raises(RuntimeError):
        outer("raise")
    assert notes() == []
    outer("return")
    assert notes() == ["inner", "outer"]


def test_tasks_defined_after_install_or_used_before_are_all_covered(dsn, notes):
    geventpg.close_all()
    geventpg.configure(dsn, min_size=1, max_size=2, timeout=5)
    with Celery("early", broker="memory://", set_as_current=False) as app:

        @app.task(name="early", shared=False)
        def early(note):
            insert(note)

        app.finalize()
        install(app)
        assert install(app) is app  # twice is once

        @app.task(name="late", shared=False)
        def late(note):
            insert(note)

        early("early")
        late("late")
        assert notes() == ["early", "late"]
    geventpg.close_all()


def test_greenlets_run_the_same_task_at_once_on_their_own_connections(task, notes):
    greenlets = [gevent.spawn(task, str(number)) for number in range(20)]
    gevent.joinall(greenlets, raise_error=True)
    assert len(notes()) == 20
    wait_until(nothing_is_held)
