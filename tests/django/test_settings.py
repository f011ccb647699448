"""What DATABASES says, and what Django promises about it."""

from __future__ import annotations

import asyncio
import traceback

import django
import gevent
import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.core.handlers.base import BaseHandler
from django.db import DatabaseError, connection, connections, transaction
from django.db.backends.postgresql.base import ServerBindingCursor
from django.test.utils import override_settings
from gevent.event import Event
from psycopg.conninfo import make_conninfo

import geventpg
from geventpg import Pool
from geventpg.testing import PgBouncer
from tests.django.conftest import pool_of
from tests.django.shelf.models import Author
from tests.support import wait_until
from tests.support.pools import backend_pid, counts


def ask(wrapper, query, *params):
    with wrapper.cursor() as cursor:
        cursor.execute(query, params)
        return cursor.fetchone()[0]


# -- OPTIONS["pool"] ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "named"),
    [
        ({"max_sise": 3}, "max_sise"),
        ({"min_size": 5, "max_size": 3}, "max_size"),
        ({"timeout": "soon"}, "timeout"),
        ({"keepalive_interval": -1}, "keepalive_interval"),
        ({"kwargs": {}}, "kwargs"),
        ({"open": True}, "open"),
        ("yes", "pool"),
    ],
)
def test_a_bad_pool_option_is_named_when_django_first_looks_at_the_alias(database, pool, named):
    with pytest.raises(ImproperlyConfigured, match=named) as raised:
        database(pool=pool)
    assert "DATABASES['default']['OPTIONS']['pool']" in str(raised.value)


def test_a_pool_is_the_default_and_true_is_the_same(database):
    assert (database(pool=True).pool.min_size, pool_of().max_size) == (4, 4)
    del connections.settings["default"]["OPTIONS"]["pool"]
    assert isinstance(connections["default"].pool, Pool)


def test_all_options_of_geventpg_are_options_here(database):
    pool = database(pool={"min_size": 0, "max_size": 7, "leak_threshold": 60}).pool
    assert (pool.max_size, pool.leak_threshold, pool.name) == (7, 60, "default")


def test_without_a_pool_every_greenlet_has_a_connection_of_its_own(orm, database, backends):
    wrapper = database(pool=False)
    assert wrapper.pool is None
    wrapper.ensure_connection()
    assert isinstance(wrapper.connection, geventpg.Connection)
    with pytest.raises(geventpg.NotConfigured):
        geventpg.get_pool("default")
    wrapper.close()
    wait_until(lambda: not backends())


def test_the_users_own_configure_runs_after_djangos(database):
    def configure(conn):
        conn.execute("set application_name = 'mine'")

    wrapper = database(pool={"min_size": 0, "max_size": 1, "configure": configure})
    assert ask(wrapper, "show application_name") == "mine"


def test_persistent_connections_are_refused_with_a_pool(database):
    wrapper = database(CONN_MAX_AGE=60)
    with pytest.raises(ImproperlyConfigured, match=r"doesn't support persistent.*CONN_MAX_AGE"):
        wrapper.ensure_connection()


def test_health_checks_make_a_round_trip_for_every_checkout(database, admin):
    unchecked = database()
    unchecked.ensure_connection()
    assert unchecked.pool.stats().validate.count == 0
    unchecked.close()
    wrapper = database(CONN_HEALTH_CHECKS=True)
    wrapper.ensure_connection()
    assert wrapper.pool.stats().validate.count == 1
    ended = backend_pid(wrapper.connection)
    wrapper.close()
    admin.execute("select pg_terminate_backend(%s, 5000)", [ended])
    assert ask(wrapper, "select 1") == 1


def test_atomic_requests_roll_a_failed_view_back(orm, database):
    database(ATOMIC_REQUESTS=True)

    def view(request, fail):
        Author.objects.create(name="a" if fail else "b")
        if fail:
            raise ArithmeticError

    atomic_view = BaseHandler().make_view_atomic(view)
    with pytest.raises(ArithmeticError):
        atomic_view(None, fail=True)
    atomic_view(None, fail=False)
    assert [author.name for author in Author.objects.all()] == ["b"]


def test_a_refused_password_is_reported_at_once_and_not_shown(database, dsn):
    secret = "not the password"
    database(conninfo=make_conninfo(dsn, password=secret))
    with pytest.raises(DatabaseError, match="password authentication failed") as raised:
        connection.ensure_connection()
    ours = [
        frame
        for frame in traceback.walk_tb(raised.value.__traceback__)
        if "/geventpg/" in frame[0].f_code.co_filename
    ]
    assert ours
    assert not any(secret in repr(frame.f_locals) for frame, _ in ours)
    connection.close_pool()


