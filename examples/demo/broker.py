"""The broker: Redis where there is one, otherwise a directory, which needs no server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from geventpg.testing.programs import find_program

VARIABLE = "GEVENTPG_DEMO_BROKER"
REDIS_START_SECONDS = 5.0
POLLING_SECONDS = 0.02


@dataclass(frozen=True)
class Broker:
    description: str
    url: str
    worker_options: dict[str, Any] = field(default_factory=dict)
    sender_options: dict[str, Any] = field(default_factory=dict)

    def deliver(self) -> None:
        """Make what was sent visible to the worker."""


@dataclass(frozen=True)
class DirectoryBroker(Broker):
    outbox: Path = Path()
    inbox: Path = Path()

    def deliver(self) -> None:
        """Move complete messages over: kombu's reader takes a file that is still being written."""
        for message in sorted(self.outbox.iterdir()):
            message.rename(self.inbox / message.name)


@contextmanager
def open_broker(directory: Path) -> Iterator[Broker]:
    """What GEVENTPG_DEMO_BROKER names (a URL or "filesystem"), else the best there is."""
    wanted = os.environ.get(VARIABLE)
    redis_server = find_program("redis-server") if find_spec("redis") else None
    if wanted and wanted != "filesystem":
        yield Broker(f"the broker in {VARIABLE}", wanted)
    elif redis_server and not wanted:
        with _redis(redis_server, directory) as broker:
            yield broker
    else:
        yield _directory_broker(directory)


def _directory_broker(directory: Path) -> DirectoryBroker:
    inbox, outbox, processed = (directory / name for name in ("inbox", "outbox", "processed"))
    for folder in (inbox, outbox, processed):
        folder.mkdir()
    common = {
        "store_processed": True,
        "processed_folder": str(processed),
        "control_folder": str(directory / "control"),
        "polling_interval": POLLING_SECONDS,
    }
    return DirectoryBroker(
        "a directory (kombu's filesystem transport)",
        "filesystem://",
        worker_options={**common, "data_folder_in": str(inbox), "data_folder_out": str(inbox)},
        sender_options={**common, "data_folder_in": str(inbox), "data_folder_out": str(outbox)},
        outbox=outbox,
        inbox=inbox,
    )


@contextmanager
def _redis(binary: str, directory: Path) -> Iterator[Broker]:
    socket = directory / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = monotonic() + REDIS_START_SECONDS
        while not socket.exists():
            if process.poll() is not None or monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start; set {VARIABLE}=filesystem")
            sleep(0.02)
        yield Broker("Redis, started for the demo", f"redis+socket://{socket}")
    finally:
        process.kill()
        process.wait()
