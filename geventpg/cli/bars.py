"""A chart of a benchmark's record, made of characters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Bar:
    """One peer's rate."""

    peer: str
    per_second: float
    ratio: float | None
    """To stock psycopg_pool's, if that took part."""


def bars_of(record: Mapping[str, Any]) -> dict[str, list[Bar]]:
    """Return the bars for each mode in *record*, the fastest first."""
    modes: dict[str, list[Bar]] = {}
    for result in record["results"]:
        rate = result["figures"].get("queries_per_second")
        if rate is not None:
            mode = f"{result['cell']['mode']}, {result['cell']['count']} greenlets"
            bar = Bar(result["peer"], rate["median"], rate["ratio"])
            modes.setdefault(mode, []).append(bar)
    return {mode: sorted(bars, key=lambda bar: -bar.per_second) for mode, bars in modes.items()}


def draw(bars: list[Bar], labels: Mapping[str, str], width: int) -> list[str]:
    """Return a line for each bar, *width* characters at most."""
    names = {bar.peer: labels.get(bar.peer, bar.peer) for bar in bars}
    margin = max(map(len, names.values()), default=0)
    room = max(width - margin - 20, 10)
    most = max((bar.per_second for bar in bars), default=0.0)
    drawn = []
    for bar in bars:
        eighths = round(8 * room * bar.per_second / most) if most else 0
        blocks = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        ratio = "" if bar.ratio is None else f"  {bar.ratio:.2f}x"
        drawn.append(f"{names[bar.peer]:<{margin}} {blocks} {bar.per_second:,.0f}{ratio}")
    return drawn
