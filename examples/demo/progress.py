"""Live progress: a bar per way on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .plan import TASKS, TITLES

PLAIN_LINE_SECONDS = 5.0

FINAL = ("done", "stopped")

# Called with the way, the tasks that ended, those that failed, and what is going on.
Report = Callable[[str, int, int, str], None]


@contextmanager
def progress(console: Console, ways: Sequence[str]) -> Iterator[Report]:
    if not console.is_terminal:
        yield _PlainLines(console)
        return
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[activity]}"),
        console=console,
    )
    ids = {
        way: bars.add_task(TITLES[way], total=TASKS, failed=0, activity="", start=False)
        for way in ways
    }

    def report(way: str, ended: int, failed: int, activity: str) -> None:
        bars.start_task(ids[way])
        bars.update(ids[way], completed=ended, failed=failed, activity=activity)
        if activity in FINAL:
            bars.stop_task(ids[way])

    with bars:
        yield report


class _PlainLines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = ("", "")
        self._next = 0.0

    def __call__(self, way: str, ended: int, failed: int, activity: str) -> None:
        if (way, activity) == self._last and monotonic() < self._next:
            return
        self._last = (way, activity)
        self._next = monotonic() + PLAIN_LINE_SECONDS
        self._console.print(
            f"{TITLES[way]}: {activity}, {ended}/{TASKS} tasks, {failed} failed",
            highlight=False,
            soft_wrap=True,
        )
