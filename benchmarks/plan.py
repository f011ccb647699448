"""The measures: at which points, in which numbers, and how to read them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.job import Cell


@dataclass(frozen=True)
class Metric:
    key: str
    title: str
    scale: float = 1.0  # from the stored number to the printed one
    digits: int = 0
    spread: bool = True  # whether the table has room for it; the record has it anyway
    ratio: bool = True  # whether "times stock" says something

    def show(self, value: float) -> str:
        return f"{value * self.scale:,.{self.digits}f}"


@dataclass(frozen=True)
class Measure:
    name: str
    title: str
    counted: str  # what a cell's count counts
    counts: tuple[int, ...]
    short_counts: tuple[int, ...]
    metrics: tuple[Metric, ...]
    modes: tuple[str, ...] = ("autocommit",)


THROUGHPUT = Measure(
    name="throughput",
    title="SELECT by primary key",
    counted="greenlets",
    counts=(1, 20, 100, 1_000),
    short_counts=(100,),
    modes=("autocommit", "transactions"),
    metrics=(
        Metric("queries_per_second", "queries/s"),
        Metric("cpu_us_per_query", "CPU µs/query", digits=1, spread=False, ratio=False),
        Metric("least_served", "least served %", scale=100, spread=False, ratio=False),
    ),
)

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        THROUGHPUT,
        Measure(
            name="frameworks",
            title="An object by primary key through an ORM",
            counted="greenlets",
            counts=(200,),
            short_counts=(200,),
            modes=THROUGHPUT.modes,
            metrics=tuple(replace(metric, ratio=False) for metric in THROUGHPUT.metrics),
        ),
        Measure(
            name="recording",
            title="Measuring everything, against measuring nothing",
            counted="greenlets",
            counts=(100,),
            short_counts=(100,),
            modes=THROUGHPUT.modes,
            metrics=(
                Metric("times_without", "rate, times without", digits=3, ratio=False),
                Metric("cpu_times_without", "CPU", digits=3, spread=False, ratio=False),
            ),
        ),
        Measure(
            name="alone",
            title="A single statement, against a checkout with the same query",
            counted="greenlets",
            counts=(1,),
            short_counts=(1,),
            metrics=(
                Metric("times_checkout", "rate, times a checkout", digits=3, ratio=False),
                Metric("cpu_times_checkout", "CPU", digits=3, spread=False, ratio=False),
            ),
        ),
        Measure(
            name="crowd",
            title="Single statements, against those of 100 greenlets",
            counted="greenlets",
            counts=(1_000,),
            short_counts=(1_000,),
            metrics=(
                Metric("times_few", "rate, times that of 100", digits=3, ratio=False),
                Metric("cpu_times_few", "CPU", digits=3, spread=False, ratio=False),
            ),
        ),
        Measure(
            name="neighbours",
            title="Fast statements while one greenlet in 50 runs pg_sleep(0.2)",
            counted="greenlets",
            counts=(100,),
            short_counts=(100,),
            metrics=(
                Metric("p99_ms", "p99, ms", digits=2),
                Metric("undisturbed_p99_ms", "undisturbed", digits=2, spread=False, ratio=False),
            ),
        ),
        Measure(
            name="checkout",
            title="Checkout and return, without competition",
            counted="greenlets",
            counts=(1,),
            short_counts=(1,),
            metrics=(
                Metric("getconn_ns", "getconn + putconn, ns"),
                Metric("with_ns", "with block, ns", spread=False),
            ),
        ),
        Measure(
            name="handoff",
            title="Checkout from the line",
            counted="waiting",
            counts=(20, 1_000, 10_000),
            short_counts=(20, 1_000),
            metrics=(Metric("handoff_ns", "µs", scale=1e-3, digits=1),),
        ),
        Measure(
            name="waiter_memory",
            title="Memory of a waiter",
            counted="waiting",
            counts=(1_000, 10_000),
            short_counts=(1_000,),
            metrics=(
                Metric("waiter_bytes", "bytes beyond its greenlet"),
                Metric("greenlet_bytes", "the greenlet itself", spread=False, ratio=False),
            ),
        ),
        Measure(
            name="memory",
            title="Client memory of an idle connection",
            counted="connections",
            counts=(50,),
            short_counts=(50,),
            metrics=(Metric("connection_bytes", "KiB", scale=1 / 1024, digits=1),),
        ),
        Measure(
            name="idle",
            title="Greenlets waiting for slow statements",
            counted="greenlets",
            counts=(500,),
            short_counts=(500,),
            metrics=(Metric("cpu_percent", "% of a core", digits=2),),
        ),
    )
}


def cells(
    names: tuple[str, ...],
    *,
    short: bool,
    modes: tuple[str, ...],
    counts: tuple[int, ...] | None,
) -> list[Cell]:
    """All points to measure; ``modes`` and ``counts`` narrow down the throughput ones."""
    plan = []
    for measure in (MEASURES[name] for name in names):
        chosen = measure.short_counts if short else measure.counts
        if measure is THROUGHPUT and counts:
            chosen = counts
        for mode in measure.modes:
            if mode in modes or len(measure.modes) == 1:
                plan += [Cell(measure.name, count, mode) for count in chosen]
    return plan
