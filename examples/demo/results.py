"""The demo's side of the measurements: reads the worker's lines and sums them up."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import STAGES
from .recorder import Measurement


class ResultsFile:
    """Follows the file that the worker writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")
        self._offset = 0
        self._partial = ""
        self.tasks: list[Measurement] = []
        self.ready = False
        self.probe: dict[str, int] | None = None

    def poll(self) -> None:
        with self.path.open(encoding="utf-8") as file:
            file.seek(self._offset)
            text = self._partial + file.read()
            self._offset = file.tell()
        *lines, self._partial = text.split("\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, content: dict[str, Any]) -> None:
        event = content.pop("event")
        if event == "task":
            self.tasks.append(Measurement(**content))
        elif event == "probe":
            self.probe = content
        else:
            self.ready = True


@dataclass
class WayResult:
    """What the table says of one way."""

    way: str
    tasks: list[Measurement] = field(default_factory=list)
    stopped: str | None = None
    backends_killed: int = 0
    backends_most: int = 0
    statements_left: int = 0
    capacity: int = 0
    usable: int | None = None  # None: the worker did not answer

    @property
    def ok(self) -> int:
        return self._outcomes()["ok"]

    @property
    def failed(self) -> int:
        return self._outcomes()["failed"]

    @property
    def time_limited(self) -> int:
        return self._outcomes()["time limit"]

    @property
    def errors(self) -> list[tuple[str, int]]:
        return Counter(task.error for task in self.tasks if task.error).most_common()

    @property
    def query_ms(self) -> list[float]:
        return sorted(1000 * query for task in self._normal() for query in task.queries)

    @property
    def wait_ms(self) -> list[float]:
        waits = (task.connection_wait for task in self._normal())
        return sorted(1000 * wait for wait in waits if wait is not None)

    @property
    def tasks_per_second(self) -> float:
        """Successful tasks by the time between the first start and the last end of each stage."""
        busy = 0.0
        first = 0
        for stage in STAGES:
            numbers = range(first, first + stage.count)
            first += stage.count
            tasks = [task for task in self._normal() if task.number in numbers]
            if tasks:
                busy += max(task.ended for task in tasks) - min(task.started for task in tasks)
        return self.ok / busy if busy else 0.0

    def _normal(self) -> Iterable[Measurement]:
        return (task for task in self.tasks if not task.slow)

    def _outcomes(self) -> Counter[str]:
        return Counter(task.outcome for task in self.tasks)


def percentile(ordered: list[float], percent: float) -> float | None:
    """The value that `percent` of the (sorted) values do not exceed."""
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
