"""Medians over rounds, their spread, and ratios to stock psycopg_pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    rounds: tuple[int, ...]  # in which they were measured
    ratio: float | None = None  # to stock's: see `quotient`

    @property
    def by_round(self) -> dict[int, float]:
        return dict(zip(self.rounds, self.values, strict=True))


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
    values = tuple(by_round.values())
    return Figure(
        median=median(values),
        low=min(values),
        high=max(values),
        values=values,
        rounds=tuple(by_round),
        ratio=quotient(by_round, {n: sample.get(metric, 0.0) for n, sample in stock.items()}),
    )


def quotient(ones: Mapping[int, float], others: Mapping[int, float]) -> float | None:
    """Return the median over rounds of one's value to the other's in that round.

    Both were measured within seconds then, and met the same mood of the machine.
    """
    found = [one / others[number] for number, one in ones.items() if others.get(number)]
    return median(found) if found else None


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
