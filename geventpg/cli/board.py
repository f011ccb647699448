"""The rows of `top`, made of what workers answer: values and texts, no terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from .output import duration, milliseconds

Key = tuple[str, int, str]


@dataclass(frozen=True)
class Row:
    """One pool of one process of one worker."""

    worker: str
    pid: int
    pool: str = ""
    max_size: int = 0
    in_use: int = 0
    idle: int = 0
    waiting: int = 0
    requests: int = 0
    wait_ms: int = 0
    held_ms: int = 0
    evicted: int = 0
    oldest: float | None = None
    """The time (s) for which the longest holder has had its connection."""
    rate: float | None = None
    """Checkouts a second since the last answer; this and the next two are unknown at first."""
    wait: float | None = None
    """The mean wait (s) of these checkouts."""
    held: float | None = None
    """The mean time (s) for which they held their connection."""
    error: str = ""
    """The reason why nothing else is known of the process."""

    @property
    def key(self) -> Key:
        """The identity of the row, the same in every answer."""
        return self.worker, self.pid, self.pool


@dataclass(frozen=True)
class Held:
    """One holder of a connection."""

    worker: str
    pid: int
    pool: str
    seconds: float
    task: str
    task_id: str
    backend: int
    transaction: str
    statement: str


@dataclass(frozen=True)
class Board:
    """The answers of all workers to one question."""

    rows: tuple[Row, ...]
    holders: tuple[Held, ...]
    """Of all pools, the longest first."""
    taken_at: float
    """``time.monotonic``."""

    @property
    def workers(self) -> int:
        """The number of workers that answered."""
        return len({row.worker for row in self.rows})

    @property
    def waiting(self) -> int:
        """The number of greenlets that wait for a connection."""
        return sum(row.waiting for row in self.rows)

    @property
    def in_use(self) -> int:
        """The number of connections in use."""
        return sum(row.in_use for row in self.rows)


SORTS: dict[str, Callable[[Row], Any]] = {
    "waiting": lambda row: (-row.waiting, -row.in_use, row.key),
    "in-use": lambda row: (-row.in_use, -row.waiting, row.key),
    "oldest": lambda row: (-(row.oldest or 0.0), row.key),
    "rate": lambda row: (-(row.rate or 0.0), row.key),
    "worker": lambda row: row.key,
}
"""How rows can be sorted; processes that gave no answer come first."""


def read(
    answers: Mapping[str, Any], now: float, before: Board | None = None, sort: str = "waiting"
) -> Board:
    """Return the board of what workers answered; rates are those since *before*."""
    earlier = {row.key: row for row in before.rows} if before is not None else {}
    seconds = now - before.taken_at if before is not None else 0.0
    rows: list[Row] = []
    held: list[Held] = []
    for worker, answer in answers.items():
        for process in answer.get("processes", ()):
            if "error" in process:
                rows.append(Row(worker, process["pid"], error=str(process["error"])))
            for pool in process.get("pools", ()):
                rows.append(_row(worker, process["pid"], pool, earlier, seconds))
                held += [_held(worker, process["pid"], pool["pool"], h) for h in pool["holders"]]
        if "error" in answer:
            rows.append(Row(worker, 0, error=str(answer["error"])))
    order = SORTS[sort]
    return Board(
        rows=tuple(sorted(rows, key=lambda row: (not row.error, order(row)))),
        holders=tuple(sorted(held, key=lambda holder: -holder.seconds)),
        taken_at=now,
    )


def _row(
    worker: str, pid: int, pool: Mapping[str, Any], earlier: Mapping[Key, Row], seconds: float
) -> Row:
    oldest = max((holder["seconds"] for holder in pool["holders"]), default=None)
    last = earlier.get((worker, pid, pool["pool"]))
    rate = wait = held = None
    # Counters that went back belong to a pool that was opened anew.
    if last is not None and seconds > 0 and pool["requests"] >= last.requests:
        uses = pool["requests"] - last.requests
        rate = uses / seconds
        if uses:
            wait = max(pool["wait_ms"] - last.wait_ms, 0) / 1000 / uses
            held = max(pool["held_ms"] - last.held_ms, 0) / 1000 / uses
    shown = {name: value for name, value in pool.items() if name in _ROW_FIELDS}
    return Row(worker, pid, **shown, oldest=oldest, rate=rate, wait=wait, held=held)


_ROW_FIELDS = {field.name for field in fields(Row)}


def _held(worker: str, pid: int, pool: str, holder: Mapping[str, Any]) -> Held:
    return Held(
        worker=worker,
        pid=pid,
        pool=pool,
        seconds=holder["seconds"],
        task=holder["task"] or holder["greenlet"],
        task_id=holder["task_id"] or "",
        backend=holder["pid"],
        transaction=holder["transaction"],
        statement=holder["statement"] or "",
    )


def cells(row: Row) -> list[str]:
    """Return the texts of `TITLES` for *row*."""
    if row.error:
        return [row.worker, str(row.pid or ""), row.error, *[""] * (len(TITLES) - 3)]
    return [
        row.worker,
        str(row.pid),
        row.pool,
        f"{row.in_use}/{row.max_size}",
        str(row.idle),
        str(row.waiting),
        "" if row.rate is None else f"{row.rate:,.1f}",
        "" if row.wait is None else milliseconds(row.wait),
        "" if row.held is None else milliseconds(row.held),
        "" if row.oldest is None else duration(row.oldest),
        str(row.evicted),
    ]


TITLES = (
    *("worker", "pid", "pool", "in use", "idle", "waiting", "uses/s", "wait", "held", "longest"),
    "lost",
)


def lines(board: Board, most: int) -> list[str]:
    """Return the board as lines for logs and pipes; of the holders the *most* longest."""
    shown = []
    for row in board.rows:
        if row.error:
            shown.append(f"{row.worker} pid={row.pid}: {row.error}")
            continue
        texts = dict(zip(TITLES[2:], cells(row)[2:], strict=True))
        known = {name.replace(" ", "_"): text for name, text in texts.items() if text}
        pairs = " ".join(f"{name}={text.replace(' ', '')}" for name, text in known.items())
        shown.append(f"{row.worker} pid={row.pid} {pairs}")
    return shown + [
        f"{held.worker} pid={held.pid} held for {duration(held.seconds)} by"
        f" {held.task}[{held.task_id}], backend {held.backend}, {held.transaction}:"
        f" {held.statement or 'no statement runs'}"
        for held in board.holders[:most]
    ]
