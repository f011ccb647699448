"""An engine with the dialect is what users of SQLAlchemy know as an engine."""

from __future__ import annotations

import gc
from contextlib import closing

import gevent
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine, event, exc, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, StaticPool

import geventpg
from geventpg.sqlalchemy import GeventDialect, GeventPool
from tests.sqlalchemy.conftest import in_greenlets, pid_of, sleep
from tests.support import wait_until
from tests.support.pools import counts


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "sqlalchemy_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def notes(engine, admin):
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    yield
    admin.execute("DROP TABLE sqlalchemy_notes")


def test_the_entry_point_leads_to_the_dialect():
    url = make_url("postgresql+geventpg://")
    assert url.get_dialect() is GeventDialect
    assert create_engine(url).dialect.driver == "geventpg"


def test_nothing_connects_before_the_first_checkout(make_engine, backends):
    engine = make_engine()
    assert engine.pool.connection_pool is None
    assert backends() == []
    with engine.connect() as conn:
        assert isinstance(conn.connection.driver_connection, geventpg.Connection)
    assert len(backends()) == 1


def test_many_greenlets_share_few_connections(make_engine, backends):
    engine = make_engine(pool_size=2, max_overflow=1)

    def work(number):
        with engine.connect() as conn:
            return conn.scalar(
                text("SELECT :number + 0 * length(pg_sleep(0.01)::text)"), {"number": number}
            )

    assert in_greenlets(work, 40) == list(range(40))
    assert len(backends()) == 3
    assert engine.pool.connection_pool.get_stats()["requests_queued"] > 0


def test_a_slow_statement_keeps_no_other_greenlet_waiting(engine):
    slow = gevent.spawn(lambda: engine.connect().execute(text("SELECT pg_sleep(5)")))
    with engine.connect() as conn:
        assert pid_of(conn)
        assert not slow.ready()
    slow.kill()


def test_sessions_of_many_greenlets_work_on_the_same_table(engine, notes):
    def add(number):
        with Session(engine) as session, session.begin():
            session.add(Note(id=number, text=f"note {number}"))
        with Session(engine) as session:
            return session.get(Note, number).text

    assert in_greenlets(add, 30) == [f"note {number}" for number in range(30)]
    with Session(engine) as session:
        assert len(session.scalars(select(Note)).all()) == 30


def test_a_session_that_is_left_by_an_exception_is_rolled_back(engine, notes):
    with pytest.raises(RuntimeError), Session(engine) as session, session.begin():
        session.add(Note(id=1, text="never"))
        session.flush()
        raise RuntimeError
    with Session(engine) as session:
        assert session.get(Note, 1) is None


def test_the_arguments_of_queue_pool_are_options_of_the_pool_behind(make_engine):
    engine = make_engine(
        pool_size=3,
        max_overflow=4,
        pool_timeout=7.5,
        pool_recycle=90,
        pool_use_lifo=False,
        pool_options={"min_size": 1, "max_idle": 5.0, "keepalive_interval": 3.0},
    )
    engine.connect().close()
    pool = engine.pool.connection_pool
    assert (pool.min_size, pool.max_size, pool.timeout) == (1, 7, 7.5)
    assert (pool.max_lifetime, pool.max_idle, pool.keepalive_interval) == (90, 5.0, 3.0)
    assert pool.use_lifo is False
    assert isinstance(engine.pool, QueuePool)


@pytest.mark.parametrize("options", [{"pool_size": 0}, {"max_overflow": -1}], ids=str)
def test_no_limit_is_no_limit(make_engine, options, backends):
    engine = make_engine(**options)
    conns = [engine.connect() for _ in range(6)]
    assert len(backends()) == 6
    for conn in conns:
        conn.close()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"pool_options": {"keepalive": 3}}, "keepalive_interval"),
        ({"pool_options": {"min_size": 50}}, "min_size"),
        ({"pool_options": {"max_size": 5}}, "pool_size and max_overflow"),
        ({"pool_options": {"timeout": 5}}, "pool_timeout"),
        ({"pool_timeout": -1}, "pool_timeout"),
        ({"pool_recycle": 0}, "pool_recycle"),
        ({"pool_size": "5"}, "pool_size"),
    ],
    ids=str,
)
def test_a_wrong_option_is_told_of_when_the_engine_is_made(make_engine, options, word):
    with pytest.raises(geventpg.OptionError, match=word):
        make_engine(**options)


