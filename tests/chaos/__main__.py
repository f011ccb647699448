"""``make soak``: the long form of every scenario, again and again with new seeds.

Each file of scenarios is a pytest run of its own, on a server of its own. When the time is up the
worst figure of each scenario is printed and written as JSON; a failure is printed when it happens,
does not end the soak, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tests.chaos.figures import REPORT_VARIABLE, Figure, load, shown, table
from tests.chaos.form import VARIABLE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
RESULTS = HERE / "results" / "latest.json"


class Soak:
    """The runs so far."""

    def __init__(self, pytest_args: list[str]) -> None:
        self._pytest_args = pytest_args
        self.figures: list[Figure] = []
        self.runs: list[dict[str, Any]] = []

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [run for run in self.runs if run["status"]]

    def run(self, scenarios: Path) -> None:
        """Run one file of scenarios with a new seed, and keep its figures."""
        seed = str(secrets.randbelow(10**9))
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "figures.json")
            process = subprocess.run(
                [
                    *(sys.executable, "-m", "pytest", "-q", "--no-header", str(scenarios)),
                    *self._pytest_args,
                ],
                cwd=ROOT,
                env={
                    **os.environ,
                    VARIABLE: "long",
                    REPORT_VARIABLE: str(report),
                    "GEVENTPG_TEST_SEED": seed,
                },
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            self.figures += load(report)
        took = time.monotonic() - begun
        self.runs.append(
            {
                "scenarios": scenarios.stem,
                "seed": seed,
                "status": process.returncode,
                "seconds": round(took, 1),
            }
        )
        if process.returncode:
            print(process.stdout)
        last = (process.stdout.strip().splitlines() or [""])[-1]
        print(f"{scenarios.stem} (seed {seed}): {last}", flush=True)

    def worst(self) -> list[tuple[Figure, int]]:
        """Return each scenario's worst figure of each kind, and how many there were."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            found.setdefault((figure.scenario, figure.name), []).append(figure)
        return [(min(same, key=lambda each: each.margin), len(same)) for same in found.values()]

    def lines(self) -> list[str]:
        head = ("scenario", "measured", "times", "worst", "bound", "seed")
        return table(
            head,
            [
                (
                    worst.scenario,
                    worst.name,
                    str(times),
                    shown(worst.value, worst.unit) + ("" if worst.kept else " !"),
                    worst.bound,
                    worst.seed,
                )
                for worst, times in self.worst()
            ],
        )

    def save(self, path: Path, minutes: float) -> None:
        content = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "minutes": round(minutes, 1),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "cpu_count": os.cpu_count(),
            "runs": self.runs,
            "worst": [{**asdict(worst), "times": times} for worst, times in self.worst()],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="begin nothing new after them")
    parser.add_argument("--report", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--only", default="", help="files whose names contain this")
    parser.add_argument("pytest_args", nargs="*", help="more arguments for pytest, after --")
    options = parser.parse_args()
    files = sorted(path for path in HERE.rglob("test_*.py") if options.only in path.stem)
    if not files:
        parser.error(f"no scenarios are called {options.only!r}")
    soak = Soak(options.pytest_args)
    begun = time.monotonic()
    try:
        for number, scenarios in enumerate(itertools.cycle(files)):
            # Whatever the time, everything runs once.
            if number >= len(files) and time.monotonic() >= begun + options.minutes * 60:
                break
            soak.run(scenarios)
    except KeyboardInterrupt:
        print("interrupted: what was measured until now")
    minutes = (time.monotonic() - begun) / 60
    print("\n".join(soak.lines()))
    print(f"{len(soak.runs)} runs in {minutes:.1f} minutes, {len(soak.failures)} of them failed")
    soak.save(options.report, minutes)
    return 1 if soak.failures else 0


if __name__ == "__main__":
    sys.exit(main())
