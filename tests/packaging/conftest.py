"""Virtual environments that have one extra of the package each, from a wheel of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.script import ROOT

SERVED = Path(__file__).with_name("served")

# What a wheel is made of: a copy, as building leaves files behind.
_SOURCES = ("geventpg", "celery_integration", "benchmarks", "examples")
_NO_CLI = 'geventpg: the command needs the extra "cli": pip install "geventpg[cli]"\n'
_FILES = ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that knows nothing of this checkout."""

    folder: Path

    def check(self, served: Path, dsn: str) -> None:
        """Run a program of the folder ``served``, and the command, which lacks its extra."""
        done = self.run("python", "-I", "-X", "faulthandler", str(served), DSN=dsn)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        value, package = done.stdout.split()
        assert value == "42"
        assert package.startswith(str(self.folder)), "not this environment's"
        command = self.run("geventpg", "--help")
        assert (command.returncode, command.stdout, command.stderr) == (2, "", _NO_CLI)

    def run(
        self, program: str, *arguments: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment; nothing of ours is in its environment variables."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        return subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder, env={**kept, **variables}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip


def pip(*arguments: object) -> None:
    """Run pip; skip the test if the package index is out of reach."""
    command = [sys.executable, "-m", "pip", *map(str, arguments)]
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input", "--retries=1")
    done = subprocess.run([*command, *quiet], capture_output=True, text=True, check=False)
    if done.returncode and "Retrying (Retry(" in done.stderr:
        pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    for name in _SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, sources / name, ignore=ignored)
    for name in _FILES:
        shutil.copy(ROOT / name, sources)
    pip("wheel", "--no-deps", "--wheel-dir", folder, sources)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Callable[..., Environment]:
    """Return a function that makes an environment with these extras of the package."""

    def make(*extras: str) -> Environment:
        folder = tmp_path / "-".join(["with", *extras])
        venv.create(folder, symlinks=True)
        package = f"geventpg[{','.join(extras)}] @ {wheel.as_uri()}"
        pip("--python", folder / "bin" / "python", "install", "--no-compile", package)
        return Environment(folder)

    return make