def test_an_old_connection_is_replaced_by_the_pool_itself(make_engine, backends):
    engine = make_engine(pool_recycle=0.2)
    with engine.connect() as conn:
        first = pid_of(conn)
    wait_until(lambda: first not in [backend.pid for backend in backends()])
    with engine.connect() as conn:
        assert pid_of(conn) != first


def test_who_waits_too_long_gets_sqlalchemys_timeout_error(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0.05)
    with engine.connect():
        with pytest.raises(exc.TimeoutError, match="size=1 idle=0 in_use=1"):
            engine.connect()
        assert counts(engine.pool.connection_pool).waiting == 0


def test_with_a_time_out_of_zero_no_checkout_waits(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=0)
    with engine.connect(), gevent.Timeout(10), pytest.raises(exc.TimeoutError):
        engine.connect()
    engine.connect().close()


def test_without_a_time_out_one_waits(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0, pool_timeout=None)
    conn = engine.connect()
    waiter = gevent.spawn(engine.connect)
    wait_until(lambda: counts(engine.pool.connection_pool).waiting == 1)
    conn.close()
    waiter.get().close()


def test_the_status_has_the_numbers_of_queue_pool(make_engine):
    engine = make_engine(pool_size=1, max_overflow=2)
    conns = [engine.connect(), engine.connect()]
    conns.pop().close()
    pool = engine.pool
    wait_until(lambda: pool.checkedin() == 1)
    assert (pool.size(), pool.checkedout(), pool.overflow()) == (1, 1, 1)
    assert pool.status().endswith(
        "Connections in pool: 1 Current Overflow: 1 Current Checked out connections: 1"
    )
    conns.pop().close()


# -- connecting ----------------------------------------------------------------------------------


def test_credentials_that_are_refused_are_told_at_once(make_engine):
    engine = make_engine(connect_args={"password": "wrong"}, pool_timeout=60)
    with gevent.Timeout(10), pytest.raises(exc.OperationalError) as caught:
        engine.connect()
    assert "password authentication failed" in str(caught.value)
    assert type(caught.value.orig) is psycopg.OperationalError
    assert "wrong" not in str(caught.value)
    engine.dispose()


def test_a_server_that_does_not_answer_is_an_operational_error(proxy, make_engine, dsn):
    engine = make_engine(
        connect_args=psycopg.conninfo.conninfo_to_dict(proxy.dsn(dsn)), pool_timeout=0.5
    )
    proxy.stop()
    with pytest.raises(exc.OperationalError, match=r"last connection failure.*refused"):
        engine.connect()
    proxy.start()
    engine.connect().close()


def test_a_server_that_comes_back_is_waited_for(proxy, make_engine, dsn):
    engine = make_engine(connect_args=psycopg.conninfo.conninfo_to_dict(proxy.dsn(dsn)))
    proxy.stop()
    waiter = gevent.spawn(engine.connect)
    wait_until(lambda: engine.pool.connection_pool is not None)
    wait_until(lambda: engine.pool.connection_pool.get_stats().get("connections_errors"))
    proxy.start()
    waiter.get().close()


def test_after_an_outage_exhaustion_is_exhaustion_again(proxy, make_engine, dsn):
    engine = make_engine(
        connect_args=psycopg.conninfo.conninfo_to_dict(proxy.dsn(dsn)),
        pool_size=1,
        max_overflow=0,
        pool_timeout=0.5,
    )
    proxy.stop()
    with pytest.raises(exc.OperationalError):
        engine.connect()
    proxy.start()
    with engine.connect(), pytest.raises(exc.TimeoutError):
        engine.connect()


class MistakeError(Exception):
    pass


def test_what_a_creator_raises_reaches_the_caller_at_once(make_engine):
    def creator():
        raise MistakeError("on purpose")

    engine = make_engine(creator=creator, pool_timeout=60)
    with gevent.Timeout(10), pytest.raises(MistakeError, match="on purpose"):
        engine.connect()
    engine.dispose()


@pytest.mark.parametrize("rubbish", [None, "a string"])
def test_a_creator_must_return_a_connection_of_psycopg(make_engine, rubbish):
    engine = make_engine(creator=lambda: rubbish, pool_timeout=60)
    with gevent.Timeout(10), pytest.raises(TypeError, match="creator returned"):
        engine.connect()
    engine.dispose()


