"""Users' own connection and cursor classes get the hub's waiting and keep their overrides."""

from __future__ import annotations

import gevent
import psycopg
import pytest

import geventpg
from geventpg.connection.connection import adopt, cooperative
from tests.connection.helpers import Attempt, Ticker, active
from tests.support import wait_until


class Theirs(psycopg.Connection):
    """A connection class that was written without a thought of gevent."""

    connected: list[str] = []  # noqa: RUF012 - shared on purpose

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.commits = 0

    @classmethod
    def connect(cls, conninfo="", **kwargs):
        conn = super().connect(conninfo, **kwargs)
        conn.connected.append(cls.__name__)
        return conn

    @classmethod
    def _get_connection_params(cls, conninfo, **kwargs):
        return {**super()._get_connection_params(conninfo, **kwargs), "options": "-c work_mem=7MB"}

    def commit(self):
        self.commits += 1
        super().commit()

    def extra(self):
        return "theirs"


@pytest.fixture
def theirs(dsn):
    with cooperative(Theirs).connect(dsn) as conn:
        yield conn


def test_the_users_overrides_are_in_force(theirs):
    assert isinstance(theirs, Theirs)
    assert isinstance(theirs, geventpg.Connection)
    assert theirs.extra() == "theirs"
    assert theirs.execute("show work_mem").fetchone() == ("7MB",)
    theirs.commit()
    assert theirs.commits == 1
    assert type(theirs).__name__ in Theirs.connected


def test_it_waits_on_the_hub_and_is_interrupted_like_ours(theirs, backends):
    with Ticker() as ticker:
        theirs.execute("select pg_sleep(0.2)")
    assert ticker.ticks >= 8
    with pytest.raises(ZeroDivisionError), gevent.Timeout(0.05, ZeroDivisionError()):
        theirs.execute("select pg_sleep(30)")
    assert not active(backends)
    theirs.rollback()
    assert theirs.execute("select 1").fetchone() == (1,)


def test_the_class_is_made_once_and_ours_is_left_as_it_is():
    assert cooperative(Theirs) is cooperative(Theirs)
    assert cooperative(psycopg.Connection) is geventpg.Connection
    assert cooperative(geventpg.Connection) is geventpg.Connection
    assert cooperative(cooperative(Theirs)) is cooperative(Theirs)
    assert cooperative(Theirs).__qualname__ == Theirs.__qualname__
    assert cooperative(psycopg.Connection[tuple]) is geventpg.Connection


def test_an_open_connection_is_adopted(dsn, backends):
    conn = adopt(psycopg.Connection.connect(dsn, autocommit=True))
    with conn:
        sleeper = Attempt(conn.execute, "select pg_sleep(30)")
        wait_until(lambda: active(backends), message="the statement runs")
        sleeper.throw(error := gevent.Timeout())
        assert sleeper.join(5).error is error
        assert conn.execute("select 1").fetchone() == (1,)


def test_a_subclass_of_ours_is_a_connection_like_any(dsn):
    class Ours(geventpg.Connection):
        def greeting(self):
            return self.execute("select 'hello'").fetchone()[0]

    with Ours.connect(dsn) as conn:
        assert conn.greeting() == "hello"


@pytest.mark.parametrize("cursor", [psycopg.ClientCursor, psycopg.RawCursor, psycopg.Cursor])
def test_psycopgs_cursor_classes_work_and_are_interrupted(connect, backends, dsn, cursor):
    conn = connect(dsn, cursor_factory=cursor)
    assert type(conn.cursor()) is cursor
    attempt = Attempt(conn.execute, "select pg_sleep(30)")
    wait_until(lambda: active(backends), message="the statement runs")
    attempt.throw(error := gevent.Timeout())
    assert attempt.join(5).error is error
    assert not active(backends)
    conn.rollback()
    assert conn.execute("select 4").fetchone() == (4,)


def test_a_subclass_of_psycopgs_cursor_keeps_its_overrides(connect):
    class Counting(psycopg.Cursor):
        executed = 0

        def execute(self, *args, **kwargs):
            Counting.executed += 1
            return super().execute(*args, **kwargs)

    conn = connect(cursor_factory=Counting)
    assert conn.execute("select 1").fetchone() == (1,)
    assert Counting.executed == 1


def test_adapters_and_loaders_of_a_connection_are_its_own(connect):
    from psycopg.types.string import TextLoader

    conn = connect()
    conn.adapters.register_loader("int4", TextLoader)
    assert conn.execute("select 5").fetchone() == ("5",)
    assert connect().execute("select 5").fetchone() == (5,)
