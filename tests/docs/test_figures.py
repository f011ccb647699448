"""Figures of speed are those of the benchmark's last run."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.pages import LATEST, PAGES, SECTIONS, with_figures
from tests.docs.pages import GUIDES, text_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_figures_of_a_page_are_those_of_the_last_run(page):
    record = json.loads(LATEST.read_text())
    assert with_figures(text_of(page), record) == text_of(page), (
        "the benchmark was run since: python -m benchmarks.pages --charts"
    )


def test_rates_stand_nowhere_else():
    rate = re.compile(r"\d[\d,]* (?:queries|statements|tasks) (?:a|per) second|\bqueries/s\b")
    outside = {
        page.name: match[0]
        for page in GUIDES
        for match in rate.finditer(
            re.sub(
                r"<!-- figures.*?/figures -->|<!-- demo -->.*?/demo -->",
                "",
                text_of(page),
                flags=re.DOTALL,
            )
        )
    }
    assert set(outside) <= {"sizing.md"}, outside  # an example of how to reckon


def test_every_kind_of_figures_is_shown():
    shown = {kind for page in PAGES for kind in re.findall(r"figures: (\w+)", text_of(page))}
    assert shown == set(SECTIONS)
