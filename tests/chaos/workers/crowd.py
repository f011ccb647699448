"""Tasks of one worker in every phase of their work, and what became of each."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from celery.result import AsyncResult

from tests.support import wait_until
from tests.support.running_worker import RunningWorker, returned_by

CONNECTIONS = 10
KINDS = ["statement", "copy in", "copy out", "transaction", "commit"]

# What the server says of a session in that phase: its state, and how its statement begins.
_SIGNS = {
    "statement": ("active", "select pg_sleep"),
    "copy in": ("active", "copy phase_rows"),
    "copy out": ("active", "copy (select"),
    "transaction": ("idle in transaction", "insert into work_notes"),
    "commit": ("active", "commit"),
}


@dataclass(frozen=True)
class Sent:
    """One task that was sent."""

    name: str
    kind: str
    result: AsyncResult
    holds: bool
    """It had a connection when the crowd was complete; the others waited for one."""


class Crowd:
    """Sends tasks to a worker until it is full of them, and judges their ends."""

    def __init__(self, worker: RunningWorker, rng: random.Random, tag: str) -> None:
        self.worker = worker
        self.tag = tag
        self._rng = rng
        self._names = itertools.count(1)

    def send(
        self, number: int, seconds: float, *, holds: bool = False, **options: Any
    ) -> list[Sent]:
        """Send *number* tasks, of all kinds in turn, that stay for *seconds* in their phase."""
        sent = []
        for index in range(number):
            kind, name = KINDS[index % len(KINDS)], f"{next(self._names):03}"
            result = self.worker.send("phase", kind, f"{self.tag}-{name}", seconds, **options)
            sent.append(Sent(name, kind, result, holds))
        return sent

    def fill(self, seconds: float, **options: Any) -> list[Sent]:
        """Take all connections, two in each phase, and return when the server shows it."""
        sent = self.send(CONNECTIONS, seconds, holds=True, **options)
        each = CONNECTIONS // len(KINDS)
        wait_until(
            lambda: self.phases() == dict.fromkeys(KINDS, each),
            timeout=15,
            interval=0.02,
            message="there are tasks in every phase",
        )
        return sent

    def queue(self, number: int, seconds: float, **options: Any) -> list[Sent]:
        """Add *number* tasks that wait for a connection, and return when they do."""
        before = self.waiting()
        sent = self.send(number, seconds, **options)
        wait_until(lambda: self.waiting() == before + number, timeout=15, interval=0.05)
        return sent

    def waiting(self) -> int:
        return int(self.worker.call("stats")["requests_waiting"])

    def phases(self) -> Counter[str]:
        """Count the worker's sessions by the phase that the server sees them in."""
        return Counter(
            kind
            for backend in self.worker.backends()
            for kind, (state, beginning) in _SIGNS.items()
            if backend.state == state and backend.query.lower().startswith(beginning)
        )

    def judge(self, sent: list[Sent]) -> Counter[str]:
        """Return how many tasks ended how; fail if one is reported as what it is not."""
        committed = set(self.worker.notes(self.tag))
        ends: Counter[str] = Counter()
        for task in sent:
            state = task.result.state
            ends[state] += 1
            assert (state == "SUCCESS") == (task.name in committed), (
                f"{task.kind} {task.name} is reported as {state},"
                f" and {'' if task.name in committed else 'not '}committed"
            )
        return ends

    def all_returned(self) -> None:
        """Wait until every connection is idle in the pool, and use all of them at once."""

        def missing() -> int:
            stats = self.worker.call("stats")
            return int(stats["pool_size"] - stats["pool_available"] + stats["requests_waiting"])

        wait_until(lambda: missing() == 0, interval=0.05, message="all connections are back")
        results = [self.worker.send("backend", 0.3) for _ in range(CONNECTIONS)]
        assert len(set(returned_by(results, 10))) == CONNECTIONS
        assert len(self.worker.backends()) == CONNECTIONS

    def shuffled(self, sent: list[Sent]) -> list[Sent]:
        return self._rng.sample(sent, len(sent))
