"""A pool whose statements go over one connection, and a table that shows what was done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.connection.batch.conftest import done
from tests.pool.conftest import embedded_dsn, make_pool
from tests.poolers.conftest import mode, pooler
from tests.security.conftest import tls, tls_dsn, tls_server
from tests.statements.helpers import warm_up

__all__ = [
    "done",
    "embedded_dsn",
    "make_pool",
    "mode",
    "pooler",
    "tls",
    "tls_dsn",
    "tls_server",
]


@pytest.fixture
def pool(make_pool: Callable[..., Any]) -> Any:
    """Return a pool of at most 4 connections, of which one has carried statements."""
    pool = make_pool(min_size=2)
    warm_up(pool)
    return pool


@pytest.fixture
def no_rescue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave those behind a slow statement where they are, however late the test is to look."""
    for name in ("choice", "sending"):
        monkeypatch.setattr(f"geventpg.statements.{name}.GRACE", 1000.0)
