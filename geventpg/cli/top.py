"""``geventpg top``: all workers' pools, live."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .board import SORTS, TITLES, Board, cells, lines, read
from .output import duration
from .workers import AskingFailed, Workers

NOBODY = (
    "no worker answered: is one running with geventpg (celery_integration), is this its app and"
    " broker? A solo worker answers between tasks only; --timeout waits longer"
)


@click.command(short_help="A live view of all workers' pools and who holds connections.")
@click.option("-A", "--app", required=True, metavar="APP", help="The Celery app, as for celery -A.")
@click.option(
    "-d", "--destination", metavar="NODE", multiple=True, help="Only this worker; may be repeated."
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds from one look to the next.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    help="Seconds to wait for the workers' answers.",
)
@click.option(
    "--sort",
    type=click.Choice(list(SORTS)),
    default="waiting",
    show_default=True,
    help="What the first rows are to have the most of.",
)
@click.option(
    "--holders",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="How many holders of a connection to show, the longest first.",
)
@click.option("-n", "--count", type=click.IntRange(min=1), help="Look N times, then end.")
@click.option("--plain", is_flag=True, help="Print lines also on a terminal.")
def top(
    *,
    app: str,
    destination: tuple[str, ...],
    interval: float,
    timeout: float,
    sort: str,
    holders: int,
    count: int | None,
    plain: bool,
) -> None:
    """Show the pools of all workers of APP: a row for each process, and who holds connections.

    Ctrl-C ends it when the workers asked have answered, a second one at once. Where the output is
    no terminal it is plain lines, for a log or grep. "wait" and "held" are means of the uses since
    the last look.

    Exit status: 0, or 1 if no worker answered the last time, or the app or the broker failed.
    """
    console = Console()
    try:
        watch = Watch(Workers(app, destination), interval, timeout, sort, count)
        with suppress(KeyboardInterrupt), ended_by_interrupt(watch):
            if plain or not console.is_terminal:
                for board in watch:
                    show_lines(console, board, holders)
            else:
                with Live(console=console, auto_refresh=False, screen=count is None) as live:
                    for board in watch:
                        live.update(picture(board, holders), refresh=True)
    except AskingFailed as error:
        raise click.ClickException(str(error)) from None
    if watch.last is not None and not watch.last.rows:
        raise click.ClickException(NOBODY)


@contextmanager
def ended_by_interrupt(watch: Watch) -> Iterator[None]:
    """Have Ctrl-C end *watch*, and not in the middle of what a library says to the broker.

    The library would go on to clean up with a connection that it was torn out of, and might wait
    for an answer for ever; or it swallows the exception, in a ``__del__``.
    """

    def end(*_: object) -> None:
        insisting, watch.ended = watch.ended, True
        if insisting or not watch.asking:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Watch:
    """Looks again and again: iterate."""

    def __init__(
        self, workers: Workers, interval: float, timeout: float, sort: str, count: int | None
    ) -> None:
        self._workers = workers
        self._interval = interval
        self._timeout = timeout
        self._sort = sort
        self._left = count
        self._due = 0.0
        self.last: Board | None = None
        self.asking = self.ended = False

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> Board:
        """Return the next look, in time; block. Raise `AskingFailed`."""
        if self._left == 0:
            raise StopIteration
        now = time.monotonic()
        time.sleep(max(self._due - now, 0.0))
        self._due = max(self._due, now) + self._interval
        self.asking = True
        try:
            answers = self._workers.ask(self._timeout)
        finally:
            self.asking = False
        if self.ended:
            raise StopIteration
        self.last = read(answers, time.monotonic(), self.last, self._sort)
        if self._left is not None:
            self._left -= 1
        return self.last


def show_lines(console: Console, board: Board, holders: int) -> None:
    """Print the board as lines that begin with the time."""
    now = time.strftime("%H:%M:%S")
    for line in lines(board, holders) or [NOBODY]:
        console.print(f"{now} {line}", soft_wrap=True, highlight=False, markup=False)


def picture(board: Board, holders: int) -> Group:
    """Return the board as tables."""
    if not board.rows:
        return Group(Text(NOBODY, "bold red"))
    summary = (
        f"{time.strftime('%H:%M:%S')}  {board.workers} worker(s), {len(board.rows)} pool(s),"
        f" {board.in_use} connection(s) in use, {board.waiting} waiting"
    )
    table = Table(expand=True)
    for title in TITLES:
        table.add_column(title, justify="left" if title in ("worker", "pool") else "right")
    for row in board.rows:
        style = "red" if row.error else "yellow" if row.waiting else ""
        table.add_row(*(Text(cell) for cell in cells(row)), style=style)
    who = Table(title="who holds connections, the longest first", expand=True)
    for title in ("held", "task", "id", "worker", "backend", "state", "statement"):
        who.add_column(title, justify="right" if title in ("held", "backend") else "left")
    for held in board.holders[:holders]:
        texts = (
            duration(held.seconds),
            held.task,
            held.task_id,
            f"{held.worker} {held.pid}",
            str(held.backend),
            held.transaction,
            held.statement,
        )
        who.add_row(*map(Text, texts))
    heading = Text(summary, "bold")
    return Group(heading, table, who) if who.row_count else Group(heading, table)
