"""``geventpg doctor``: what is wrong with the surroundings, and what to do about it."""

from __future__ import annotations

import json
import logging
import os

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from geventpg import __version__
from geventpg.pool.options import PREPARE_MODES

from .checkup import Questions, examine, worst
from .findings import Finding, Level

_LABELS = {
    Level.OK: ("ok", "green"),
    Level.NOTE: ("note", "cyan"),
    Level.WARNING: ("warning", "yellow"),
    Level.PROBLEM: ("problem", "bold red"),
}
_LIBPQ_VARIABLES = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE")


@click.command(short_help="What is wrong around a pool, and what to do about it.")
@click.argument("dsn", required=False)
@click.option(
    "--app", metavar="MODULE", help="Import this module apart and see whether it patches in time."
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes with a pool, on all machines.",
)
@click.option(
    "--max-size",
    type=click.IntRange(min=1),
    help="Each pool's max_size. [default: GEVENTPG_MAX_SIZE, or 20]",
)
@click.option(
    "--prepare",
    type=click.Choice(PREPARE_MODES),
    help="The pools' option. [default: GEVENTPG_PREPARE, or auto]",
)
@click.option(
    "--idle-after",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds after which a session in a transaction counts as idle.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=5.0,
    show_default=True,
    help="Seconds for connecting; a check may take twice that.",
)
@click.option("--strict", is_flag=True, help="Exit status 1 for warnings too.")
@click.option("--quiet", "-q", is_flag=True, help="Print only what needs something done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    *,
    dsn: str | None,
    app: str | None,
    processes: int,
    max_size: int | None,
    prepare: str | None,
    idle_after: float,
    timeout: float,
    strict: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Look at this interpreter, the way to the server DSN, and the server itself.

    DSN is a connection string; without one, GEVENTPG_CONNINFO, or PGHOST and its like. A password
    is better kept in PGPASSWORD or ~/.pgpass, as other users see command lines. Nothing is
    changed anywhere. Run it where the workers run, with their environment.

    Exit status: 0 if there is no problem, 1 if there is (with --strict: or a warning), 2 for
    wrong options.
    """
    # What the connections log is among the findings.
    logging.getLogger("geventpg").addHandler(logging.NullHandler())
    questions = Questions(app, processes, max_size, prepare, idle_after, timeout)
    found = examine(_conninfo(dsn), questions, os.environ)
    level = worst(found)
    if as_json:
        findings = [finding.as_dict() for finding in found]
        answer = {"geventpg": __version__, "worst": level.value, "findings": findings}
        click.echo(json.dumps(answer, indent=2))
    else:
        show(Console(), found, quiet=quiet)
    if level is Level.PROBLEM or (strict and level is Level.WARNING):
        raise SystemExit(1)


def _conninfo(dsn: str | None) -> str | None:
    if dsn is not None:
        return dsn
    given = os.environ.get("GEVENTPG_CONNINFO")
    if given is None and any(name in os.environ for name in _LIBPQ_VARIABLES):
        return ""
    return given


def show(console: Console, found: list[Finding], *, quiet: bool) -> None:
    """Print *found* for people."""
    wide = not console.is_terminal  # one line each, for grep
    for finding in found:
        if quiet and finding.level in (Level.OK, Level.NOTE):
            continue
        word, style = _LABELS[finding.level]
        line = Text.assemble((f"{word:<8}", style), (f"{finding.code}: ", "bold"), finding.found)
        console.print(line, soft_wrap=wide)
        if finding.advice:
            advice = Text(f"→ {finding.advice}")
            if wide:
                console.print(Text("        ") + advice, soft_wrap=True)
            else:
                console.print(Padding(advice, (0, 0, 0, 8)))
    counts = {level: sum(f.level is level for f in found) for level in Level}
    console.print(
        f"{len(found)} checks: {counts[Level.PROBLEM]} problem(s), {counts[Level.WARNING]}"
        f" warning(s), {counts[Level.NOTE]} note(s)",
        highlight=False,
    )
