"""``geventpg plan``: how large pools have to be, and when PgBouncer is due."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from .capacity import PER_CORE, Demand, Plan, Server, Waiting, make
from .output import milliseconds

COUNT = click.IntRange(min=1)
TIME = click.FloatRange(min=0, min_open=True)


@dataclass(frozen=True)
class Options:
    """The options of the command, as the user gave them."""

    machines: int
    processes: int
    concurrency: int
    statement_ms: float
    statements: int
    other_ms: float | None
    rate: float | None
    wait_ms: float | None
    max_connections: int
    reserved: int
    other_connections: int
    server_cores: int | None
    as_json: bool

    @property
    def demand(self) -> Demand:
        """The workers and their tasks."""
        held = self.statement_ms * self.statements / 1000
        other_ms = 45.0 if self.other_ms is None else self.other_ms
        return Demand(
            machines=self.machines,
            processes=self.processes,
            concurrency=self.concurrency,
            held=held,
            elsewhere=None if self.rate is not None else other_ms / 1000,
            rate=self.rate,
            accepted_wait=held if self.wait_ms is None else self.wait_ms / 1000,
        )

    @property
    def server(self) -> Server:
        """The server's limits."""
        return Server(
            self.max_connections, self.reserved, self.other_connections, self.server_cores
        )


@click.command(short_help="Pool sizes, expected waiting, and when PgBouncer is due.")
@click.option("--machines", type=COUNT, default=1, show_default=True, help="Machines with workers.")
@click.option(
    "--processes",
    type=COUNT,
    default=1,
    show_default=True,
    help="Processes on each machine; for Celery prefork its concurrency.",
)
@click.option(
    "--concurrency",
    type=COUNT,
    default=100,
    show_default=True,
    help="Greenlets, or threads, of each process; 1 for prefork.",
)
@click.option(
    "--statement-ms",
    type=TIME,
    default=5.0,
    show_default=True,
    help="Mean time of a statement, the round trip included.",
)
@click.option(
    "--statements",
    type=COUNT,
    default=1,
    show_default=True,
    help="Statements that a task executes while it holds its connection.",
)
@click.option(
    "--other-ms",
    type=click.FloatRange(min=0),
    default=None,
    help="Mean time that a task spends without a connection, from one use to the next."
    " [default: 45, unless --rate is given]",
)
@click.option("--rate", type=TIME, help="Tasks per second of all machines, instead of --other-ms.")
@click.option(
    "--wait-ms",
    type=click.FloatRange(min=0),
    default=None,
    help="The wait for a connection that 19 of 20 tasks do not exceed."
    " [default: the time for which a task holds a connection]",
)
@click.option("--max-connections", type=COUNT, default=100, show_default=True, help="The server's.")
@click.option(
    "--reserved",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="The server's superuser_reserved_connections and reserved_connections.",
)
@click.option(
    "--other-connections",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Connections of other programs.",
)
@click.option("--server-cores", type=COUNT, help="Cores of the server, to see whether they do.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; times in seconds.")
def plan(**given: Any) -> None:
    """Say how large each process's pool has to be, and how much room the server needs.

    Measure --statement-ms with pg_stat_statements, or with `geventpg top` under load. Nothing is
    connected to. The formula is the finite-source queue M/M/c//N, in which each greenlet uses a
    connection and then does something else; with --rate it is Erlang C, M/M/c.

    Exit status: 0 if the server has room, 1 if a pooler is due or the waiting cannot be kept.
    """
    options = Options(**given)
    if options.rate is not None and options.other_ms is not None:
        raise click.UsageError("--rate and --other-ms exclude each other")
    answer = make(options.demand, options.server)
    if options.as_json:
        click.echo(json.dumps(answer.as_dict(), indent=2))
    else:
        show(Console(), answer)
    if answer.pooler_is_due or not answer.enough:
        raise SystemExit(1)


def show(console: Console, answer: Plan) -> None:
    """Print *answer* for people."""
    console.print(f"Connections and waiting by the formula {answer.formula}", highlight=False)
    table = Table()
    table.add_column("")
    columns = {
        "each process": answer.pool,
        "each, made to fit": answer.squeezed,
        "PgBouncer, for all": answer.pooler,
    }
    shown = {title: waiting for title, waiting in columns.items() if waiting is not None}
    for title in shown:
        table.add_column(title, justify="right")
    for label, text in ROWS:
        table.add_row(label, *map(text, shown.values()))
    console.print(table)
    for line in advice(answer):
        console.print(f"- {line}", highlight=False, soft_wrap=True)


ROWS: tuple[tuple[str, Callable[[Waiting], str]], ...] = (
    ("connections", lambda waiting: str(waiting.connections)),
    ("in use", lambda waiting: f"{waiting.utilisation:.0%}"),
    ("uses that wait", lambda waiting: f"{waiting.waiting_share:.1%}"),
    ("wait, mean", lambda waiting: milliseconds(waiting.mean)),
    ("wait, p95", lambda waiting: milliseconds(waiting.p95)),
    ("wait, p99", lambda waiting: milliseconds(waiting.p99)),
    ("tasks per second", lambda waiting: f"{waiting.per_second:,.0f}"),
)


def advice(answer: Plan) -> list[str]:
    """Return what to do, in sentences."""
    demand, server = answer.demand, answer.server
    size = answer.pool.connections
    lines = [f"Set max_size={size} in each of the {demand.fleet} process(es)."]
    if not answer.enough:
        lines.append(
            "Even so tasks wait longer than accepted: they ask for more than one connection for"
            " each greenlet can do. Make statements shorter, or spread the tasks over more"
            " processes."
        )
    room = (
        f"{answer.needed} connections in all; the server has room for {server.room}"
        f" (max_connections={server.max_connections}, {server.reserved} reserved,"
        f" {server.others} of others)."
    )
    lines.append(room)
    if not answer.pooler_is_due:
        lines.append(
            f"PgBouncer is not due: it will be with more than {answer.processes_that_fit}"
            " such processes."
        )
    else:
        lines += _with_pooler(answer, demand)
    busy = f"{answer.busy:.1f} of the connections are at work on average"
    if server.cores is None:
        lines.append(f"{busy}; --server-cores says whether the server has the cores for that.")
    elif answer.overloads_cores:
        lines.append(
            f"{busy}, and {server.cores} cores work well on about {PER_CORE * server.cores} at a"
            " time: statements will take longer than said, and more connections make that worse."
        )
    else:
        lines.append(f"{busy}, which {server.cores} cores can do.")
    return lines


def _with_pooler(answer: Plan, demand: Demand) -> list[str]:
    lines = ["PgBouncer is due, or fewer or smaller pools."]
    if answer.squeezed is None:
        lines.append("Without it there is not one connection for each process.")
    else:
        lines.append(
            f"Without it: max_size={answer.squeezed.connections}, and tasks wait"
            f" {milliseconds(answer.squeezed.mean)} on average."
        )
    if answer.pooler is not None:
        lines.append(
            f"With it, in transaction mode: default_pool_size={answer.pooler.connections},"
            f" max_client_conn of at least {answer.needed}, and max_size={demand.concurrency}"
            " or less in each process: so all tasks wait in one line."
        )
        if answer.pooler.p95 > demand.accepted_wait:
            lines.append(
                "That is all the room there is, and tasks wait longer than accepted: raise"
                " max_connections if the server has the cores for it, or ask for less."
            )
    return lines
