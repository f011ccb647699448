"""What a scenario measured, beside the bound it promises; printed for all at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

REPORT_VARIABLE = "GEVENTPG_CHAOS_REPORT"
PROPERTY = "figure"  # among the user_properties of a test


@dataclass(frozen=True)
class Figure:
    """One measurement. *limit* is the most, or with ``at_most=False`` the least, it may be."""

    scenario: str
    name: str
    value: float
    limit: float
    unit: str
    at_most: bool
    seed: str

    @property
    def kept(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    @property
    def bound(self) -> str:
        return f"{'at most' if self.at_most else 'at least'} {shown(self.limit, self.unit)}"

    @property
    def margin(self) -> float:
        """How much better than its bound it is; the smallest is the worst of several runs."""
        return self.limit - self.value if self.at_most else self.value - self.limit


class Figures:
    """Notes the figures of one scenario and fails it for one that breaks its bound."""

    def __init__(self, properties: list[tuple[str, object]], scenario: str, seed: str) -> None:
        self._properties = properties
        self._scenario = scenario
        self._seed = seed

    def at_most(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._note(Figure(self._scenario, name, value, limit, unit, True, self._seed))

    def at_least(self, name: str, value: float, limit: float, unit: str = "") -> None:
        self._note(Figure(self._scenario, name, value, limit, unit, False, self._seed))

    def _note(self, figure: Figure) -> None:
        self._properties.append((PROPERTY, asdict(figure)))
        what = f"{figure.name}: {shown(figure.value, figure.unit)} ({figure.bound})"
        assert figure.kept, what


def shown(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".rstrip()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose columns are as wide as they need to be."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def summary(figures: Sequence[Figure]) -> list[str]:
    head = ("scenario", "measured", "figure", "bound", "seed")
    return table(
        head,
        [
            (
                figure.scenario,
                figure.name,
                shown(figure.value, figure.unit) + ("" if figure.kept else " !"),
                figure.bound,
                figure.seed,
            )
            for figure in figures
        ],
    )


def save(figures: Sequence[Figure]) -> None:
    """Write *figures* as JSON where GEVENTPG_CHAOS_REPORT says, if it does."""
    path = os.environ.get(REPORT_VARIABLE)
    if path:
        Path(path).write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


def load(path: Path) -> list[Figure]:
    """Read what `save` wrote; nothing if it did not come to that."""
    if not path.exists():
        return []
    return [Figure(**entry) for entry in json.loads(path.read_text())]
