"""The documentation is right: its tables, names, links and commands are so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import geventpg
from geventpg.pool.options import GEVENTPG_ONLY, OPTIONS
from geventpg.testing.programs import HIDING
from tests.docs.pages import GUIDES, PAGES, README, text_of
from tests.support.script import ROOT

OPTIONS_PAGE = ROOT / "docs" / "options.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def own_options() -> dict[str, object]:
    parameters = inspect.signature(geventpg.Pool).parameters
    return {name: parameters[name].default for name in OPTIONS if name in GEVENTPG_ONLY}


def slugs_of(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    outside = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- code ----------------------------------------------------------------------------------------


def test_the_worker_in_the_readme_is_the_example():
    match = re.search(
        r"^<!-- examples/minimal_worker\.py -->\n```python\n(.*?)^```$",
        text_of(README),
        re.MULTILINE | re.DOTALL,
    )
    assert match
    assert match[1] == (ROOT / "examples" / "minimal_worker.py").read_text()


# -- names ---------------------------------------------------------------------------------------


def test_the_table_of_options_has_all_of_ours_with_their_defaults():
    table = text_of(OPTIONS_PAGE).partition("\n## geventpg's own\n")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("| `")
    ]
    expected = {name: repr(default).replace("'", '"') for name, default in own_options().items()}
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == expected
    assert all(len(row) == 4 and row[3] for row in rows)


def test_options_of_ours_are_those_that_psycopg_pool_does_not_have():
    import psycopg_pool

    theirs = inspect.signature(psycopg_pool.ConnectionPool).parameters
    assert set(own_options()) == set(OPTIONS) - set(theirs)


@pytest.mark.parametrize("name", geventpg.__all__)
def test_every_public_name_is_documented(name):
    assert any(re.search(rf"\b{name}\b", text_of(page)) for page in GUIDES)


def test_every_environment_variable_of_the_pool_exists():
    variables = {
        variable
        for page in GUIDES
        for variable in re.findall(r"\bGEVENTPG_[A-Z_]*[A-Z]\b", text_of(page))
    }
    known = {f"GEVENTPG_{name.upper()}" for name, option in OPTIONS.items() if option.parse}
    # The second is for Celery workers, the third for geventpg.testing.
    others = {"GEVENTPG_CONNINFO", "GEVENTPG_METRICS_PORT", HIDING}
    assert variables - known == others


# -- links and commands --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for target in LINK.findall(text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in slugs_of(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_in_the_makefile(page):
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = re.findall(
        r"`[^`\n]+`|^```(?:sh|console)\n.*?^```$", text_of(page), re.MULTILINE | re.DOTALL
    )
    named = {name for piece in code for name in re.findall(r"\bmake ([a-z-]+)", piece)}
    assert named <= targets
    if page == README:
        assert {"demo", "test"} <= named


def test_extras_that_are_to_be_installed_exist():
    configuration = (ROOT / "setup.cfg").read_text().partition("extras_require]")[2]
    extras = set(re.findall(r"^(\w+) =$", configuration, re.MULTILINE))
    for names in re.findall(r"pip install '[\w.]+\[([\w,]+)\]'", text_of(README)):
        assert set(names.split(",")) <= extras
