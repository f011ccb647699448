"""The table, and the lines below it that say what was done to get it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .plan import (
    CONCURRENCY,
    MAX_SIZE,
    MIN_SIZE,
    OTHER_IO_SECONDS,
    QUERY_SECONDS,
    SLOW_SECONDS,
    SLOW_TASKS,
    TASKS,
    TIME_LIMIT,
    TITLES,
)
from .results import WayResult, percentile

Cell = Callable[[WayResult], str]


def print_results(console: Console, results: list[WayResult], broker: str, logs: Path) -> None:
    table = Table(title=f"{TASKS:,} tasks, {CONCURRENCY} greenlets, pools of {MAX_SIZE}")
    table.add_column("")
    for result in results:
        table.add_column(TITLES[result.way], justify="right")
    for label, cell in ROWS:
        table.add_row(label, *(cell(result) for result in results))
    console.print()
    console.print(table)
    for note in _notes(results, broker, logs):
        console.print(f"- {note}", highlight=False, soft_wrap=not console.is_terminal)


def _latency(percent: float) -> Cell:
    return lambda result: _ms(percentile(result.query_ms, percent))


def _wait(result: WayResult) -> str:
    # The shared connection's queue is a lock inside execute(), so its wait is in the latency only.
    return "in execute()" if result.capacity == 1 else _ms(percentile(result.wait_ms, 95))


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:,.1f}"


def _failed(result: WayResult) -> str:
    not_ended = TASKS - len(result.tasks)
    failed = _bad(result.failed)
    return f"{failed} [red]+ {not_ended} hung[/]" if not_ended else failed


def _lost(result: WayResult) -> str:
    if result.usable is None:
        return "[red]no answer[/]"
    return f"{_bad(result.capacity - result.usable)} of {result.capacity}"


def _backends(result: WayResult) -> str:
    text = str(result.backends_most)
    return f"[red]{text}[/]" if result.backends_most > result.capacity else text


def _bad(count: int) -> str:
    return f"[red]{count}[/]" if count else "[green]0[/]"


ROWS: tuple[tuple[str, Cell], ...] = (
    ("query latency, p50 (ms)", _latency(50)),
    ("query latency, p95 (ms)", _latency(95)),
    ("query latency, p99 (ms)", _latency(99)),
    ("connection wait, p95 (ms)", _wait),
    ("tasks per second", lambda result: f"{result.tasks_per_second:,.0f}"),
    ("failed tasks", _failed),
    ("tasks ended by time limit", lambda result: f"{result.time_limited} of {SLOW_TASKS}"),
    ("backends used, at most", _backends),
    ("statements left on the server", lambda result: _bad(result.statements_left)),
    ("connections lost from the pool", _lost),
)


def _notes(results: list[WayResult], broker: str, logs: Path) -> list[str]:
    killed = ", ".join(f"{TITLES[result.way]} {result.backends_killed}" for result in results)
    work = (
        f"A task is three statements of {1000 * QUERY_SECONDS:.0f} ms on the server, each with"
        f" {1000 * OTHER_IO_SECONDS:.0f} ms of other I/O after it. Latency is what the caller"
        " waits; that of a task's first query includes the wait for its connection. Latency and"
        " tasks per second are over the whole run, what follows the faults included."
    )
    fault = f"Once, in a quiet moment, all idle backends were terminated: {killed}."
    limits = (
        f"{SLOW_TASKS} tasks, sent together, ran pg_sleep({SLOW_SECONDS}) with a time limit of"
        f" {TIME_LIMIT} s. Meeting it is not a failure."
    )
    sizes = (
        f"The pools: min_size {MIN_SIZE}, max_size {MAX_SIZE}, otherwise their defaults. The"
        " shared connection is in autocommit mode and opened again when found closed."
    )
    files = (
        f"Broker: {broker}. Logs in {logs}: <way>.log is the worker's own log, <way>.jsonl has one"
        " line per task (outcome, error, seconds for connection and queries)."
    )
    return [work, fault, limits, sizes, *_failures(results), files]


def _failures(results: list[WayResult]) -> list[str]:
    notes = []
    for result in results:
        title = TITLES[result.way]
        if result.stopped:
            notes.append(f"{title}: {result.stopped}.")
        notes += [f"{title}, {count} failed with {error}" for error, count in result.errors[:4]]
    return notes
