"""Questions to the children of a prefork worker, which have its pools.

Remote control reaches the parent only. Each child has a thread that answers on a Unix socket, named
by its process id, in a directory that only this account can enter. The parent asks all children at
the same time, and waits for a bounded time because it does nothing else meanwhile.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import selectors
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any

from . import overview

logger = logging.getLogger("celery.worker.geventpg")

PATIENCE = 0.6
"""Seconds for all answers together: Celery's commands wait one second for the worker's answer."""

_LIMIT = 1_000_000
_LONGEST_PATH = 90
"""Bytes; every system allows 104 at least for the path of a Unix socket."""

# For children that are started afresh ("spawn"). The name must not begin with GEVENTPG_, as the
# pool's options do.
_VARIABLE = "_GEVENTPG_CHILDREN"


class Children:
    """The parent's side: a directory for the sockets, and questions."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._owner = 0

    def open(self) -> None:
        """Make the directory, before there is a child; if that fails, log it and go on without."""
        if self._directory is not None and self._owner == os.getpid():
            return
        self._owner, self._directory = os.getpid(), None
        os.environ.pop(_VARIABLE, None)  # it may come from a worker that started this one
        try:
            directory = Path(tempfile.mkdtemp(prefix="geventpg-"))
            if len(os.fsencode(directory)) > _LONGEST_PATH:
                directory.rmdir()
                directory = Path(tempfile.mkdtemp(prefix="geventpg-", dir="/tmp"))
        except OSError as error:
            logger.warning("geventpg: remote control cannot reach the children: %s", error)
            return
        self._directory = directory
        os.environ[_VARIABLE] = str(directory)
        atexit.register(self.close)

    def close(self) -> None:
        """Remove the directory; do nothing in a child. Idempotent."""
        if self._directory is not None and self._owner == os.getpid():
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def answer(self) -> None:
        """Answer the parent from now on, in this child, in a thread."""
        directory = os.environ.get(_VARIABLE)
        if directory is None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = Path(directory, str(os.getpid()))
        try:
            path.unlink(missing_ok=True)  # it may be that of a dead child with the same number
            listener.bind(str(path))
            listener.listen(4)
        except OSError as error:
            listener.close()
            logger.warning("geventpg: remote control cannot reach this process: %s", error)
            return
        threading.Thread(
            target=_answer, args=[listener], name="geventpg-control", daemon=True
        ).start()

    def ask(
        self, pids: Iterable[int], command: str, **arguments: Any
    ) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """Ask the children *pids*; block this thread for `PATIENCE` seconds at most.

        Return the answers, and for each child without an answer the reason.
        """
        if self._directory is None:
            return [], dict.fromkeys(pids, "cannot be asked: there is no directory for its socket")
        deadline = monotonic() + PATIENCE
        question = json.dumps({"command": command, "arguments": arguments}).encode()
        answers: list[dict[str, Any]] = []
        failures: dict[int, str] = {}
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            for pid in pids:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                sock.settimeout(max(deadline - monotonic(), 0.001))
                try:
                    sock.connect(str(Path(self._directory, str(pid))))
                    sock.sendall(question)
                    sock.shutdown(socket.SHUT_WR)
                except FileNotFoundError:
                    failures[pid] = "is starting, and cannot be asked yet"
                    continue
                except OSError as error:
                    failures[pid] = f"cannot be asked: {error.strerror or error}"
                    continue
                selector.register(sock, selectors.EVENT_READ, (pid, bytearray()))
            while selector.get_map():
                ready = selector.select(max(deadline - monotonic(), 0.0))
                if not ready:
                    break
                for key, _events in ready:
                    self._read(selector, key, answers, failures)
            for key in selector.get_map().values():
                failures[key.data[0]] = f"no answer within {PATIENCE:g} s"
        return answers, failures

    def _read(
        self,
        selector: selectors.BaseSelector,
        key: selectors.SelectorKey,
        answers: list[dict[str, Any]],
        failures: dict[int, str],
    ) -> None:
        pid, received = key.data
        try:
            data = key.fileobj.recv(65536)  # type: ignore[union-attr]
        except OSError:
            data = b""
        if data:
            received.extend(data)
            return
        selector.unregister(key.fileobj)
        try:
            answer = json.loads(bytes(received))
        except ValueError:
            failures[pid] = "ended while it was asked"
            return
        if "error" in answer:
            failures[pid] = answer["error"]
        else:
            answers.append(answer)


def _answer(listener: socket.socket) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        with client:
            client.settimeout(1.0)
            with contextlib.suppress(OSError):
                client.sendall(_answer_to(_question(client)))


def _question(client: socket.socket) -> bytes:
    received = b""
    while len(received) < _LIMIT and (data := client.recv(65536)):
        received += data
    return received


def _answer_to(question: bytes) -> bytes:
    try:
        asked = json.loads(question)
        answer = overview.COMMANDS[asked["command"]](**asked["arguments"])
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    return json.dumps(answer).encode()


CHILDREN = Children()
