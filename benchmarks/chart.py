"""The chart of queries per second: bars with their spread, and CPU per query as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.registry import PEERS, STOCK, SUBJECT
from benchmarks.summary import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREENLETS = 100
MODES = ("autocommit", "transactions")
INK, QUIET, GRID = "#24292f", "#6e7781", "#eaeef2"
COLOURS = {SUBJECT: "#2da44e", STOCK: "#57606a"}
OTHERS = "#afb8c1"


def draw(results: Sequence[Result], facts: Mapping[str, Any], connections: int, path: Path) -> bool:
    """Write the chart (by the name's ending: SVG, PNG, ...); False if nothing fits in it."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "geventpg"  # the same figures, the same file
    from matplotlib import pyplot as plt

    panels = {mode: bars for mode in MODES if (bars := _bars(results, mode))}
    if not panels:
        return False
    heights = [0.32 * len(bars) + 0.75 for bars in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        2,
        figsize=(10, sum(heights) + 0.9),
        width_ratios=(3, 1),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    figure.suptitle(
        f"SELECT by primary key, {GREENLETS} greenlets sharing {connections} connections",
        color=INK,
        fontweight="bold",
    )
    for (mode, bars), (rates, cpu) in zip(panels.items(), axes, strict=True):
        _draw_rates(rates, mode, bars)
        _draw_cpu(cpu, bars)
    starved = any(map(_starves, (result for bars in panels.values() for result in bars)))
    figure.supxlabel(_footnote(facts, starved), color=QUIET, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
    return True


def _bars(results: Sequence[Result], mode: str) -> list[Result]:
    """Slowest first: matplotlib counts from the bottom."""
    chosen = [
        result
        for result in results
        if (result.cell.measure, result.cell.count, result.cell.mode)
        == ("throughput", GREENLETS, mode)
    ]
    return sorted(chosen, key=lambda result: result.figures["queries_per_second"].median)


def _starves(result: Result) -> bool:
    """Whether some greenlets got nothing in any round, while others got everything."""
    served = result.figures.get("least_served")
    return served is not None and served.high == 0


def _footnote(facts: Mapping[str, Any], starved: bool) -> str:
    machine = (
        f"medians and spread of interleaved rounds · {facts['cpu_count']} cores"
        f" · {facts['python']} · PostgreSQL {facts['postgresql']['version'].split()[0]}"
    )
    return machine + (" · * some greenlets were never served" if starved else "")


def _draw_rates(axis: Axes, mode: str, bars: Sequence[Result]) -> None:
    places = range(len(bars))
    rates = [result.figures["queries_per_second"] for result in bars]
    axis.barh(
        places,
        [rate.median for rate in rates],
        xerr=(
            [rate.median - rate.low for rate in rates],
            [rate.high - rate.median for rate in rates],
        ),
        color=[COLOURS.get(result.peer, OTHERS) for result in bars],
        error_kw={"ecolor": INK, "elinewidth": 1, "capsize": 2},
        height=0.68,
    )
    end = max(rate.high for rate in rates)
    axis.set_xlim(0, end * 1.2)
    for place, rate in zip(places, rates, strict=True):
        ratio = f"  {rate.ratio:.1f}x" if rate.ratio else ""
        axis.annotate(
            f"{rate.median:,.0f}{ratio}",
            (rate.high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8.5,
        )
    axis.set_yticks(
        places, [PEERS[result.peer].label + (" *" if _starves(result) else "") for result in bars]
    )
    axis.xaxis.set_major_formatter("{x:,.0f}")
    _plain(axis, f"queries/s, {mode}", len(bars))
    for label, result in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_color(INK)
        label.set_fontweight("bold" if result.peer == SUBJECT else "normal")


def _draw_cpu(axis: Axes, bars: Sequence[Result]) -> None:
    places = range(len(bars))
    used = [result.figures["cpu_us_per_query"] for result in bars]
    axis.plot([figure.median for figure in used], places, color=QUIET, linewidth=1)
    axis.hlines(places, [f.low for f in used], [f.high for f in used], color=INK, linewidth=1)
    axis.scatter(
        [figure.median for figure in used],
        places,
        color=[COLOURS.get(result.peer, OTHERS) for result in bars],
        edgecolors=INK,
        linewidths=0.6,
        zorder=3,
    )
    axis.set_xlim(0, max(figure.high for figure in used) * 1.25)
    axis.set_yticks([])
    for place, figure in zip(places, used, strict=True):
        axis.annotate(
            f"{figure.median:.0f}",
            (figure.high, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=8.5,
        )
    _plain(axis, "client CPU per query, µs", len(bars))


def _plain(axis: Axes, title: str, rows: int) -> None:
    axis.set_ylim(-0.6, rows - 0.4)  # both panels of a row the same
    axis.set_xlabel(title, color=INK, fontsize=9)
    axis.tick_params(colors=QUIET, labelsize=8.5, length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.grid(axis="x", color=GRID)
    axis.set_axisbelow(True)
