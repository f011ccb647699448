"""A pool, and a table that shows what was done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.pool.conftest import make_pool
from tests.poolers.conftest import mode, pooler
from tests.security.conftest import tls, tls_dsn, tls_server

__all__ = ["make_pool", "mode", "pooler", "tls", "tls_dsn", "tls_server"]


@pytest.fixture
def pool(make_pool: Callable[..., Any]) -> Any:
    """Return a pool of at most 2 connections."""
    return make_pool(max_size=2)


@pytest.fixture
def done(admin: psycopg.Connection[Any]) -> Iterator[Callable[[str], list[int]]]:
    """Make a table `things (id int, tag text)`; return a function: the ids that have a tag."""
    admin.execute("drop table if exists things")
    admin.execute("create table things (id int, tag text)")

    def ids(tag: str) -> list[int]:
        query = "select id from things where tag = %s order by id"
        return [number for (number,) in admin.execute(query, (tag,))]

    yield ids
    admin.execute("drop table if exists things")
