"""The system's PostgreSQL, such as Debian's, which has what the wheel's lacks: OpenSSL, contrib."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from geventpg.testing import EmbeddedPostgres
from geventpg.testing.programs import NotInstalled, find_every


def find_openssl_server() -> Path | None:
    """Return the ``bin`` of a PostgreSQL on this machine that is built with OpenSSL."""
    for programs in _installations():
        if "openssl" in _output(str(programs / "pg_config"), "--configure"):
            return programs
    return None


def require_openssl_server() -> Path:
    """Return the ``bin`` of a PostgreSQL that is built with OpenSSL, or raise `NotInstalled`."""
    programs = find_openssl_server()
    if programs is None:
        raise NotInstalled("initdb", "a PostgreSQL server built with OpenSSL")
    return programs


def find_server_with(extensions: Iterable[str]) -> Path | None:
    """Return the ``bin`` of a PostgreSQL on this machine that has *extensions*."""
    for programs in _installations():
        folder = Path(_output(str(programs / "pg_config"), "--sharedir"), "extension")
        if all((folder / f"{name}.control").exists() for name in extensions):
            return programs
    return None


def _installations() -> Iterator[Path]:
    # The server's programs need not be where pg_config is, which says where they are.
    folders = [Path(program).resolve().parent for program in find_every("initdb")]
    folders += [Path(_output(program, "--bindir")) for program in find_every("pg_config")]
    for folder in dict.fromkeys(folders):
        if all((folder / name).exists() for name in ("initdb", "postgres", "pg_config")):
            yield folder


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class SystemPostgres(EmbeddedPostgres):
    """An `EmbeddedPostgres` made of the system's programs."""

    def __init__(self, programs: Path, **options: Any) -> None:
        super().__init__(**options)
        self.files = Path(tempfile.mkdtemp(prefix="geventpg-system-"))
        self.files.chmod(0o755)  # the account that runs the server looks for its programs here
        self._install_dir = self._same_layout(programs)

    def close(self) -> None:
        super().close()
        if os.getpid() == self._owner_pid:
            shutil.rmtree(self.files, ignore_errors=True)

    def _same_layout(self, programs: Path) -> Path:
        """Return a directory with ``bin``, ``lib`` and ``share`` as the wheel has them."""
        layout = self.files / "installation"
        (layout / "share").mkdir(parents=True)
        (layout / "bin").symlink_to(programs)
        for part, option in (("lib", "--pkglibdir"), ("share/postgresql", "--sharedir")):
            (layout / part).symlink_to(_output(str(programs / "pg_config"), option))
        return layout
