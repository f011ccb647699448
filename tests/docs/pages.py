"""The pages of the documentation, and the blocks of code in them.

A ``python`` block after the line ``<!-- run -->`` is a program of its own. All other ``python``
blocks of a page are one program together, in the order of the page, under gevent's
monkey-patching; what it needs besides stands in comments, which readers do not see::

    <!-- hidden
    app = Celery("example")
    -->

``sql`` blocks are a part of it, each executed on a connection of its own, in autocommit mode.
A ``python`` block after ``<!-- file: tasks.py -->`` is a file of the page. ``sh`` blocks are run,
in their order, where these files are; after ``<!-- background -->`` one is left running. A
``text`` block right after a block is what that one prints; ``…`` is anything within a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.script import ROOT

README = ROOT / "README.md"
GUIDES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [
    *GUIDES,
    *sorted((ROOT / "docs" / "reference").glob("*.md")),
    *sorted(ROOT.glob("C*.md")),
    ROOT / "SECURITY.md",
    ROOT / "examples" / "README.md",
    ROOT / "benchmarks" / "README.md",
]
_PIECE = re.compile(
    r"^<!-- hidden\n(?P<hidden>.*?)^-->$"
    r"|(?:^<!-- (?P<mark>run|background|file: [\w./]+) -->\n)?"
    r"^```(?P<language>[^\n]*)\n(?P<source>.*?)^```$"
    r"(?:\n\n^```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of its first line of code, counted from 1
    language: str
    source: str
    mark: str | None = None
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def alone(self) -> bool:
        """Whether it is a program of its own."""
        return self.language == "python" and self.mark == "run"

    @property
    def file(self) -> str | None:
        """The name that the page gives to this block, if it does."""
        return self.mark.partition("file: ")[2] or None if self.mark else None

    @property
    def in_program(self) -> bool:
        """Whether it is a part of the page's program."""
        return self.language in ("python", "hidden", "sql") and self.mark is None

    def printed(self, text: str) -> bool:
        """Tell whether *text* is what the page says that this block prints."""
        wanted = ".*".join(map(re.escape, (self.output or "").split("…")))
        return re.fullmatch(wanted, text) is not None


@cache
def text_of(page: Path) -> str:
    return page.read_text()


@cache
def blocks_of(page: Path) -> list[Block]:
    """Return all blocks of the page in order; hidden ones have the language ``hidden``."""
    text = text_of(page)
    return [
        Block(page, 1 + text[: match.start("hidden")].count("\n"), "hidden", match["hidden"])
        if match["hidden"] is not None
        else Block(
            page,
            1 + text[: match.start("source")].count("\n"),
            match["language"],
            match["source"],
            match["mark"],
            match["output"],
        )
        for match in _PIECE.finditer(text)
    ]
