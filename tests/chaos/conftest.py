"""Fixtures of the chaos suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos.figures import Figures
from tests.conftest import SEED
from tests.pool.conftest import embedded_dsn, make_pool
from tests.support.stalls import HubTicker

__all__ = ["embedded_dsn", "make_pool"]


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return where a scenario notes what it measured: it fails for a bound that is broken."""
    return Figures(request.node.user_properties, request.node.name.removeprefix("test_"), SEED)


@pytest.fixture
def ticker() -> Iterator[HubTicker]:
    """Return a running `HubTicker`."""
    with HubTicker() as running:
        yield running
