"""The tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.goals import Goal
from benchmarks.job import Cell
from benchmarks.plan import MEASURES, Measure, Metric
from benchmarks.registry import PEERS, STOCK, SUBJECT
from benchmarks.rounds import Outcome
from benchmarks.summary import Figure, Result


def print_facts(console: Console, facts: Mapping[str, Any]) -> None:
    server = facts["postgresql"]
    console.print(
        f"{facts['cpu_count']} cores, {facts['processor']}, {facts['python']}, "
        f"PostgreSQL {server['version']} through {server['reached_through']}",
        style="dim",
        highlight=False,
    )


def print_results(
    console: Console, results: Sequence[Result], outcome: Outcome, absent: Mapping[str, str]
) -> None:
    def kind(result: Result) -> tuple[str, str]:
        return result.cell.measure, result.cell.mode

    for (name, mode), group in groupby(results, kind):
        console.print(_table(MEASURES[name], mode, list(group)), "")
    for peer, reason in absent.items():
        console.print(f"{PEERS[peer].label} left out: {reason}", style="yellow")
    for (peer, reason), cells in _failures(outcome).items():
        where = ", ".join(f"{cell.measure} {cell.count:,} {cell.mode}" for cell in cells)
        console.print(f"{PEERS[peer].label} failed: {reason} ({where})", style="red", markup=False)


def _failures(outcome: Outcome) -> dict[tuple[str, str], list[Cell]]:
    """The same failure of the same peer is told once."""
    told: dict[tuple[str, str], list[Cell]] = {}
    for (cell, peer), reason in outcome.failures.items():
        told.setdefault((peer, reason), []).append(cell)
    return told


def _table(measure: Measure, mode: str, results: Sequence[Result]) -> Table:
    title = measure.title if len(measure.modes) == 1 else f"{measure.title}, {mode}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", no_wrap=True)
    for metric in measure.metrics:
        longest_word = max(map(len, metric.title.split()))
        table.add_column(metric.title, justify="right", min_width=longest_word)
        if metric.spread:
            table.add_column("min - max", justify="right", style="dim", no_wrap=True)
        if metric.ratio:
            table.add_column("x stock", justify="right", min_width=5)
    for count, group in groupby(results, lambda result: result.cell.count):
        table.add_row(f"{measure.counted}: {count:,}", style="italic")
        for result in group:
            table.add_row(
                f"  {PEERS[result.peer].label}",
                *(
                    text
                    for metric in measure.metrics
                    for text in _cells(metric, result.figures.get(metric.key))
                ),
                style={SUBJECT: "bold green", STOCK: "bold"}.get(result.peer),
            )
        table.add_section()
    return table


def _cells(metric: Metric, figure: Figure | None) -> Iterator[str]:
    yield metric.show(figure.median) if figure else ""
    if metric.spread:
        yield f"{metric.show(figure.low)} - {metric.show(figure.high)}" if figure else ""
    if metric.ratio:
        yield f"{figure.ratio:.2f}" if figure and figure.ratio is not None else ""


def print_goals(console: Console, promised: Sequence[Goal]) -> None:
    if not promised:
        return
    table = Table(title="Goals", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.add_column("goal")
    table.add_column("limit", justify="right")
    table.add_column("measured", justify="right")
    table.add_column("")
    for goal in promised:
        table.add_row(
            goal.text,
            f"{'≥' if goal.at_least else '≤'} {goal.limit:g}",
            f"{goal.value:,.4g}",
            "[green]met[/]" if goal.met else "[red]missed[/]",
        )
    console.print(table, "")
