"""``geventpg bench``: the committed benchmark, in its short form, on a server of the user's own."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import click
import psycopg
from rich.console import Console

from geventpg.conninfo.discretion import discreet

from .bars import bars_of, draw
from .programs import ProgramMissing, load


@click.command(short_help="Throughput of your own server, with the pools that are installed.")
@click.argument("dsn", required=False)
@click.option("--rounds", type=click.IntRange(min=1), default=2, show_default=True, help="Rounds.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="For each figure of each round.",
)
@click.option(
    "--connections",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="In each pool.",
)
@click.option(
    "--greenlets", metavar="N,...", default="100", show_default=True, help="How many share them."
)
@click.option("--peers", metavar="PEER,...", help="Only these; a wrong name lists them all.")
@click.option(
    "--json",
    "record",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default=True,
    default=Path("geventpg-bench.json"),
    help="Where all figures go.",
)
@click.option(
    "--chart",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the chart into this file too (.svg, .png); needs matplotlib.",
)
def bench(
    *,
    dsn: str | None,
    rounds: int,
    seconds: float,
    connections: int,
    greenlets: str,
    peers: str | None,
    record: Path,
    chart: Path | None,
) -> None:
    """Measure SELECTs by primary key on the server DSN, with every pool that is installed.

    DSN is a connection string; without one, GEVENTPG_CONNINFO, and without that a PostgreSQL of its
    own is started. It makes a table geventpg_bench, and removes it at the end. The figures are
    about this machine and this moment: run it on the machine of the workers, at rest.

    Exit status: 0, or 1 if a pool failed.
    """
    dsn = dsn if dsn is not None else os.environ.get("GEVENTPG_CONNINFO")
    if chart is not None and find_spec("matplotlib") is None:
        raise click.ClickException("--chart needs matplotlib: pip install matplotlib")
    try:
        program = load("benchmarks.__main__", "bench")
        registry = load("benchmarks.registry", "bench")
    except ProgramMissing as error:
        raise click.ClickException(str(error)) from None
    if dsn is not None:
        _check_table(dsn, load("benchmarks.workload", "bench").TABLE)
    arguments = [
        *("--short", "--only", "throughput", "--rounds", str(rounds), "--seconds", str(seconds)),
        *("--connections", str(connections), "--greenlets", greenlets, "--json", str(record)),
        *(("--dsn", dsn) if dsn is not None else ()),
        *(("--peers", peers) if peers is not None else ()),
        *(("--chart", str(chart)) if chart is not None else ()),
    ]
    status = int(program.main(arguments))
    console = Console()
    labels = {name: peer.label for name, peer in registry.PEERS.items()}
    for mode, bars in bars_of(json.loads(record.read_text(encoding="utf-8"))).items():
        console.print(f"\nqueries per second, {mode} (and times stock psycopg_pool)")
        for line in draw(bars, labels, console.width):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    if chart is not None and not chart.exists():
        click.echo(f"{chart} was not drawn: it is for 100 greenlets", err=True)
    if status:
        raise SystemExit(status)


@discreet
def _check_table(dsn: str, table: str) -> None:
    """Refuse to drop a table that is not the benchmark's, or to begin without a server."""
    try:
        with psycopg.connect(dsn, connect_timeout=5, autocommit=True) as conn:
            row = conn.execute("SELECT to_regclass(%s)::text", [table]).fetchone()
    except psycopg.Error as error:
        raise click.ClickException(
            f"{' '.join(str(error).split())} (geventpg doctor says more)"
        ) from None
    if row is not None and row[0] is not None:
        raise click.ClickException(
            f"there is a table {table} already: drop it, if it is left from a run that was killed"
        )
