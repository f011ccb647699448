"""``get_conn(alias)`` and the ORM: one connection for each greenlet, and one transaction."""

from __future__ import annotations

import gevent
import psycopg
import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError

import geventpg
from geventpg.registry.scope import Scope
from tests.django.conftest import pool_of
from tests.django.shelf.models import Author, Book
from tests.support.pools import backend_pid, counts

INSERT = "insert into shelf_author (name) values (%s)"


def names():
    return sorted(Author.objects.values_list("name", flat=True))


def committed(admin):
    return [n for (n,) in admin.execute("select name from shelf_author order by name").fetchall()]


def test_get_conn_gives_the_orms_connection_in_either_order(orm, backends):
    first = geventpg.get_conn("default")
    orm.ensure_connection()
    assert orm.connection is first
    connection.close()
    orm.ensure_connection()
    assert geventpg.get_conn("default") is orm.connection
    assert len(backends()) == 1


def test_a_pool_of_one_never_makes_a_greenlet_wait_for_itself(orm, database):
    database(pool={"min_size": 0, "max_size": 1, "timeout": 1})
    with geventpg.get_conn("default") as conn:
        conn.execute(INSERT, ["a"])
        with transaction.atomic():
            Author.objects.create(name="b")
            geventpg.get_conn("default").execute(INSERT, ["c"])
    assert names() == ["a", "b", "c"]


def test_a_with_block_is_an_atomic_block(orm, admin):
    done = []
    with geventpg.get_conn("default") as conn:
        conn.execute(INSERT, ["a"])
        Author.objects.create(name="b")
        transaction.on_commit(lambda: done.append(committed(admin)))
        assert committed(admin) == []
    assert done == [["a", "b"]]


def test_a_with_block_that_fails_takes_the_orms_work_along(orm, admin):
    with pytest.raises(ArithmeticError), geventpg.get_conn("default") as conn:
        Author.objects.create(name="a")
        conn.execute(INSERT, ["b"])
        raise ArithmeticError
    assert committed(admin) == []


def test_a_with_block_inside_an_atomic_block_is_a_savepoint_of_it(orm, admin):
    with transaction.atomic():
        Author.objects.create(name="kept")
        with pytest.raises(ArithmeticError), geventpg.get_conn("default") as conn:
            conn.execute(INSERT, ["lost"])
            raise ArithmeticError
        with geventpg.get_conn("default") as conn:
            conn.execute(INSERT, ["too"])
        assert committed(admin) == []
    assert committed(admin) == ["kept", "too"]


def test_a_connection_that_only_get_conn_wanted_goes_back_at_the_end_of_the_block(orm):
    with geventpg.get_conn("default") as conn:
        conn.execute("select 1")
        assert counts(pool_of()).in_use == 1
    assert counts(pool_of()).in_use == 0
    assert orm.connection is None


def test_a_connection_that_the_orm_has_stays_with_it(orm):
    orm.ensure_connection()
    with geventpg.get_conn("default") as conn:
        conn.execute("select 1")
    assert orm.connection is conn


def test_outside_blocks_and_tasks_the_connection_is_in_djangos_autocommit(orm, admin):
    geventpg.get_conn("default").execute(INSERT, ["a"])
    assert committed(admin) == ["a"]
    geventpg.release_conn("default")
    assert orm.connection is None


def test_release_conn_is_refused_inside_an_atomic_block(orm):
    with transaction.atomic():
        Author.objects.create(name="a")
        with pytest.raises(psycopg.ProgrammingError, match="inside"):
            geventpg.release_conn("default")
    assert names() == ["a"]


@pytest.mark.parametrize("block", ["with get_conn()", "transaction()"])
def test_a_block_whose_connection_django_closes_fails_and_touches_no_other_greenlets(
    orm, admin, block
):
    orm.ensure_connection()
    opened = geventpg.get_conn if block == "with get_conn()" else geventpg.transaction
    with pytest.raises(psycopg.Error), opened("default") as conn:
        conn.execute(INSERT, ["lost"])
        connection.close()
        other = gevent.spawn(lambda: geventpg.get_conn("default") is conn).get()
        assert not other
    assert conn.closed
    assert committed(admin) == []
    assert counts(pool_of()).in_use == 0
    Author.objects.create(name="after")
    assert committed(admin) == ["after"]


def test_a_statement_whose_failure_was_handled_is_no_silent_rollback(orm, admin):
    with (
        pytest.raises(psycopg.errors.InFailedSqlTransaction),
        geventpg.get_conn("default") as conn,
    ):
        conn.execute(INSERT, ["a"])
        with pytest.raises(psycopg.errors.DivisionByZero):
            conn.execute("select 1 / 0")
    assert committed(admin) == []


# -- a unit of work, such as a Celery task --------------------------------------------------------


def test_in_a_task_the_orm_alone_keeps_djangos_rules(orm, admin):
    with Scope():
        Author.objects.create(name="a")
        assert committed(admin) == ["a"]


