"""Find the programs of the system that servers and tests need, and name the packages with them.

Everything here that starts a program of the system asks this module for it, so that one variable
hides programs from all of it, child processes included:
``GEVENTPG_HIDE_PROGRAMS=pgbouncer,postgresql`` takes names of programs and packages, and ``all``.
"""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from .errors import ServerError

__all__ = [
    "HIDING",
    "PACKAGES",
    "NotInstalled",
    "find_every",
    "find_program",
    "missing_packages",
    "require_libpq",
    "require_program",
]

#: The environment variable that hides programs.
HIDING = "GEVENTPG_HIDE_PROGRAMS"

#: The package that each program comes in, by the program's name; and libpq, a library.
PACKAGES: Mapping[str, str] = MappingProxyType(
    {
        "epmd": "rabbitmq-server",  # its own dependency
        "git": "git",
        "initdb": "postgresql",
        "libpq": "libpq5",
        "openssl": "openssl",
        "pg_config": "postgresql",
        "pgbench": "postgresql",
        "pgbouncer": "pgbouncer",
        "rabbitmq-server": "rabbitmq-server",
        "redis-server": "redis-server",
        "strace": "strace",
    }
)

# Debian's rabbitmq-server on PATH insists on the system's account; the script behind it does not.
_BEFORE_PATH = ("/usr/lib/rabbitmq/bin",)
# Not on the PATH of every user: Debian's servers, PostgreSQL's programs, Homebrew's.
_AFTER_PATH = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_POSTGRESQL = Path("/usr/lib/postgresql")


class NotInstalled(ServerError):
    """A program of the system is not installed; the message names the package that has it."""

    def __init__(self, program: str, needed: str | None = None) -> None:
        package = PACKAGES[program]
        because = f" (hidden by {HIDING})" if _is_hidden(program) else ""
        super().__init__(
            f"{needed or program} is not installed: apt-get install {package}{because}"
        )
        self.program = program
        self.package = package


def find_program(name: str) -> str | None:
    """Return the path of the program *name*, or ``None`` if it is absent or hidden.

    :raises ValueError: if *name* is not in :data:`PACKAGES`.
    """
    return next(find_every(name), None)


def require_program(name: str) -> str:
    """Return the path of the program *name*.

    :raises NotInstalled: if it is absent or hidden.
    """
    program = find_program(name)
    if program is None:
        raise NotInstalled(name)
    return program


def require_libpq() -> None:
    """Return if the system has libpq, which psycopg loads where the extra ``binary`` is not.

    :raises NotInstalled: if it is absent or hidden. The variable does not hide it from psycopg.
    """
    if not _libpq_is_found():
        raise NotInstalled("libpq")


def missing_packages() -> list[str]:
    """Return the packages of all programs that are absent or hidden, in alphabetical order."""
    found = {name: find_program(name) is not None for name in PACKAGES}
    found["libpq"] = _libpq_is_found()
    return sorted({PACKAGES[name] for name in PACKAGES if not found[name]})


def find_every(name: str) -> Iterator[str]:
    """Yield the path of each program *name*, the preferred one first; nothing if it is hidden."""
    if name not in PACKAGES:
        raise ValueError(f"unknown program {name!r}: geventpg.testing.programs.PACKAGES lists them")
    if _is_hidden(name):
        return
    for folder in _folders():
        program = shutil.which(name, path=folder)
        if program is not None:
            yield program


def _libpq_is_found() -> bool:
    return not _is_hidden("libpq") and ctypes.util.find_library("pq") is not None


def _folders() -> Iterator[str]:
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    newest_first = sorted(_POSTGRESQL.glob("*/bin"), key=_version, reverse=True)
    return iter(dict.fromkeys([*_BEFORE_PATH, *path, *_AFTER_PATH, *map(str, newest_first)]))


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.parent.name)))


def _is_hidden(name: str) -> bool:
    hidden = {word.strip() for word in os.environ.get(HIDING, "").split(",")} - {""}
    known = {"all", *PACKAGES, *PACKAGES.values()}
    if not hidden <= known:
        unknown = ", ".join(sorted(hidden - known))
        raise ValueError(f"{HIDING} knows no {unknown}, only {', '.join(sorted(known))}")
    return not hidden.isdisjoint({"all", name, PACKAGES[name]})