def test_a_creators_connections_wait_on_the_hub_whatever_their_class(make_engine, dsn):
    class Own(psycopg.Connection):
        pass

    engine = make_engine(creator=lambda: Own.connect(dsn))
    with engine.connect() as conn:
        driver_connection = conn.connection.driver_connection
        assert isinstance(driver_connection, Own)
        assert isinstance(driver_connection, geventpg.Connection)


def test_listeners_for_do_connect_may_change_parameters_or_connect_themselves(
    make_engine, application_name, backends, dsn
):
    engine = make_engine(connect_args={"password": "to be replaced"})
    password = psycopg.conninfo.conninfo_to_dict(dsn)["password"]

    @event.listens_for(engine, "do_connect")
    def give_secret(_dialect, record, _cargs, cparams):
        record.info["given"] = True
        cparams["password"] = password

    with engine.connect() as conn:
        assert conn.connection.info == {"given": True}
    assert len(backends()) == 1


def test_connect_args_reach_psycopg(make_engine):
    engine = make_engine(connect_args={"prepare_threshold": 1, "options": "-c work_mem=1234kB"})
    with engine.connect() as conn:
        assert conn.scalar(text("SHOW work_mem")) == "1234kB"
        assert conn.connection.driver_connection.prepare_threshold == 1


def test_a_password_in_the_url_is_not_in_the_error_nor_its_traceback(make_engine):
    engine = create_engine("postgresql+geventpg://me:very-secret@127.0.0.1:1/db", pool_timeout=0.3)
    with pytest.raises(exc.OperationalError) as caught:
        engine.connect()
    assert "very-secret" not in str(caught.value)
    engine.dispose()


# -- settings of connections ---------------------------------------------------------------------


def level(conn):
    return conn.scalar(text("SHOW transaction_isolation"))


def test_the_engines_isolation_level_holds_on_every_connection(make_engine):
    engine = make_engine(isolation_level="REPEATABLE READ")

    def look(_):
        with engine.connect() as conn:
            return level(conn)

    assert set(in_greenlets(look, 10)) == {"repeatable read"}


def test_autocommit_leaves_no_transaction_open(make_engine, backends):
    engine = make_engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        pid_of(conn)
        assert [backend.state for backend in backends()] == ["idle"]


def test_execution_options_end_with_the_checkout(make_engine):
    engine = make_engine(pool_size=1, max_overflow=0)
    for options, expected in (
        ({"isolation_level": "SERIALIZABLE"}, "serializable"),
        ({"postgresql_readonly": True}, "read committed"),
        ({}, "read committed"),
    ):
        with engine.connect().execution_options(**options) as conn:
            assert level(conn) == expected
            readonly = conn.scalar(text("SHOW transaction_read_only"))
            assert readonly == ("on" if "postgresql_readonly" in options else "off")


def test_engines_with_other_execution_options_share_the_pool(engine, backends):
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as conn:
        first = pid_of(conn)
        assert conn.connection.driver_connection.autocommit
    with engine.connect() as conn:
        assert pid_of(conn) == first
        assert not conn.connection.driver_connection.autocommit


def test_rows_can_be_streamed_through_a_server_side_cursor(engine):
    with engine.connect() as conn:
        rows = conn.execution_options(yield_per=10).execute(text("SELECT generate_series(1, 35)"))
        assert isinstance(rows.cursor, psycopg.ServerCursor)
        assert [len(part) for part in rows.partitions(10)] == [10, 10, 10, 5]


def test_a_transaction_can_be_committed_in_two_phases(engine, notes):
    with engine.connect() as conn:
        transaction = conn.begin_twophase("geventpg-test")
        conn.execute(text("INSERT INTO sqlalchemy_notes VALUES (1, 'prepared')"))
        transaction.prepare()
        conn.invalidate()  # what becomes of it is decided on another connection
        conn.rollback()
    with engine.connect() as conn:
        assert "geventpg-test" in conn.recover_twophase()
        conn.commit_prepared("geventpg-test", recover=True)
    with Session(engine) as session:
        assert session.get(Note, 1).text == "prepared"


# -- other pools ---------------------------------------------------------------------------------


@pytest.mark.parametrize("poolclass", [NullPool, QueuePool, StaticPool, AssertionPool])
def test_another_pool_class_gets_connections_that_wait_on_the_hub(make_engine, poolclass):
    engine = make_engine(poolclass=poolclass)
    with engine.connect() as conn:
        assert isinstance(conn.connection.driver_connection, geventpg.Connection)
        sleeper = gevent.spawn(sleep, conn, 0.05)
        gevent.sleep(0)
        assert not sleeper.ready()
        sleeper.get()
    engine.connect().close()


