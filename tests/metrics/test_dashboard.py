"""The dashboard asks for what is exposed, and shows everything that is."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest

from geventpg.metrics.prometheus import PoolCollector
from tests.metrics.exposition import expose, samples_of

# Labels that Prometheus adds by itself.
TARGETS = {"instance", "job"}

SELECTOR = re.compile(r"\b(geventpg_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring) \(([^)]*)\)")

DASHBOARD = json.loads(files("geventpg").joinpath("metrics/grafana/geventpg.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
QUERIES = [v["definition"] for v in DASHBOARD["templating"]["list"] if v["type"] == "query"]


@pytest.fixture
def exposed(make_pool):
    """Return the label sets of each series that a process with all metrics exposes, by name."""
    pool = make_pool(timings=True)
    with pool.connection() as conn:
        conn.execute("select 1")
    found: dict[str, list[dict[str, str]]] = {}
    for sample in samples_of(expose(PoolCollector([pool]))):
        found.setdefault(sample.name, []).append(sample.labels)
    return found


def problems_of(expression, exposed):
    """Return what in *expression* no process exposes."""
    problems, known = [], set(TARGETS)
    for name, matchers in SELECTOR.findall(expression):
        series = exposed.get(name)
        if series is None:
            problems.append(f"no metric {name}")
            continue
        known |= set(series[0])
        for label, operator, value in MATCHER.findall(matchers):
            if label not in {*series[0], *TARGETS}:
                problems.append(f"{name} has no label {label}")
            elif operator == "=" and value not in {labels[label] for labels in series}:
                problems.append(f"{name} has no {label}={value}")
    for grouping in GROUPING.findall(expression):
        unknown = [label for label in grouping.split(", ") if label not in known]
        problems += [f"grouped by {label}, which there is not" for label in unknown]
    return problems


def test_every_query_asks_for_what_is_exposed(exposed):
    for expression in [*EXPRESSIONS, *QUERIES]:
        assert SELECTOR.search(expression), expression
        assert problems_of(expression, exposed) == [], expression


def test_a_query_for_what_is_not_exposed_would_be_found(exposed):
    for expression, problem in {
        "rate(geventpg_nothing_total[5m])": "no metric geventpg_nothing_total",
        'geventpg_waiting{worker="1"}': "geventpg_waiting has no label worker",
        'geventpg_connections{state="busy"}': "geventpg_connections has no state=busy",
        "sum by (cause) (geventpg_waiting)": "grouped by cause, which there is not",
    }.items():
        assert problems_of(expression, exposed) == [problem]


def test_everything_that_is_exposed_is_on_the_dashboard(exposed):
    asked = {name for expression in EXPRESSIONS for name, _ in SELECTOR.findall(expression)}
    exposed_families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    asked_families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    assert exposed_families - asked_families == {"geventpg_connections_min"}


def test_legends_use_labels_that_their_queries_return():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            grouped = ",".join(GROUPING.findall(target["expr"])).replace(" ", "").split(",")
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert label in grouped, (panel["title"], target)


def test_panels_do_not_overlap_and_have_a_description():
    places = set()
    for panel in DASHBOARD["panels"]:
        assert panel["description"]
        grid = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & places
        places |= cells
