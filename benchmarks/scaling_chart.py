"""A chart of queries per second against the number of greenlets, a line for each peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.chart import COLOURS, GRID, INK, MODES, OTHERS, QUIET
from benchmarks.registry import PEERS, SUBJECT
from benchmarks.summary import Figure, Result

# pgbench has no pool: it has as many clients as there are connections, whatever the greenlets.
LEFT_OUT = {"pgbench"}
_MARKS = "osD^v<>PX*hd"


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the chart; peers that were not measured with every number of greenlets are left out."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "geventpg"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(MODES), figsize=(10, 4), layout="constrained")
    for mode, axis in zip(MODES, axes, strict=True):
        lines = _lines(results, mode)
        most = max(map(len, lines.values()), default=0)
        for number, (peer, points) in enumerate(lines.items()):
            if len(points) < most:
                continue
            axis.plot(
                list(points),
                [rate.median for rate in points.values()],
                color=COLOURS.get(peer, OTHERS),
                marker=_MARKS[number % len(_MARKS)],
                markeredgecolor=INK,
                markeredgewidth=0.4,
                markersize=5,
                linewidth=2.5 if peer == SUBJECT else 1.3,
                zorder=3 if peer == SUBJECT else 2,
                label=PEERS[peer].label,
            )
        axis.set_xscale("log")
        counts = sorted({count for points in lines.values() for count in points})
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_xlabel("greenlets (or tasks)", color=INK, fontsize=9)
        axis.set_title(f"queries/s, {mode}", color=INK, fontsize=10)
        axis.tick_params(colors=QUIET, labelsize=8.5, length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.grid(color=GRID)
        axis.set_axisbelow(True)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _lines(results: Sequence[Result], mode: str) -> dict[str, dict[int, Figure]]:
    """Return, by peer, the rate at each number of greenlets."""
    lines: dict[str, dict[int, Figure]] = {}
    for result in sorted(results, key=lambda result: result.cell.count):
        cell = result.cell
        if (cell.measure, cell.mode) == ("throughput", mode) and result.peer not in LEFT_OUT:
            points = lines.setdefault(result.peer, {})
            points[cell.count] = result.figures["queries_per_second"]
    return {peer: lines[peer] for peer in PEERS if peer in lines}
