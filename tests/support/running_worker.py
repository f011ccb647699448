"""A worker under test together with the client that sends it tasks and the server it uses."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
from celery import Celery, Signature
from celery.result import AsyncResult
from psycopg.conninfo import conninfo_to_dict

from geventpg.testing import Backend
from geventpg.testing.postgres import fetch_backends
from tests.support.celery_worker import CeleryWorker
from tests.support.waiting import wait_until


@dataclass
class RunningWorker:
    """What a test of the integration works with."""

    process: CeleryWorker
    client: Celery
    queue: str
    dsn: str
    """The worker's own conninfo; its application_name is this worker's alone."""
    _admin: Callable[[], psycopg.Connection[Any]]

    def signature(self, task: str, *args: Any, **kwargs: Any) -> Signature:
        return self.client.signature(task, args=args, kwargs=kwargs, queue=self.queue)

    def send(self, task: str, *args: Any, **options: Any) -> AsyncResult:
        """Send a task; *options* are ``apply_async``'s."""
        return self.client.send_task(task, args=args, queue=self.queue, **options)

    def call(self, task: str, *args: Any, timeout: float = 10.0, **options: Any) -> Any:
        """Send a task and return its result, or raise its exception."""
        return self.send(task, *args, **options).get(timeout=timeout)

    def outcome(self, task: str, *args: Any, timeout: float = 10.0, **options: Any) -> AsyncResult:
        """Send a task, wait until it has succeeded or failed, and return the result object."""
        result = self.send(task, *args, **options)
        result.get(timeout=timeout, propagate=False)
        return result

    @property
    def node(self) -> str:
        """Return the worker's name for remote control."""
        return f"{self.process.name}@{socket.gethostname()}"

    def control(self, command: str, timeout: float = 15.0, **arguments: Any) -> Any:
        """Send a command of remote control to this worker only, and return its answer.

        It is sent again if there is none: Redis has no queue for them, and a worker may listen
        a little later than it says that it is ready.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            replies = self.client.control.broadcast(
                command, arguments, destination=[self.node], reply=True, timeout=3.0, limit=1
            )
            if replies:
                return replies[0][self.node]
        raise AssertionError(f"{self.node} gave no answer within {timeout} s")

    def pools(self) -> list[dict[str, Any]]:
        """Return the pools of all its processes, as remote control tells them."""
        return [
            {"pid": process["pid"], **pool}
            for process in self.control("geventpg")["processes"]
            for pool in process.get("pools", ())
        ]

    def cancel_everything(self) -> None:
        """Cancel the statements that run, so that their tasks end."""
        query = "select pg_cancel_backend(pid) from pg_stat_activity where application_name = %s"
        name = str(conninfo_to_dict(self.dsn)["application_name"])
        self._admin().execute(query + " and state = 'active'", [name])

    def terminate(self, pid: int) -> None:
        """End a session on the server."""
        self._admin().execute("select pg_terminate_backend(%s)", [pid])

    def notes(self, tag: str) -> list[str]:
        """Return the committed notes whose tag begins with *tag*, without that beginning."""
        query = "select tag from work_notes where starts_with(tag, %s) order by tag"
        return [found[len(tag) :].lstrip("-") for (found,) in self._admin().execute(query, [tag])]

    def backends(self) -> list[Backend]:
        """Return this worker's sessions on the server."""
        name = str(conninfo_to_dict(self.dsn)["application_name"])
        return fetch_backends(self._admin(), name)

    def running(self) -> list[Backend]:
        """Return the sessions that run a statement or sit in a transaction."""
        return [backend for backend in self.backends() if backend.state != "idle"]

    def wait_until_quiet(self, timeout: float = 5.0) -> None:
        """Wait until every connection of the worker is idle."""
        wait_until(lambda: not self.running(), timeout, 0.02, "all backends of the worker are idle")


def returned_by(
    results: Iterable[AsyncResult], timeout: float, *, propagate: bool = True
) -> list[Any]:
    """Return what the tasks returned (or raised) once all have ended, in the order given.

    For crowds of tasks that are not retried: the backend is asked what it has stored. Celery's own
    waiting listens to what Redis publishes, and among a hundred results that end within a second
    it has been seen to wait for one that had been there for half a minute. (What is stored of a
    retried task may be its first end, if that is written after its second.)
    """
    waiting = list(results)
    deadline = time.monotonic() + timeout
    for result in waiting:
        left = max(deadline - time.monotonic(), 0.0)
        wait_until(result.ready, left, 0.01, message=f"task {result.id} has ended")
    return [result.get(propagate=propagate) for result in waiting]
