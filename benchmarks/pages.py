"""Write the last run's figures into the documentation, and with ``--charts`` the charts.

``python -m benchmarks.pages``. The figures stand between ``<!-- figures: throughput -->`` and
``<!-- /figures -->``, and nowhere else.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import GREENLETS, MODES
from benchmarks.job import Cell
from benchmarks.registry import PEERS
from benchmarks.summary import Figure, Result

ROOT = Path(__file__).resolve().parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
PAGES = (ROOT / "docs" / "performance.md", ROOT / "docs" / "comparison.md")
CHARTS = ROOT / "docs"
_SECTION = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- /figures -->)", re.DOTALL)

Record = Mapping[str, Any]


def results_of(record: Record) -> list[Result]:
    return [
        Result(
            Cell(**result["cell"]),
            result["peer"],
            {name: Figure(**figure) for name, figure in result["figures"].items()},
        )
        for result in record["results"]
    ]


def _found(record: Record, cell: Cell) -> dict[str, dict[str, Figure]]:
    """Return the figures of each peer at *cell*, in the order of the registry."""
    by_peer = {result.peer: result.figures for result in results_of(record) if result.cell == cell}
    return {name: by_peer[name] for name in PEERS if name in by_peer}


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _times(figure: Figure) -> str:
    return "" if figure.ratio is None else f"{figure.ratio:.2f}"


def conditions(record: Record) -> Iterator[str]:
    facts, settings = record["facts"], record["settings"]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(facts["packages"].items()))
    yield (
        f"{facts['date'][:10]}: medians of {settings['rounds']} interleaved rounds of"
        f" {settings['seconds']:g} s, {settings['connections']} connections,"
        f" {facts['cpu_count']} cores ({facts['processor']}) for server and client together,"
        f" {facts['python']}, PostgreSQL {facts['postgresql']['version'].split()[0]} on the same"
        f" machine; {packages}."
    )


def frameworks(record: Record) -> Iterator[str]:
    cells = [_found(record, Cell("frameworks", 200, mode)) for mode in MODES]
    columns = [part for mode in MODES for part in (f"{mode}: queries/s", "CPU µs")]
    yield _row("200 greenlets, 20 connections", *columns)
    yield _row("---", *["---:"] * len(columns))
    for peer in cells[0]:
        parts = []
        for figures in (cell[peer] for cell in cells):
            rate, cpu = figures["queries_per_second"], figures["cpu_us_per_query"]
            parts += [f"{rate.median:,.0f} ({rate.low:,.0f} - {rate.high:,.0f})"]
            parts += [f"{cpu.median:.0f}"]
        yield _row(PEERS[peer].label, *parts)


def throughput(record: Record) -> Iterator[str]:
    cells = [_found(record, Cell("throughput", GREENLETS, mode)) for mode in MODES]
    columns = [part for mode in MODES for part in (f"{mode}: queries/s", "x stock", "CPU µs")]
    yield _row(f"{GREENLETS} greenlets", *columns)
    yield _row("---", *["---:"] * len(columns))
    for peer in cells[0]:
        parts = []
        for figures in (cell.get(peer) for cell in cells):
            if figures is None:
                parts += ["", "", ""]
                continue
            rate, cpu = figures["queries_per_second"], figures["cpu_us_per_query"]
            spread = f"{rate.median:,.0f} ({rate.low:,.0f} - {rate.high:,.0f})"
            parts += [spread, _times(rate), f"{cpu.median:.0f}"]
        yield _row(PEERS[peer].label, *parts)


def fairness(record: Record) -> Iterator[str]:
    found = _found(record, Cell("throughput", GREENLETS, "autocommit"))
    yield _row(f"{GREENLETS} greenlets, autocommit", "least served, % of the average")
    yield _row("---", "---:")
    for peer, figures in found.items():
        if "least_served" in figures:
            yield _row(PEERS[peer].label, f"{100 * figures['least_served'].median:.0f}")


def goals(record: Record) -> Iterator[str]:
    yield _row("what", "aimed at", "measured", "")
    yield _row("---", "---:", "---:", "---")
    for goal in record["goals"]:
        limit = f"{'≥' if goal['at_least'] else '≤'} {goal['limit']:g}"
        yield _row(goal["text"], limit, f"{goal['value']:,.4g}", "met" if goal["met"] else "missed")


SECTIONS: Mapping[str, Callable[[Record], Iterator[str]]] = {
    section.__name__: section for section in (conditions, throughput, frameworks, fairness, goals)
}


def with_figures(text: str, record: Record) -> str:
    """Return *text* with the figures of *record* in its marked sections."""

    def section(match: re.Match[str]) -> str:
        return "".join([match[1], *(f"{line}\n" for line in SECTIONS[match[2]](record)), match[3]])

    return _SECTION.sub(section, text)


def draw(record: Record) -> None:
    from benchmarks import chart, scaling_chart  # matplotlib

    results, facts = results_of(record), record["facts"]
    chart.draw(results, facts, record["settings"]["connections"], CHARTS / "benchmark.svg")
    scaling_chart.draw(results, CHARTS / "scaling.svg")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--charts", action="store_true", help="draw the charts, too")
    options = parser.parse_args(arguments)
    record = json.loads(LATEST.read_text())
    for page in PAGES:
        page.write_text(with_figures(page.read_text(), record))
    if options.charts:
        draw(record)


if __name__ == "__main__":
    main()
