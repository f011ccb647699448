"""Upstream's tests, run by pytest in one way and in another: what they gave, and what differs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

OUTCOMES = ("passed", "failed", "error", "skipped")

Results = dict[str, str]


def run_pytest(
    way: str, arguments: Sequence[str], *, sources: Path, folder: Path, path: Path
) -> Results:
    """Run Python, with *arguments* that make it run pytest in *sources*; return the outcomes.

    Its log and its report are put into *folder*; *path* is one to import modules from.
    """
    report, log = folder / f"{way}.xml", folder / f"{way}.log"
    report.unlink(missing_ok=True)
    with log.open("w") as output:
        status = subprocess.run(
            [sys.executable, *arguments, f"--junitxml={report}"],
            cwd=sources,
            env={**os.environ, "PYTHONPATH": str(path)},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status not in (0, 1) or not report.exists():
        print(log.read_text()[-5000:])
        raise SystemExit(f"the tests could not be run on {way} (status {status})")
    return read(report)


def read(report: Path) -> Results:
    """Return each test's outcome from pytest's XML."""
    results: Results = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314  # our own
        name = f"{case.get('classname')}.{case.get('name')}"
        found = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
        outcome = {"failure": "failed"}.get(found[0], found[0]) if found else "passed"
        # A test and its teardown are two cases of one name: the worse counts.
        if OUTCOMES.index(outcome) in (0, 3) and name in results:
            outcome = results[name]
        results[name] = outcome
    return results


def compare(title: str, stock: Results, ours: Results, expected: Mapping[str, str]) -> int:
    """Print what was found; return how many tests differ without a reason.

    *expected* has a pattern of tests' names and the reason why their outcomes are others.
    """
    counts = Counter(stock.values()), Counter(ours.values())
    print(f"\n{title:<24}{'stock':>12}{'geventpg':>12}")
    for outcome in OUTCOMES:
        print(f"{outcome:<24}" + "".join(f"{count[outcome]:>12,}" for count in counts))
    differing = unexpected = 0
    for name in sorted({*stock, *ours}):
        first, second = stock.get(name, "not run"), ours.get(name, "not run")
        if first == second:
            continue
        reason = next((why for pattern, why in expected.items() if re.search(pattern, name)), "")
        differing += 1
        unexpected += not reason
        print(f"{name}: {first} on stock, {second} on geventpg" + (reason and f" ({reason})"))
    print(f"{differing} tests differ, {unexpected} of them unexpectedly")
    return unexpected if counts[0]["passed"] else 1
