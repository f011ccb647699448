"""Cleaning up after a process that had no chance to do it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from .accounts import server_environment

__all__ = ["Keeper"]

# Outlives us if we are killed: its standard input ends when we are gone, whatever the reason.
# A line instead of the end means that we have cleaned up ourselves.
_SCRIPT = """\
read -r line && exit 0
pid=$(head -n 1 "$1/$2" 2>/dev/null)
if [ -n "$pid" ]; then
  kill -QUIT "$pid" 2>/dev/null
  kill -CONT "$pid" 2>/dev/null
  tries=0
  while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 50 ]; do tries=$((tries + 1)); sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null
fi
rm -rf -- "$1"
"""


class Keeper:
    """A shell process that removes a server when this process dies without doing it.

    :param directory: what is removed, with everything in it.
    :param pid_file: where the server writes its process id, relative to *directory*.
    """

    def __init__(self, directory: Path, pid_file: str) -> None:
        read_fd, self._write_fd = os.pipe()
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "geventpg-keeper", str(directory), pid_file],
                stdin=read_fd,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
                env=server_environment(),
            )
        finally:
            os.close(read_fd)

    def dismiss(self) -> None:
        """Tell it that everything is cleaned up, and wait for its end."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._write_fd, b"done\n")
        os.close(self._write_fd)
        self._process.wait()