# -- sessions -------------------------------------------------------------------------------------


def test_the_time_zone_is_that_of_the_alias_on_every_connection(database):
    wrapper = database(TIME_ZONE="Africa/Nairobi")
    copies = [wrapper.copy() for _ in range(2)]
    assert [ask(w, "show timezone") for w in [wrapper, *copies]] == ["Africa/Nairobi"] * 3
    for copy in copies:
        copy.close()


def test_a_changed_time_zone_makes_another_pool(database, orm):
    before = orm.pool
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        connection.close()
        assert ask(connection, "show timezone") == "Asia/Tokyo"
        assert orm.pool is not before
    connection.close()
    assert ask(connection, "show timezone") == "UTC"


def test_a_role_is_assumed_by_every_connection(database, admin):
    admin.execute("drop role if exists shelf_reader")
    admin.execute("create role shelf_reader")
    try:
        wrapper = database(options={"assume_role": "shelf_reader"})
        assert ask(wrapper, "select current_user::text") == "shelf_reader"
        wrapper.close()
    finally:
        wrapper.close_pool()
        admin.execute("drop role shelf_reader")


def test_the_isolation_level_is_that_of_the_alias(database):
    wrapper = database(options={"isolation_level": psycopg.IsolationLevel.SERIALIZABLE})
    with transaction.atomic():
        assert ask(wrapper, "show transaction_isolation") == "serializable"
    bad = database(options={"isolation_level": 17})
    with pytest.raises(ImproperlyConfigured, match="17"):
        bad.ensure_connection()


def test_a_copy_with_another_isolation_level_does_not_leave_it_to_the_next(orm):
    copy = orm.copy()
    copy.settings_dict["OPTIONS"]["isolation_level"] = psycopg.IsolationLevel.SERIALIZABLE
    copy.ensure_connection()
    pid = backend_pid(copy.connection)
    copy.close()
    with transaction.atomic():
        assert backend_pid(orm.connection) == pid
        assert ask(orm, "show transaction_isolation") == "read committed"


def test_a_copy_of_another_database_does_not_get_a_connection_of_this_one(orm, backends):
    orm.ensure_connection()
    copy = orm.copy()
    copy.settings_dict["NAME"] = "template1"
    pool = pool_of()
    assert ask(copy, "select current_database()::text") == "template1"
    assert counts(pool).in_use == 1
    assert pool_of() is pool
    copy.close()


def test_autocommit_off_is_kept_for_the_alias(orm, database, admin):
    database(AUTOCOMMIT=False)
    Author.objects.create(name="a")
    assert admin.execute("select count(*) from shelf_author").fetchone() == (0,)
    transaction.commit()
    assert admin.execute("select count(*) from shelf_author").fetchone() == (1,)
    transaction.set_autocommit(True)


# -- server-side cursors and poolers --------------------------------------------------------------


def cursors_of(wrapper):
    with wrapper.cursor() as cursor:
        cursor.execute("select count(*) from pg_cursors where name like '_django%'")
        return cursor.fetchone()[0]


def test_iterators_use_server_side_cursors_on_a_direct_connection(orm):
    Author.objects.bulk_create([Author(name=str(n)) for n in range(10)])
    rows = Author.objects.order_by("pk").iterator(chunk_size=2)
    next(rows)
    assert cursors_of(orm) == 1
    assert len(list(rows)) == 9
    assert cursors_of(orm) == 0


@pytest.fixture(scope="module")
def pooled_dsn(pg):
    """Return a conninfo of the server behind PgBouncer in transaction mode."""
    with PgBouncer(pg.dsn, pool_mode="transaction", pool_size=3) as bouncer:
        yield bouncer.dsn


class Preparing(ServerBindingCursor):
    """A project's own cursor, which prepares and does not ask for poolers."""


@pytest.mark.parametrize("cursor", [{"server_side_binding": True}, {"cursor_factory": Preparing}])
def test_behind_a_pooler_iterators_do_without_and_nothing_is_prepared(
    orm, database, pooled_dsn, cursor
):
    database(
        conninfo=pooled_dsn,
        pool={"min_size": 0, "max_size": 10},
        options={"prepare_threshold": 0, **cursor},
    )
    Author.objects.bulk_create([Author(name=str(n)) for n in range(20)])

    def work():
        for _ in range(5):
            assert len(list(Author.objects.iterator(chunk_size=2))) == 20
            assert Author.objects.filter(name__gt="1").exists()
            connection.close()

    jobs = [gevent.spawn(work) for _ in range(10)]
    gevent.joinall(jobs, raise_error=True)


