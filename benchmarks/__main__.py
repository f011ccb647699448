"""Measure, print, record."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import chart, database, record, report
from benchmarks.facts import machine_facts
from benchmarks.goals import goals
from benchmarks.job import Cell
from benchmarks.options import Options, parse
from benchmarks.plan import cells
from benchmarks.registry import PEERS
from benchmarks.rounds import Outcome, run_rounds, schedule
from benchmarks.summary import summarize


def take_samples(
    console: Console, options: Options, plan: Sequence[Cell], peers: Sequence[str], conninfo: str
) -> Outcome:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    total = sum(1 for _ in schedule(options.rounds, plan, peers))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)

        def progress(number: int, cell: Cell, peer: str) -> None:
            what = f"round {number + 1}: {cell.measure} {cell.count:,} {PEERS[peer].label}"
            bar.update(task, advance=1, description=what)

        return run_rounds(
            options.rounds,
            plan,
            peers,
            conninfo=conninfo,
            seconds=options.seconds,
            connections=options.connections,
            progress=progress,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    reasons = {name: PEERS[name].missing() for name in options.peers}
    absent = {name: reason for name, reason in reasons.items() if reason is not None}
    peers = [name for name in options.peers if name not in absent]
    plan = cells(options.only, short=options.short, modes=options.modes, counts=options.greenlets)

    with database.server(options.dsn) as conninfo, database.table(conninfo) as server:
        facts = machine_facts(peers, server)
        report.print_facts(console, facts)
        outcome = take_samples(console, options, plan, peers, conninfo)

    results = summarize(outcome, plan, peers)
    promised = goals(results)
    report.print_results(console, results, outcome, absent)
    report.print_goals(console, promised)
    settings = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "connections": options.connections,
    }
    record.write(
        record.as_record(
            facts=facts,
            settings=settings,
            results=results,
            outcome=outcome,
            absent=absent,
            promised=promised,
        ),
        options.json,
    )
    console.print(f"results: {options.json}")
    if options.chart is not None and chart.draw(results, facts, options.connections, options.chart):
        console.print(f"chart: {options.chart}")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
