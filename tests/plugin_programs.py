"""What needs a program that this machine lacks is skipped, and the run's end says so.

Loaded by ``-p`` in pyproject.toml, so that it is there in the process with the terminal, whose
reports come from the processes of pytest-xdist too. ``--program-users`` limits a run to the files
that need a program of the system.
"""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter

from geventpg.testing.programs import HIDING, NotInstalled

# How a skip begins that NotInstalled has caused.
_REASON = re.compile(
    r"(?:Skipped: )?(?P<what>.+) is not installed: (?P<remedy>apt-get install \S+)"
)
# A file or a fixture that names one of these needs a program.
_USERS = {
    *("CertificateAuthority", "PgBouncer", "RabbitServer", "RedisServer", "SystemPostgres"),
    *("require_libpq", "require_openssl_server", "require_program", "find_program"),
}
_TESTS = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--program-users", action="store_true", help="only files that need a program of the system"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("program_users"):
        return
    fixtures = {name for path in _TESTS.rglob("conftest.py") for name in _fixtures_of_users(path)}
    files = {
        item.path
        for item in items
        if not fixtures.isdisjoint(getattr(item, "fixturenames", ()))
        or not _USERS.isdisjoint(_names(ast.parse(item.path.read_text())))
    }
    config.hook.pytest_deselected(items=[item for item in items if item.path not in files])
    items[:] = [item for item in items if item.path in files]


def _fixtures_of_users(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not _USERS.isdisjoint(_names(node)):
            yield node.name


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _skipping())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _skipping())


def _skipping() -> Iterator[None]:
    try:
        return (yield)
    except NotInstalled as missing:
        pytest.skip(str(missing))


def is_allowed_in_ci(reason: object) -> bool:
    """Whether a skip is due to a program that GEVENTPG_HIDE_PROGRAMS hides, as CI does once."""
    return HIDING in os.environ and f"(hidden by {HIDING})" in str(reason)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: TerminalReporter) -> Iterator[None]:
    """Print the last word, below pytest's own list of skips: a line for each missing program."""
    result = yield
    lacking: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        found = _REASON.match(reason)
        if found is not None:
            lacking[f"{found['what']}: {found['remedy']}"] += 1
    if lacking:
        terminalreporter.section("skipped, because this machine lacks a program")
        for line, count in sorted(lacking.items()):
            terminalreporter.write_line(f"{line} ({count} tests)")
    return result
