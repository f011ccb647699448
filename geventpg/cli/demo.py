"""``geventpg demo``: the same tasks on three kinds of connections, as ``make demo`` runs them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from .programs import ProgramMissing, load


@click.command(short_help="The same Celery tasks on three kinds of connections, side by side.")
@click.argument("ways", nargs=-1)
@click.option(
    "--logs",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the workers' logs go. [default: a new directory, which is named at the end]",
)
def demo(ways: tuple[str, ...], logs: Path | None) -> None:
    """Run 2,000 tasks with faults on a shared connection, on psycopg_pool and on geventpg.

    WAYS are some of shared, stock and geventpg; all, if none is given. It starts a PostgreSQL and
    workers of its own and leaves nothing behind but logs. It takes about a minute.
    """
    try:
        program = load("examples.demo.__main__", "demo")
    except ProgramMissing as error:
        raise click.ClickException(str(error)) from None
    folder = logs or Path(tempfile.mkdtemp(prefix="geventpg-demo-"))
    try:
        status = program.main([*ways, "--logs", str(folder)])
    finally:
        if logs is None and not any(folder.iterdir()):
            folder.rmdir()  # it did not begin
    raise SystemExit(status)
