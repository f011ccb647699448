"""Runs the same tasks in four ways, one after the other, and prints one table."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from geventpg.testing.postgres import EmbeddedPostgres

from .broker import open_broker
from .database import Database
from .plan import WAYS
from .progress import progress
from .run import run_way
from .table import print_results

LOGS = Path("build", "demo")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "ways", nargs="*", metavar="way", help=f"only these of {', '.join(WAYS)} (default: all)"
    )
    parser.add_argument("--logs", type=Path, default=LOGS, metavar="DIR", help=f"({LOGS})")
    given = parser.parse_args(arguments)
    ways, logs = given.ways or WAYS, given.logs
    if unknown := set(ways).difference(WAYS):
        parser.error(f"no way is called {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    console = Console()
    logs.mkdir(parents=True, exist_ok=True)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        run(console, ways, logs)
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is stopped.")
        return 130
    except RuntimeError as error:
        console.print(f"[red]The demo failed:[/] {error}; see {logs}/*.log", soft_wrap=True)
        return 1
    return 0


def run(console: Console, ways: Sequence[str], logs: Path) -> None:
    with (
        TemporaryDirectory(prefix="geventpg-demo-", ignore_cleanup_errors=True) as directory,
        EmbeddedPostgres(settings={"max_connections": 100}) as postgres,
        open_broker(Path(directory)) as broker,
    ):
        database = Database(postgres.dsn)
        database.create_accounts()
        with progress(console, ways) as report:
            results = [run_way(way, database, broker, logs, report) for way in ways]
    print_results(console, results, broker.description, logs)


if __name__ == "__main__":
    sys.exit(main())
