"""What geventpg promises, against what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.job import Cell
from benchmarks.registry import STATEMENTS, STOCK, SUBJECT
from benchmarks.summary import Figure, Result, quotient


@dataclass(frozen=True)
class Goal:
    text: str
    value: float
    limit: float
    at_least: bool

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


class _Figures:
    """Finds a number in the results, or None where this run has not measured it."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = {(result.cell, result.peer): result for result in results}

    def median(self, cell: Cell, metric: str, peer: str = SUBJECT) -> float | None:
        found = self._figure(cell, metric, peer)
        return found.median if found else None

    def times(self, metric: str, one: tuple[Cell, str], other: tuple[Cell, str]) -> float | None:
        """How many times the other's number the one's is, each a peer at a cell."""
        found = [self._figure(cell, metric, peer) for cell, peer in (one, other)]
        return quotient(*(figure.by_round if figure else {} for figure in found))

    def times_stock(self, cell: Cell, metric: str) -> float | None:
        found = self._figure(cell, metric, SUBJECT)
        return found.ratio if found else None

    def _figure(self, cell: Cell, metric: str, peer: str) -> Figure | None:
        result = self._results.get((cell, peer))
        return result.figures.get(metric) if result else None


def _promises(figures: _Figures) -> Iterator[tuple[str, float | None, float, bool]]:
    """(what, measured, limit, whether the limit is a lower one)."""
    for metric, what in (("getconn_ns", "getconn + putconn"), ("with_ns", "with block")):
        cost = figures.times_stock(Cell("checkout", 1), metric)
        yield f"{what}, of stock's time", cost, 0.2, False
    for mode in ("autocommit", "transactions"):
        few, some, many = (Cell("throughput", count, mode) for count in (20, 100, 1_000))
        rate, cpu = "queries_per_second", "cpu_us_per_query"
        yield f"100 greenlets, {mode}, times stock", figures.times_stock(some, rate), 2.0, True
        green = figures.times(rate, (some, SUBJECT), (some, "psycogreen"))
        yield f"100 greenlets, {mode}, times psycogreen", green, 1.0, True
        recording = Cell("recording", 100, mode)
        measured = figures.median(recording, "times_without", "geventpg-metrics")
        yield f"100 greenlets, {mode}, metrics on, times without", measured, 0.97, True
        growth = figures.times(cpu, (many, SUBJECT), (few, SUBJECT))
        yield f"CPU per query at 1,000 greenlets to 20, {mode}", growth, 1.3, False
    yield from _promises_of_frameworks(figures)
    yield from _promises_of_statements(figures)
    short, long = Cell("handoff", 20), Cell("handoff", 10_000)
    growth = figures.times("handoff_ns", (long, SUBJECT), (short, SUBJECT))
    yield "checkout with 10,000 waiting to 20", growth, 2.0, False
    for count in (1_000, 10_000):
        bytes_each = figures.median(Cell("waiter_memory", count), "waiter_bytes")
        yield f"bytes per waiter, {count:,} waiting", bytes_each, 1024.0, False
    percent = figures.median(Cell("idle", 500), "cpu_percent")
    yield "500 waiting greenlets, percent of a core", percent, 1.0, False


def _promises_of_frameworks(
    figures: _Figures,
) -> Iterator[tuple[str, float | None, float, bool]]:
    for mode in ("autocommit", "transactions"):
        for ours, others in _FRAMEWORKS.items():
            for other in others:
                cell = Cell("frameworks", 200, mode)
                times = figures.times("queries_per_second", (cell, ours), (cell, other))
                yield f"200 greenlets, {mode}, {ours} times {other}", times, 1.0, True


_FRAMEWORKS = {
    "sqlalchemy-geventpg-orm": ("sqlalchemy-orm",),
    "django-geventpg": ("django-native", "django"),
}


def _promises_of_statements(
    figures: _Figures,
) -> Iterator[tuple[str, float | None, float, bool]]:
    rate, cpu = "queries_per_second", "cpu_us_per_query"
    some = Cell("throughput", 100)
    for name, limit in ((STOCK, 4.5), ("asyncpg", 4.0), ("pgbench", 1.0)):
        times = figures.times(rate, (some, STATEMENTS), (some, name))
        yield f"statements, 100 greenlets, times {name}", times, limit, True
    each = figures.median(some, cpu, STATEMENTS)
    yield "statements, CPU µs each at 100 greenlets", each, 12.0, False
    alone = figures.median(Cell("alone", 1), "times_checkout", STATEMENTS)
    yield "statements, 1 greenlet, times a checkout", alone, 1.0, True
    crowd = figures.median(Cell("crowd", 1_000), "times_few", STATEMENTS)
    yield "statements, 1,000 greenlets, times 100", crowd, 1.0, True
    beside = Cell("neighbours", 100)
    p99, before = (
        figures.median(beside, metric, STATEMENTS) for metric in ("p99_ms", "undisturbed_p99_ms")
    )
    slower = p99 / before if p99 is not None and before else None
    yield "statements, p99 beside pg_sleep(0.2), times undisturbed", slower, 3.0, False


def goals(results: Sequence[Result]) -> list[Goal]:
    """Those goals that this run says something about."""
    return [
        Goal(text, value, limit, at_least)
        for text, value, limit, at_least in _promises(_Figures(results))
        if value is not None
    ]
