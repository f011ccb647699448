"""Real PgBouncers in front of the embedded server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from geventpg.testing import EmbeddedPostgres, PgBouncer
from tests.pool.conftest import make_pool

__all__ = ["make_pool"]

SERVER_CONNECTIONS = 5


@pytest.fixture(params=["session", "transaction", "statement"])
def mode(request: pytest.FixtureRequest) -> str:
    """Return how the pooler hands out its server connections."""
    return str(request.param)


@pytest.fixture
def pooler(embedded_pg: EmbeddedPostgres, mode: str) -> Iterator[PgBouncer]:
    """Return a PgBouncer with 5 server connections."""
    with PgBouncer(embedded_pg, pool_mode=mode, pool_size=SERVER_CONNECTIONS) as pooler:
        yield pooler
