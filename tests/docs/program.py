"""Run the program that the blocks of one page are together: `python -m tests.docs.program page`."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from gevent import monkey

from tests.docs.pages import blocks_of


def execute(statements: str) -> None:
    import psycopg  # after the patching

    with psycopg.connect(os.environ["GEVENTPG_CONNINFO"], autocommit=True) as conn:
        conn.execute(statements.encode())


def main(page: Path) -> int:
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(page):
        if not block.in_program:
            continue
        printed = StringIO()
        with redirect_stdout(printed):
            if block.language == "sql":
                execute(block.source)
            else:
                # Tracebacks name the line of the page.
                source = "\n" * (block.line - 1) + block.source
                exec(compile(source, page.name, "exec"), names)  # noqa: S102
        if not block.printed(printed.getvalue()):
            print(f"{block} printed:\n{printed.getvalue()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    monkey.patch_all()
    sys.exit(main(Path(sys.argv[1])))
