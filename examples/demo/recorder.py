"""The worker's side of the measurements: one JSON line per event in a file of its own.

No result backend and no table: a line costs some microseconds and disturbs neither the broker
nor the connections that are measured.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any


@dataclass
class Measurement:
    """One task: when it ran, how long it waited for its connection and for each query (s).

    The first query's latency includes the wait for the connection, as its caller feels it.
    """

    number: int
    slow: bool = False
    started: float = field(default_factory=monotonic)
    ended: float = 0.0
    connection_wait: float | None = None
    queries: list[float] = field(default_factory=list)
    outcome: str = "running"
    error: str | None = None


class Recorder:
    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._running: dict[str, Measurement] = {}

    def start(self, task_id: str, measurement: Measurement) -> None:
        self._running[task_id] = measurement

    def running(self, task_id: str) -> Measurement:
        return self._running[task_id]

    def finish(self, task_id: str, state: str | None, returned: Any) -> None:
        """Take over what Celery says of the task; it has no state when a time limit struck."""
        measurement = self._running.pop(task_id, None)
        if measurement is None:
            return
        measurement.ended = monotonic()
        measurement.outcome = {"SUCCESS": "ok", None: "time limit"}.get(state, "failed")
        if measurement.outcome == "failed":
            reason = str(returned).strip().splitlines() or [""]
            measurement.error = f"{type(returned).__name__}: {reason[0]}"
        self.write("task", asdict(measurement))

    def write(self, event: str, content: dict[str, Any]) -> None:
        self._file.write(json.dumps({"event": event, **content}) + "\n")
