"""Fixtures for the tests of pools."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from geventpg import Pool
from geventpg.testing import EmbeddedPostgres

MakePool = Callable[..., Any]

_kept = pytest.StashKey[list[Any]]()


@pytest.fixture
def make_pool(request: pytest.FixtureRequest, dsn: str) -> MakePool:
    """Return a function that makes an open pool of the test's server, small by default.

    The pools stay alive until the invariants have been checked, and are closed then.
    """
    pools = request.node.stash[_kept] = []

    def make(conninfo: Any = dsn, **options: Any) -> Any:
        options = {"min_size": 1, "max_size": 4, "open": True, "timeout": 10.0, **options}
        pool: Any = Pool(conninfo, **options)
        pools.append(pool)
        return pool

    return make


@pytest.fixture
def embedded_dsn(embedded_pg: EmbeddedPostgres, dsn: str, application_name: str) -> str:
    """Return a conninfo of the server that the test stops, with its own application_name."""
    return make_conninfo(embedded_pg.dsn, application_name=application_name)
