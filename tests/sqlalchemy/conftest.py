"""Fixtures for the tests of the SQLAlchemy dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

pytest.importorskip("sqlalchemy")

from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Engine, create_engine, event, text

import geventpg
from tests.support import wait_until
from tests.support.pools import counts

MakeEngine = Callable[..., Engine]

EVENTS = (
    *("connect", "checkout", "checkin", "reset", "invalidate", "soft_invalidate"),
    *("close", "detach", "close_detached"),
)


def pid_of(conn: Any) -> int:
    """Return the backend's process, asked over SQLAlchemy's connection or session."""
    return conn.scalar(text("SELECT pg_backend_pid()"))


def sleep(conn: Any, seconds: float) -> None:
    conn.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


def use_all(engine: Engine) -> None:
    """Check that as many connections as there may be are usable at the same time."""
    engine.connect().close()
    pool = engine.pool.connection_pool
    wait_until(lambda: counts(pool).size == counts(pool).idle, message="everything came back")
    assert counts(pool).waiting == 0
    conns = []
    try:
        for number in range(counts(pool).max_size):
            conns.append(engine.connect())
            assert conns[-1].scalar(text("SELECT :number"), {"number": number}) == number
    finally:
        for conn in conns:
            conn.close()
    now = counts(pool)
    assert (now.size, now.idle, now.in_use) == (now.max_size, now.max_size, 0)


def listen_to(target: Any, *names: str) -> list[str]:
    """Return a list to which the names of the pool's events are added as they happen."""
    heard: list[str] = []
    for name in names or EVENTS:
        event.listen(target, name, lambda *_, name=name: heard.append(name))
    return heard


@pytest.fixture
def make_engine(dsn: str) -> Iterator[MakeEngine]:
    """Return a function that makes an engine of the test's server, of 3 connections by default.

    In the end every place of an engine's own pool must be usable, and it is disposed of.
    """
    engines: list[Engine] = []
    shared: list[Engine] = []

    def make(url: str = "postgresql+geventpg://", **options: Any) -> Engine:
        if "poolclass" not in options and "pool_name" not in options:
            options = {"pool_size": 2, "max_overflow": 1, "pool_timeout": 10.0, **options}
        parameters = {} if "pool_name" in options else dict(conninfo_to_dict(dsn))
        arguments = {**parameters, **options.pop("connect_args", {})}
        engine = create_engine(url, connect_args=arguments, **options)
        (shared if "pool_name" in options else engines).append(engine)
        return engine

    yield make
    for engine in [*engines, *shared]:
        pool = None if engine in shared else getattr(engine.pool, "connection_pool", None)
        if pool is not None and not pool.closed and counts(pool).max_size <= 25:
            use_all(engine)
        engine.dispose()


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """Return an engine of 3 connections."""
    return make_engine()


@pytest.fixture
def named_pool(dsn: str) -> Iterator[str]:
    """Return the name of a configured pool of 3 connections, which is closed after the test."""
    name = "shared-with-an-engine"
    geventpg.configure(dsn, name=name, min_size=0, max_size=3, timeout=10.0)
    yield name
    geventpg.release_conn(name)
    geventpg.close_all()


def in_greenlets(function: Callable[[int], Any], number: int) -> list[Any]:
    """Run ``function(0)``, ``function(1)`` … at the same time; return the results in order."""
    greenlets = [gevent.spawn(function, index) for index in range(number)]
    gevent.joinall(greenlets, raise_error=True)
    return [greenlet.value for greenlet in greenlets]
