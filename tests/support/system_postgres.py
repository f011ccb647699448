"""The system's PostgreSQL, such as Debian's, which has what the wheel's lacks: OpenSSL, contrib."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from geventpg.testing import EmbeddedPostgres


def find_openssl_server() -> Path | None:
    """Return the ``bin`` of a PostgreSQL on this machine that is built with OpenSSL."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    program = shutil.which("pg_config")
    if program is not None:
        folders.append(Path(_output(program, "--bindir")))
    for folder in folders:
        programs = [folder / name for name in ("initdb", "postgres", "pg_config")]
        if all(path.exists() for path in programs):
            configured = _output(str(programs[-1]), "--configure")
            if "openssl" in configured:
                return folder
    return None


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class SystemPostgres(EmbeddedPostgres):
    """An `EmbeddedPostgres` made of the system's programs."""

    def __init__(self, programs: Path) -> None:
        super().__init__()
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