def test_the_pool_works_with_psycopgs_own_dialect_too(make_engine):
    engine = make_engine("postgresql+psycopg://", poolclass=GeventPool, pool_size=3, max_overflow=0)
    with engine.connect() as conn:
        assert isinstance(conn.connection.driver_connection, geventpg.Connection)


# -- the end -------------------------------------------------------------------------------------


def test_dispose_closes_what_is_idle_and_the_engine_goes_on(engine, backends):
    with engine.connect() as used:
        first = pid_of(used)
        engine.connect().close()
        assert len(backends()) == 2
        engine.dispose()
        wait_until(lambda: [backend.pid for backend in backends()] == [first])
        with engine.connect() as conn:
            assert pid_of(conn) != first
        assert pid_of(used) == first
    wait_until(lambda: first not in [backend.pid for backend in backends()])


def test_who_waits_while_the_engine_is_disposed_of_is_served(make_engine, backends):
    engine = make_engine(pool_size=1, max_overflow=0)
    conn = engine.connect()
    waiters = [gevent.spawn(engine.connect) for _ in range(2)]
    wait_until(lambda: counts(engine.pool.connection_pool).waiting == 2)
    engine.dispose()
    conn.close()
    for waiter in waiters:
        with waiter.get() as conn:
            assert pid_of(conn)
    wait_until(lambda: backends() == [])


def test_a_pool_that_was_disposed_of_by_itself_goes_on(engine, backends):
    engine.connect().close()
    engine.pool.dispose()
    wait_until(lambda: backends() == [])
    engine.connect().close()


def test_an_engine_that_is_collected_leaves_no_backend(dsn, backends):
    engine = create_engine(
        "postgresql+geventpg://", connect_args=dict(psycopg.conninfo.conninfo_to_dict(dsn))
    )
    engine.connect().close()
    assert len(backends()) == 1
    del engine

    def gone():
        gc.collect()
        return not backends()

    wait_until(gone)


@pytest.mark.parametrize("where", ["here", "in the hub"])
def test_a_connection_that_was_dropped_is_cleaned_by_the_pool(engine, where):
    def drop():
        box.clear()
        gc.collect()

    box = [engine.connect()]
    box[0].execute(text("CREATE TEMPORARY TABLE dropped (a int)"))
    pid = pid_of(box[0])
    if where == "here":
        drop()
    else:
        gevent.get_hub().loop.run_callback(drop)  # where waiting is impossible
    wait_until(lambda: engine.pool.checkedin() == 1)
    with engine.connect() as conn:
        assert pid_of(conn) == pid
        assert conn.scalar(text("SELECT to_regclass('dropped')")) is None


def test_create_async_engine_says_that_this_is_none():
    with pytest.raises(exc.InvalidRequestError, match="'geventpg' is not async"):
        create_async_engine("postgresql+geventpg://")


def test_raw_connections_are_those_of_the_pool(engine):
    with closing(engine.raw_connection()) as raw:
        assert raw.cursor().execute("SELECT 1").fetchone() == (1,)
    assert engine.pool.checkedin() == 1


def test_json_and_array_types_are_psycopgs(engine):
    with engine.connect() as conn:
        row = conn.execute(text("SELECT '{\"a\": [1]}'::jsonb, ARRAY[1, 2], 1.5::numeric")).one()
    assert row[0] == {"a": [1]}
    assert row[1] == [1, 2]


def test_an_error_of_the_server_leaves_the_connection_in_the_pool(engine):
    with engine.connect() as conn:
        first = pid_of(conn)
        with pytest.raises(exc.ProgrammingError) as caught:
            conn.execute(text("SELECT * FROM there_is_no_such_table"))
        assert isinstance(caught.value.orig, psycopg.errors.UndefinedTable)
        assert not caught.value.connection_invalidated
    with engine.connect() as conn:
        assert pid_of(conn) == first


def test_two_engines_are_two_pools(make_engine, dsn, backends):
    one = make_engine()
    other = make_engine(connect_args=psycopg.conninfo.conninfo_to_dict(make_conninfo(dsn)))
    with one.connect() as conn, other.connect() as more:
        assert pid_of(conn) != pid_of(more)
    assert one.pool.connection_pool is not other.pool.connection_pool
