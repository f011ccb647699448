"""A private server made of the system's PostgreSQL, for suites that need its extensions.

The wheel's PostgreSQL, which `EmbeddedPostgres` is made of, has none but a few.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from geventpg.testing import EmbeddedPostgres, ServerError


class SystemPostgres(EmbeddedPostgres):
    """An `EmbeddedPostgres` of the newest version on this machine that has *extensions*."""

    def __init__(
        self,
        extensions: Iterable[str],
        settings: Mapping[str, object] | None = None,
        password: str | None = None,
    ) -> None:
        super().__init__(settings=settings, password=password)
        self._folder = Path(tempfile.mkdtemp(prefix="geventpg-installation-"))
        self._folder.chmod(0o755)  # the account that runs the server looks for its programs here
        self._install_dir = self._same_layout(_find(list(extensions)))

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _same_layout(self, program: str) -> Path:
        """Return a directory with ``bin``, ``lib`` and ``share`` as the wheel has them."""
        (self._folder / "share").mkdir()
        for part, option in (
            ("bin", "--bindir"),
            ("lib", "--pkglibdir"),
            ("share/postgresql", "--sharedir"),
        ):
            (self._folder / part).symlink_to(_ask(program, option))
        return self._folder


def _find(extensions: list[str]) -> str:
    """Return the ``pg_config`` of an installation that has *extensions*."""
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/pg_config")), reverse=True)
    on_path = shutil.which("pg_config")
    for program in [*found, *([on_path] if on_path else [])]:
        if not Path(program).with_name("postgres").exists():
            continue
        folder = Path(_ask(program, "--sharedir"), "extension")
        if all((folder / f"{name}.control").exists() for name in extensions):
            return program
    raise ServerError(
        f"no PostgreSQL with the extensions {', '.join(extensions)}: apt-get install postgresql"
    )


def _ask(program: str, option: str) -> str:
    return subprocess.run(
        [program, option], check=True, capture_output=True, text=True
    ).stdout.strip()
