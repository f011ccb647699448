"""Medians over rounds, their spread, and ratios to stock psycopg_pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.job import Cell
from benchmarks.plan import MEASURES
from benchmarks.registry import STOCK
from benchmarks.rounds import Outcome, Samples


@dataclass(frozen=True)
class Figure:
    """One metric of one peer at one cell."""

    median: float
    low: float
    high: float
    values: tuple[float, ...]
    ratio: float | None = None  # median over rounds of this peer's value to stock's in that round


@dataclass(frozen=True)
class Result:
    cell: Cell
    peer: str
    figures: dict[str, Figure]


def figure(samples: Samples, cell: Cell, peer: str, metric: str) -> Figure | None:
    by_round = {n: sample[metric] for n, sample in samples[cell, peer].items() if metric in sample}
    if not by_round:
        return None
    stock = samples.get((cell, STOCK), {})
    ratios = [
        value / stock[number][metric]
        for number, value in by_round.items()
        if number in stock and stock[number].get(metric)
    ]
    values = tuple(by_round.values())
    return Figure(
        median=median(values),
        low=min(values),
        high=max(values),
        values=values,
        ratio=median(ratios) if ratios else None,
    )


def summarize(outcome: Outcome, cells: Sequence[Cell], peers: Sequence[str]) -> list[Result]:
    results = []
    for cell in cells:
        for peer in peers:
            if (cell, peer) not in outcome.samples:
                continue
            figures = {
                metric.key: found
                for metric in MEASURES[cell.measure].metrics
                if (found := figure(outcome.samples, cell, peer, metric.key)) is not None
            }
            results.append(Result(cell, peer, figures))
    return results
