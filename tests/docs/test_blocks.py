"""Every block of code in the documentation runs, and prints what the page shows.

How a page says what runs together, and what is not shown, is in `tests.docs.pages`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from geventpg.testing.programs import require_program
from tests.docs.pages import GUIDES, PAGES, Block, blocks_of, text_of
from tests.support import wait_until
from tests.support.processes import kill_group
from tests.support.script import ROOT, clean_environment, run_script

# Shown and not run: output, what a reader types at a prompt of his own machine or of a server, and
# files of other programs.
SHOWN = {"text", "console", "ini", "json", "yaml", "toml", "promql", "nginx"}
RUN = {"python", "sh", "sql"}
# What a block that names the first of these needs.
PROGRAMS_OF = {"PgBouncer": "pgbouncer", "CertificateAuthority": "openssl"}
ALONE = [block for page in GUIDES for block in blocks_of(page) if block.alone]
PROGRAMS = [page for page in GUIDES if any(block.in_program for block in blocks_of(page))]
WALKS = [page for page in GUIDES if any(block.language == "sh" for block in blocks_of(page))]


def name_of(page: Path) -> str:
    return page.name


@pytest.fixture
def database(pg, admin, application_name) -> Iterator[str]:
    """Return a conninfo of a database of this test's own."""
    name = f"docs_{os.getpid()}"
    yield make_conninfo(pg.create_database(name), application_name=application_name)
    admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return an empty directory whose name is short enough for the sockets in it."""
    with TemporaryDirectory(prefix="docs-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is_and_every_mark_is_that_of_a_block(page):
    found = blocks_of(page)
    kinds = {block.language for block in found if not block.language.startswith("{")}
    assert kinds <= RUN | SHOWN | {"hidden"}, (
        "a block that cannot run is of another type: text, console, ini, ..."
    )
    begun = re.findall(
        r"^<!-- (?:run -->|hidden|file: |background -->)", text_of(page), re.MULTILINE
    )
    marks = [block for block in found if block.mark or block.language == "hidden"]
    assert len(marks) == len(begun), "a mark stands in the line before its block"


@pytest.mark.parametrize("block", ALONE, ids=str)
def test_a_block_marked_so_runs_alone_and_prints_what_is_shown(block: Block, dsn):
    for name, program in PROGRAMS_OF.items():
        if name in block.source:
            require_program(program)
    done = run_script(block.source, GEVENTPG_CONNINFO=dsn)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert block.printed(done.stdout), done.stdout


@pytest.mark.parametrize("page", PROGRAMS, ids=name_of)
def test_the_other_blocks_of_a_page_run_one_after_the_other(page, database):
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.program", page],
        cwd=ROOT,
        env=clean_environment(GEVENTPG_CONNINFO=database),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.hang_limit(180)
@pytest.mark.parametrize("page", WALKS, ids=name_of)
def test_the_commands_of_a_page_do_what_it_shows(page, database, directory):
    if "redis-server" in text_of(page):
        require_program("redis-server")
    with Terminal(directory, GEVENTPG_CONNINFO=database) as terminal:
        for block in blocks_of(page):
            if block.file:
                (directory / block.file).write_text(block.source)
            elif block.language == "sh" and block.mark == "background":
                terminal.leave_running(block)
            elif block.language == "sh":
                terminal.run(block)


class Terminal:
    """Runs commands in *directory*, as in one shell: what one exports the next one has."""

    def __init__(self, directory: Path, **environment: str) -> None:
        self.directory = directory
        self._exported = directory / "exported.sh"
        self._exported.touch()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = clean_environment(PATH=path, **environment)
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            kill_group(process)

    def leave_running(self, block: Block) -> None:
        """Start *block* and wait until it has printed what the page shows, if that is shown."""
        log = self.directory / f"{block.line}.log"
        self._start(block.source, log)
        if block.output is not None:
            wait_until(lambda: block.printed(log.read_text()), timeout=60, message=str(block))

    def run(self, block: Block) -> None:
        """Run *block* to its end, with what it leaves running in the background."""
        log = self.directory / f"{block.line}.log"
        process = self._start(f"{block.source}\nexport -p >{self._exported}", log)
        status = process.wait(timeout=90)
        said = log.read_text()
        assert status == 0, f"{block}, status {status}:\n{said}{self._logs()}"
        assert block.printed(said), f"{block}:\n{said}{self._logs()}"

    def _start(self, source: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-ec", f". {self._exported}\n{source}"],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)
        return process

    def _logs(self) -> str:
        logs = sorted(self.directory.glob("*.log"))
        return "".join(f"\n---- {log.name}\n{log.read_text()}" for log in logs)
