"""What the cases share: the server, greenlets, and the table that sets the figures side by side."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import gevent
import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from geventpg.testing import EmbeddedPostgres, PgBouncer, ServerError

Value = float | int | str | None
STOCK, OURS = "psycopg_pool", "geventpg"


@dataclass
class Comparison:
    """A table of measured figures: one column for each way, one row for each figure."""

    title: str
    ways: Sequence[str]
    rows: dict[str, dict[str, Value]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _faults: set[str] = field(default_factory=set)

    def set(self, way: str, label: str, value: Value, *, fault: bool = False) -> None:
        """Enter a figure. A *fault* should be 0: anything else is shown in red."""
        self.rows.setdefault(label, {})[way] = value
        if fault:
            self._faults.add(label)

    def note(self, text: str) -> None:
        """Add a line below the table, once."""
        if text not in self.notes:
            self.notes.append(text)

    def print(self) -> None:
        console = Console()
        if not console.is_terminal:
            console.width = 120
        table = Table(title=self.title, title_justify="left")
        table.add_column("")
        for way in self.ways:
            table.add_column(way, justify="right")
        for label, values in self.rows.items():
            table.add_row(label, *(self._cell(label, values.get(way)) for way in self.ways))
        console.print(table)
        for note in self.notes:
            console.print(f"- {note}", highlight=False, soft_wrap=True)
        console.print()

    def _cell(self, label: str, value: Value) -> str:
        text = "-" if value is None else value if isinstance(value, str) else _number(value)
        if label not in self._faults or value is None:
            return text
        return f"[red]{text}[/]" if value else f"[green]{text}[/]"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def run(compare: Callable[[bool], Comparison], description: str) -> None:
    """Run a case from the command line and print its table, or with ``--json`` its figures."""
    parser = ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="less work, fewer ways")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    # What the pools log about the faults that are made here on purpose.
    for name in ("psycopg", "geventpg", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        comparison = compare(options.short)
    except NotInstalledError as error:
        print(f"{description.splitlines()[0]}\nLeft out: {error}\n")
        return
    if options.json:
        print(json.dumps({"rows": comparison.rows, "notes": comparison.notes}))
    else:
        comparison.print()


class NotInstalledError(Exception):
    """Something that the case needs is missing on this machine."""


def needs_pgbouncer(server: Server) -> None:
    """Raise `NotInstalledError`, which says what to install, if there is no PgBouncer."""
    try:
        PgBouncer(server.postgres)
    except ServerError as error:
        raise NotInstalledError(str(error)) from None


# -- the server ----------------------------------------------------------------------------------


class Server:
    """An embedded PostgreSQL and a connection of our own to look at it and to do it harm."""

    def __init__(self, **settings: object) -> None:
        self.postgres = EmbeddedPostgres(settings={"max_connections": 150, **settings})

    def __enter__(self) -> Server:
        self.postgres.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.postgres.close()

    def conninfo(self, way: str) -> str:
        """Return a connection string that marks its connections as *way*'s."""
        return make_conninfo(self.postgres.dsn, application_name=application_name(way))

    def sql(self, statement: str, params: Sequence[object] = ()) -> list[Any]:
        with psycopg.connect(self.postgres.dsn, autocommit=True) as conn:
            cursor = conn.execute(statement, params)
            return cursor.fetchall() if cursor.description else []

    def count(self, way: str, condition: str = "true") -> int:
        """Return how many of *way*'s backends there are for which *condition* holds."""
        ((count,),) = self.sql(
            f"select count(*) from pg_stat_activity where application_name = %s and {condition}",
            [application_name(way)],
        )
        return int(count)

    def terminate(self, way: str) -> int:
        """Terminate all of *way*'s backends."""
        ((count,),) = self.sql(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where application_name = %s",
            [application_name(way)],
        )
        return int(count)


def application_name(way: str) -> str:
    return f"case {way}"


# -- greenlets -----------------------------------------------------------------------------------


def in_greenlets(count: int, work: Callable[[int], object], timeout: float = 30.0) -> int:
    """Call *work* with 0, 1, … in a greenlet each; return how many had to be given up."""
    greenlets = [gevent.spawn(work, number) for number in range(count)]
    gevent.joinall(greenlets, timeout=timeout)
    hung = [greenlet for greenlet in greenlets if not greenlet.ready()]
    gevent.killall(hung, timeout=5)
    for greenlet in greenlets:
        if greenlet not in hung:
            greenlet.get()  # what it did not expect is a mistake of the case
    return len(hung)


def percentile(values: Iterable[float], percent: int) -> float | None:
    """Return a percentile in milliseconds of *values* in seconds; 50 is the median."""
    values = list(values)
    if len(values) < 2:
        return values[0] * 1000 if values else None
    return quantiles(values, n=100, method="inclusive")[percent - 1] * 1000


def described(errors: Counter[str], most: int = 3) -> str:
    """Return the most frequent *errors*, with how often each came."""
    return "; ".join(f"{count} times {text}" for text, count in errors.most_common(most))