def test_a_statement_that_was_lost_is_executed_again(orm, database):
    wrapper = database(options={"prepare_threshold": 0, "server_side_binding": True})
    for _ in range(2):
        assert Author.objects.filter(name="a").count() == 0
        with wrapper.cursor() as cursor:
            cursor.execute("do $$ begin execute 'deallocate all'; end $$")


def test_server_side_cursors_can_be_asked_for_behind_a_pooler(orm, database, pooled_dsn):
    wrapper = database(
        conninfo=pooled_dsn,
        pool={"min_size": 0, "max_size": 1},
        DISABLE_SERVER_SIDE_CURSORS=False,
    )
    Author.objects.bulk_create([Author(name=str(n)) for n in range(10)])
    rows = Author.objects.iterator(chunk_size=2)
    next(rows)
    assert cursors_of(wrapper) == 1
    assert len(list(rows)) == 9


def test_inside_a_transaction_they_are_used_behind_a_pooler_too(orm, database, pooled_dsn):
    wrapper = database(conninfo=pooled_dsn, pool={"min_size": 0, "max_size": 1})
    Author.objects.bulk_create([Author(name=str(n)) for n in range(10)])
    with transaction.atomic():
        rows = Author.objects.iterator(chunk_size=2)
        next(rows)
        assert cursors_of(wrapper) == 1
        assert len(list(rows)) == 9


# -- test databases -------------------------------------------------------------------------------


def test_a_test_database_is_made_cloned_and_dropped_while_pools_are_open(database, admin, pg):
    wrapper = database(pool={"min_size": 2, "max_size": 4}, TEST=test_settings("shelf_tests"))
    name = wrapper.settings_dict["NAME"]
    wrapper.ensure_connection()
    older = {"serialize": False} if django.VERSION < (6,) else {}
    wrapper.creation.create_test_db(verbosity=0, autoclobber=True, **older)
    asleep = gevent.spawn(lambda: ask(connections["default"], "select pg_sleep(60)"))
    try:
        assert ask(wrapper, "select current_database()::text") == "shelf_tests"
        wait_until(lambda: counts(pool_of()).in_use == 2)
        wrapper.creation.clone_test_db("1", verbosity=0, autoclobber=True)
        assert isinstance(asleep.get(), DatabaseError)
    except DatabaseError:
        pass
    finally:
        wrapper.ensure_connection()
        still = gevent.spawn(lambda: ask(connections["default"], "select pg_sleep(60)"))
        wait_until(lambda: counts(pool_of()).in_use == 2)
        wrapper.creation.destroy_test_db(old_database_name=name, verbosity=0, suffix="1")
        wrapper.settings_dict["NAME"] = "shelf_tests"
        wrapper.creation.destroy_test_db(old_database_name=name, verbosity=0)
        gevent.joinall([asleep, still], timeout=5)
    left = "select datname from pg_database where datname like 'shelf_tests%'"
    assert admin.execute(left).fetchall() == []
    assert ask(wrapper, "select current_database()::text") == name


def test_settings(name):
    return {"NAME": name, "CHARSET": None, "COLLATION": None, "MIGRATE": False, "MIRROR": None}


test_settings.__test__ = False


# -- async ----------------------------------------------------------------------------------------


def test_async_callers_are_refused_where_django_refuses_them(orm):
    async def count():
        return Author.objects.count()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(count())


def test_async_callers_are_served_where_django_serves_them(orm):
    async def work():
        await Author.objects.acreate(name="a")
        names = [author.name async for author in Author.objects.all()]
        assert counts(pool_of()).in_use == 1  # of the thread that does it for asyncio
        await sync_to_async(connections.close_all)()
        return names

    assert asyncio.run(work()) == ["a"]
    assert counts(pool_of()).in_use == 0


def test_an_event_loop_in_one_greenlet_does_not_concern_the_others(orm):
    running, done = Event(), Event()

    async def view():
        running.set()
        while not done.is_set():
            await asyncio.sleep(0.001)

    with transaction.atomic():
        Author.objects.create(name="a")
        loop = gevent.spawn(asyncio.run, view())
        running.wait()
        try:
            assert connection.in_atomic_block
            assert Author.objects.count() == 1
            assert gevent.spawn(Author.objects.count).get() == 0
        finally:
            done.set()
            loop.get()
