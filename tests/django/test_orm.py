"""The ORM under gevent: one pool for all greenlets, and what they take comes back."""

from __future__ import annotations

import gevent
import pytest
from django.db import DatabaseError, close_old_connections, connection, connections, transaction
from gevent.event import Event

import geventpg
from geventpg import Pool
from tests.django.conftest import pool_of
from tests.django.shelf.models import Author, Book
from tests.support import wait_until
from tests.support.pools import backend_pid, counts


def in_greenlet(function, *args):
    """Return what *function* returns in a greenlet of its own."""
    return gevent.spawn(function, *args).get()


def everything_is_back(size=None):
    def back():
        now = counts(pool_of())
        return now.in_use == 0 and now.waiting == 0 and (size is None or now.idle == size)

    wait_until(back, message="all connections are idle in the pool")


def test_the_orm_works_on_a_pool_of_greenlets(orm, backends):
    ursula = Author.objects.create(name="Ursula")
    Book.objects.bulk_create([Book(title=str(n), author=ursula) for n in range(5)])
    assert Book.objects.filter(author__name="Ursula").count() == 5
    assert isinstance(orm.pool, Pool)
    assert orm.pool is geventpg.get_pool("default")
    assert len(backends()) == 1


def test_two_hundred_greenlets_share_three_connections(orm, backends):
    def work(number):
        Author.objects.create(name=f"author {number}")
        with transaction.atomic():
            found = Author.objects.select_for_update().get(name=f"author {number}")
            with connection.cursor() as cursor:
                cursor.execute("select pg_sleep(0.005)")  # so that it is worth a third one
        close_old_connections()
        return found.pk

    jobs = [gevent.spawn(work, number) for number in range(200)]
    gevent.joinall(jobs, raise_error=True)
    assert len({job.value for job in jobs}) == 200
    assert len(backends()) == 3
    everything_is_back()


def test_a_greenlet_that_ends_without_closing_gives_its_connection_back(orm):
    for number in range(10):
        in_greenlet(lambda n=number: Author.objects.create(name=str(n)))
    everything_is_back()
    assert Author.objects.count() == 10


@pytest.mark.parametrize("end", ["killed", "timed out", "failed"])
def test_a_greenlet_that_ends_in_a_transaction_leaves_nothing(orm, admin, end):
    begun = Event()

    def work():
        with transaction.atomic():
            Author.objects.create(name="lost")
            begun.set()
            if end == "failed":
                raise ArithmeticError
            with (
                gevent.Timeout(0.05 if end == "timed out" else None),
                connection.cursor() as cursor,
            ):
                cursor.execute("select pg_sleep(60)")

    job = gevent.Greenlet(work)
    job.start()
    begun.wait()
    if end == "killed":
        gevent.sleep(0.01)
        job.kill()
    job.join()
    everything_is_back()
    assert not Author.objects.exists()
    running = "select count(*) from pg_stat_activity where query like 'select pg_sleep(60%'"
    assert admin.execute(f"{running} and state = 'active'").fetchone() == (0,)


def test_a_killed_greenlet_in_the_queue_of_the_pool_loses_nothing(orm):
    holding = [orm.copy() for _ in range(3)]
    for wrapper in holding:
        wrapper.connect()
    waiting = [gevent.spawn(Author.objects.count) for _ in range(5)]
    wait_until(lambda: counts(pool_of()).waiting == 5)
    gevent.killall(waiting)
    for wrapper in holding:
        wrapper.close()
    everything_is_back(size=3)
    assert Author.objects.count() == 0


def test_every_wrapper_has_a_connection_of_its_own(orm, backends):
    orm.ensure_connection()
    copies = [orm.copy() for _ in range(2)]
    for wrapper in copies:
        wrapper.ensure_connection()
    assert len({backend_pid(w.connection) for w in [orm, *copies]}) == 3
    with pytest.raises(geventpg.PoolTimeout):
        orm.copy().check_out_within(0.05)
    for wrapper in copies:
        wrapper.close()
    everything_is_back_but_one = counts(pool_of())
    assert everything_is_back_but_one.in_use == 1


def test_a_wrapper_is_not_for_another_greenlet(orm):
    orm.ensure_connection()
    with pytest.raises(DatabaseError, match="can only be used in that same"):
        in_greenlet(orm.cursor)
    orm.inc_thread_sharing()
    try:
        assert in_greenlet(lambda: orm.cursor().execute("select 1").fetchone()) == (1,)
    finally:
        orm.dec_thread_sharing()


def test_a_wrapper_that_greenlets_share_outlives_the_one_that_made_it(orm):
    def work():
        wrapper = connections["default"]
        wrapper.inc_thread_sharing()
        wrapper.ensure_connection()
        return wrapper

    wrapper = in_greenlet(work)
    assert wrapper.cursor().execute("select 1").fetchone() == (1,)
    wrapper.close()
    everything_is_back()


def test_closing_returns_to_the_pool_and_the_next_use_takes_again(orm):
    orm.ensure_connection()
    pid = backend_pid(orm.connection)
    connections.close_all()
    everything_is_back(size=1)
    orm.ensure_connection()
    assert backend_pid(orm.connection) == pid


def test_a_connection_closed_inside_a_transaction_is_rolled_back_before_others_get_it(orm):
    with pytest.raises(DatabaseError), transaction.atomic():
        Author.objects.create(name="lost")
        connection.close()
        Author.objects.count()
    everything_is_back()
    assert not Author.objects.exists()


def test_who_takes_a_connection_from_the_pool_itself_finds_it_in_autocommit(orm):
    with transaction.atomic():
        Author.objects.count()
        connection.close()
    everything_is_back(size=1)
    with pool_of().connection() as conn:
        assert conn.autocommit


def test_ending_every_idle_backend_fails_no_query(orm, admin, backends):
    def work():
        Author.objects.count()
        close_old_connections()

    for _ in range(3):
        gevent.joinall([gevent.spawn(work) for _ in range(6)], raise_error=True)
        admin.execute(
            "select pg_terminate_backend(pid, 5000) from unnest(%s) pid",
            [[backend.pid for backend in backends()]],
        )
    gevent.joinall([gevent.spawn(work) for _ in range(6)], raise_error=True)


def test_an_exhausted_pool_is_djangos_operational_error(orm, database):
    database(pool={"min_size": 0, "max_size": 1, "timeout": 0.05})
    copy = connections["default"].copy()
    copy.connect()
    with pytest.raises(DatabaseError, match="couldn't get a connection"):
        Author.objects.count()
    copy.close()
