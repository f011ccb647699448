"""Write the tables of the statistics into these pages: `python docs/tables.py`.

They come from the table in `geventpg.pool.stats`, and stand between ``<!-- statistics: now -->``
and ``<!-- /statistics -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from geventpg.metrics import opentelemetry, prometheus
from geventpg.pool.stats import STATISTICS, PoolStats
from geventpg.statements.stats import Kind, StatementStats, Statistic, statistics_of

DOCS = Path(__file__).resolve().parent
PAGES = (DOCS / "statistics.md", DOCS / "statements.md", DOCS / "metrics.md")
_SECTION = re.compile(r"(<!-- statistics: (\w+) -->\n).*?(<!-- /statistics -->)", re.DOTALL)

Rows = Iterable[Sequence[str]]


def of_pool(*kinds: Kind) -> Rows:
    yield "statistic", "in `get_stats()`", "meaning"
    for one in statistics_of(PoolStats):
        if one.kind in kinds:
            yield code(one.name), code(one.key), one.text


def histograms() -> Rows:
    yield "histogram, seconds", "what is measured"
    for one in statistics_of(PoolStats):
        if one.kind is Kind.HISTOGRAM:
            yield code(one.name), one.text


def of_statements() -> Rows:
    yield "statistic", "in `get_stats()`", "meaning"
    for one in statistics_of(StatementStats):
        yield code(one.name), code(one.key), one.text


def prometheus_metrics() -> Rows:
    yield "metric", "type", "label besides `pool`", "meaning"
    for metric, parts in prometheus.families().items():
        kind = "gauge" if parts[0].kind is Kind.AGE else parts[0].kind.value
        total = "_total" if kind == "counter" else ""
        yield (
            code(f"{prometheus.PREFIX}{metric}{total}"),
            kind,
            label_of(parts),
            prometheus.describe(metric, parts),
        )


def label_of(parts: Sequence[Statistic]) -> str:
    if parts[0].label is None:
        return ""
    if parts[0].label == "cause":
        return "`cause`: see [causes](statistics.md#causes)"
    return f"`{parts[0].label}`: {', '.join(code(part.name) for part in parts)}"


def opentelemetry_sizes() -> Rows:
    yield "metric", "statistic"
    for name in opentelemetry.SIZES:
        parts = [one for one in STATISTICS if name in one.otel]
        states = {
            one.state: " + ".join(code(p.name) for p in parts if p.state == one.state)
            for one in parts
        }
        shown = [f"{code(state)}: {names}" if state else names for state, names in states.items()]
        yield code(opentelemetry.PREFIX + name), "; ".join(shown)


def code(text: str | None) -> str:
    return f"`{text}`" if text else ""


SECTIONS: dict[str, Callable[[], Rows]] = {
    "now": lambda: of_pool(Kind.GAUGE, Kind.AGE),
    "counters": lambda: of_pool(Kind.COUNTER),
    "histograms": histograms,
    "statements": of_statements,
    "prometheus": prometheus_metrics,
    "opentelemetry": opentelemetry_sizes,
}


def with_tables(text: str) -> str:
    """Return a page's *text* with its tables made anew."""
    return _SECTION.sub(lambda found: found[1] + table(SECTIONS[found[2]]()) + found[3], text)


def table(rows: Rows) -> str:
    head, *rest = rows
    lines = [head, ["---"] * len(head), *rest]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
