"""What docs/cli.md says is what there is."""

from __future__ import annotations

import re

import pytest

from geventpg.cli.checks.reaching import REASONS
from tests.support.script import ROOT

CHECKS = [*(ROOT / "geventpg" / "cli" / "checks").glob("*.py"), ROOT / "geventpg/cli/checkup.py"]
PAGE = ROOT / "docs" / "cli.md"


def codes() -> set[str]:
    """Return every code that a finding can have."""
    called = re.compile(r"\b(?:ok|note|warning|problem|level)\(\s*\"([a-z-]+)\"")
    found = {code for path in CHECKS for code in called.findall(path.read_text())}
    return found | {code for _pattern, code, _advice in REASONS}


def test_every_code_of_the_doctor_is_explained_and_no_other_one():
    assert len(codes()) > 40
    table = PAGE.read_text().partition("### Its findings")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    explained = {code for row in rows for code in re.findall(r"`([a-z-]+)`", row)}
    assert explained == codes()


@pytest.mark.parametrize("command", ["doctor", "plan", "top", "bench", "demo"])
def test_every_command_has_a_section(command):
    assert f"\n## {command}\n" in PAGE.read_text()
