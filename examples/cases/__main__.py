"""Runs the field cases, each in a process of its own, and prints a table for each."""

from __future__ import annotations

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

CASES = sorted(path.stem for path in Path(__file__).parent.glob("case[0-9]_*.py"))


def main() -> int:
    parser = ArgumentParser(prog="python -m examples.cases", description=__doc__)
    parser.add_argument(
        "numbers", nargs="*", metavar="number", help="only these cases (default: all)"
    )
    parser.add_argument("--short", action="store_true", help="less work, fewer ways")
    options = parser.parse_args()
    cases = [case for case in CASES if not options.numbers or case[4] in options.numbers]
    if not cases:
        parser.error(f"there are {', '.join(CASES)}")
    short = ["--short"] if options.short else []
    # What one cannot do here (PgBouncer is not installed) is no reason not to run the others.
    ends = [
        subprocess.run([sys.executable, "-m", f"examples.cases.{case}", *short], check=False)
        for case in cases
    ]
    return max(end.returncode for end in ends)


if __name__ == "__main__":
    sys.exit(main())
