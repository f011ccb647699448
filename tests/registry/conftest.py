"""The registry is the process's own: each test configures it, and leaves nothing in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import geventpg
from geventpg.testing import Backend
from tests.support import wait_until

_numbers = itertools.count(1)


@pytest.fixture
def pool_name() -> Iterator[str]:
    """Return a name that no other test has used."""
    name = f"pool-{next(_numbers)}"
    yield name
    geventpg.release_conn(name)
    geventpg.close_all()


@pytest.fixture
def configure(dsn: str, pool_name: str) -> Callable[..., str]:
    """Return a function that configures a pool of the test's own and returns its name."""

    def configure(**options: Any) -> str:
        geventpg.configure(dsn, name=pool_name, **{"min_size": 1, "max_size": 3, **options})
        return pool_name

    return configure


@pytest.fixture
def name(configure: Callable[..., str]) -> str:
    """Return the name of a configured pool of at most 3 connections."""
    return configure()


@pytest.fixture
def table(dsn: str, admin: Any) -> Iterator[str]:
    """Return the name of an empty table with one text column."""
    admin.execute("drop table if exists registry_notes")
    admin.execute("create table registry_notes (note text)")
    yield "registry_notes"
    admin.execute("drop table registry_notes")


@pytest.fixture
def all_given_back(
    backends: Callable[[], list[Backend]],
) -> Callable[[str], None]:
    """Return a function that waits until all connections of a pool are idle and usable."""

    def check(name: str) -> None:
        pool = geventpg.get_pool(name)

        def idle() -> bool:
            stats = pool.get_stats()
            return (
                stats["pool_available"] == stats["pool_size"] and not stats["requests_waiting"]
            ) and all(backend.state == "idle" for backend in backends())

        wait_until(idle, timeout=8, message=f"everything is back in {pool!r}")
        size = pool.max_size
        taken = [pool.getconn(timeout=5) for _ in range(size)]
        for conn in taken:
            assert conn.execute("select 1").fetchone() == (1,)
            pool.putconn(conn)
        assert len(backends()) <= size

    return check
