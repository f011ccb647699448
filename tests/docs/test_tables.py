"""The tables of statistics in the pages are those that the source has."""

from __future__ import annotations

import re
import runpy

import pytest

from tests.docs.pages import text_of
from tests.support.script import ROOT

TABLES = runpy.run_path(str(ROOT / "docs" / "tables.py"))


@pytest.mark.parametrize("page", TABLES["PAGES"], ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_source(page):
    assert TABLES["with_tables"](text_of(page)) == text_of(page), "python docs/tables.py"


def test_every_table_is_shown_once():
    shown = [
        name for page in TABLES["PAGES"] for name in re.findall(r"statistics: (\w+)", text_of(page))
    ]
    assert sorted(shown) == sorted(TABLES["SECTIONS"])
