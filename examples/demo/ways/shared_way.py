"""One connection in a module-level variable, used by all greenlets (psycopg/psycopg#919).

It is opened again when it is found closed, which is more than the account's code did.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import psycopg
from celery import Celery

from examples.demo.ways import Job, answers


class SharedConnection:
    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._conn: psycopg.Connection[Any] | None = None
        self._connecting = Lock()

    def run(self, job: Job) -> None:
        job(self._connection())

    def usable(self) -> int:
        return int(answers(self._connection()))

    def _connection(self) -> psycopg.Connection[Any]:
        with self._connecting:
            if self._conn is None or self._conn.closed:
                # Autocommit, because greenlets cannot share a transaction.
                self._conn = psycopg.connect(self._conninfo, autocommit=True)
            return self._conn


def create(_app: Celery, conninfo: str) -> SharedConnection:
    return SharedConnection(conninfo)
