"""Fixtures of the chaos suite, and the table of figures at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _pytest.terminal import TerminalReporter

from tests.chaos.figures import Figure, Figures, save, summary
from tests.chaos.stalls import HubTicker
from tests.conftest import SEED
from tests.pool.conftest import embedded_dsn, make_pool

__all__ = ["embedded_dsn", "make_pool"]

_figures: list[Figure] = []


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Return where a scenario notes what it measured: it fails for a bound that is broken."""
    return Figures(_figures, request.node.name.removeprefix("test_"), SEED)


@pytest.fixture
def ticker() -> Iterator[HubTicker]:
    """Return a running `HubTicker`."""
    with HubTicker() as running:
        yield running


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    save(_figures)
    if _figures:
        terminalreporter.section("figures of the chaos suite")
        for line in summary(_figures):
            terminalreporter.write_line(line)
