"""Python source run in an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from geventpg.testing.programs import HIDING

ROOT = Path(__file__).resolve().parents[2]
_OURS = ("GEVENTPG_", "PYTEST_")
_KEPT = (HIDING,)


def clean_environment(**changes: str) -> dict[str, str]:
    """Return our environment with *changes*, and without the pool's and pytest's variables."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or not name.startswith(_OURS)
    }
    return {**kept, "PYTHONPATH": str(ROOT), **changes}


def run_script(
    source: str, *arguments: str, timeout: float = 30.0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run *source*, which is dedented, and return its end: status and what it printed.

    Nothing is monkey-patched in it unless *source* does that. *environment* is added to ours,
    from which the ``GEVENTPG_*`` variables are removed.
    """
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(source), *arguments],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def output_of(source: str, *arguments: str, **options: str) -> str:
    """Run *source* and return what it printed; fail if it failed or complained."""
    done = run_script(source, *arguments, **options)
    assert (done.returncode, done.stderr) == (0, ""), (
        f"exit status {done.returncode}, printed:\n{done.stdout}\ncomplained:\n{done.stderr}"
    )
    return done.stdout