def test_in_a_task_get_conn_and_what_the_orm_does_after_it_are_one_transaction(orm, admin):
    done = []
    with Scope():
        geventpg.get_conn("default").execute(INSERT, ["a"])
        Author.objects.create(name="b")
        transaction.on_commit(lambda: done.append(committed(admin)))
        with transaction.atomic():
            Author.objects.create(name="c")
        assert committed(admin) == []
    assert committed(admin) == ["a", "b", "c"]
    assert done == [["a", "b", "c"]]
    assert counts(pool_of()).in_use == 0


@pytest.mark.parametrize("orm_first", [True, False])
def test_a_task_that_fails_rolls_both_back(orm, admin, orm_first):
    if orm_first:
        orm.ensure_connection()
    with pytest.raises(ArithmeticError), Scope():
        geventpg.get_conn("default").execute(INSERT, ["a"])
        Author.objects.create(name="b")
        raise ArithmeticError
    assert committed(admin) == []
    assert not connection.in_atomic_block
    assert connection.get_autocommit()


def test_a_commit_that_fails_fails_the_task(orm, admin):
    # Django makes its foreign keys deferred: only the commit refuses this.
    with pytest.raises(Exception, match="violates foreign key"), Scope():
        geventpg.get_conn("default")
        Book.objects.create(title="x", author_id=-1)
    assert committed(admin) == []


def test_a_task_whose_connection_was_closed_inside_its_transaction_fails(orm, admin):
    with pytest.raises(psycopg.InterfaceError, match="closed inside"), Scope():
        geventpg.get_conn("default").execute(INSERT, ["a"])
        connection.close()
    assert committed(admin) == []
    assert names() == []


def test_a_task_that_is_marked_for_rollback_fails(orm, admin):
    with pytest.raises(TransactionManagementError), Scope():
        geventpg.get_conn("default").execute(INSERT, ["a"])
        transaction.set_rollback(True)
    assert committed(admin) == []


def test_release_conn_in_a_task_rolls_back_and_a_new_transaction_can_follow(orm, admin, caplog):
    with Scope():
        geventpg.get_conn("default").execute(INSERT, ["lost"])
        geventpg.release_conn("default")
        geventpg.get_conn("default").execute(INSERT, ["kept"])
    assert committed(admin) == ["kept"]
    assert "rolled back" in caplog.text


def test_an_eager_task_commits_at_its_own_end_with_a_connection_of_the_request(orm, admin):
    orm.ensure_connection()
    with Scope():
        geventpg.get_conn("default").execute(INSERT, ["a"])
    assert committed(admin) == ["a"]
    assert orm.connection is not None


def test_an_eager_task_inside_an_atomic_block_is_part_of_it(orm, admin):
    with transaction.atomic():
        with Scope():
            geventpg.get_conn("default").execute(INSERT, ["a"])
        assert committed(admin) == []
    assert committed(admin) == ["a"]


def test_two_databases_in_one_task_roll_back_together(orm, database, admin):
    database("other")
    with pytest.raises(Exception, match="violates foreign key"), Scope():
        geventpg.get_conn("default")
        Book.objects.create(title="x", author_id=-1)
        geventpg.get_conn("other").execute(INSERT, ["lost"])
    assert committed(admin) == []


# -- transactions that are run again --------------------------------------------------------------


def test_the_orm_takes_part_in_a_transaction_of_geventpg(orm, admin):
    with geventpg.transaction("default") as conn:
        conn.execute(INSERT, ["a"])
        with transaction.atomic():
            Author.objects.create(name="b")
        assert committed(admin) == []
    assert committed(admin) == ["a", "b"]
    assert connection.get_autocommit()


def test_a_transaction_of_geventpg_inside_an_atomic_block_is_a_savepoint(orm, admin):
    with transaction.atomic():
        with geventpg.transaction("default") as conn:
            conn.execute(INSERT, ["a"])
        assert committed(admin) == []
        transaction.set_rollback(True)
    assert committed(admin) == []


def test_orm_transactions_are_run_again_after_serialization_failures(orm):
    Author.objects.create(name="0")
    attempts = []

    def increment(_conn):
        attempts.append(1)
        author = Author.objects.get()
        gevent.sleep(0.01)
        author.name = str(int(author.name) + 1)
        author.save()

    def work():
        geventpg.run_in_transaction(
            increment,
            pool="default",
            isolation_level=psycopg.IsolationLevel.SERIALIZABLE,
            max_attempts=30,
        )

    gevent.joinall([gevent.spawn(work) for _ in range(3)], raise_error=True)
    assert names() == ["3"]
    assert len(attempts) > 3


def test_an_orm_transaction_whose_connection_was_lost_is_run_again_on_another(orm, admin):
    pids = []

    def work(conn):
        Author.objects.create(name=f"attempt {len(pids)}")
        pids.append(backend_pid(conn))
        if len(pids) == 1:
            admin.execute("select pg_terminate_backend(%s, 5000)", [pids[0]])
        return Author.objects.count()

    assert geventpg.run_in_transaction(work, pool="default") == 1
    assert len(set(pids)) == 2
    assert names() == ["attempt 1"]
