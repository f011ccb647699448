"""The table of figures at the end of a run, loaded by ``-p`` in pyproject.toml.

Figures travel with the reports of their tests, so that they arrive here from the processes of
pytest-xdist too, whose own conftest files know nothing of the terminal.
"""

from __future__ import annotations

import pytest
from _pytest.terminal import TerminalReporter

from tests.chaos.figures import PROPERTY, Figure, save, summary

_figures: list[Figure] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "teardown":
        _figures.extend(
            Figure(**value) for name, value in report.user_properties if name == PROPERTY
        )


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    save(_figures)
    if _figures:
        terminalreporter.section("figures of the chaos suite")
        for line in summary(_figures):
            terminalreporter.write_line(line)
