"""What is run: the sizes, the stages and the names that the demo and its workers agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass

WAYS = ("shared", "stock", "geventpg", "statements")
TITLES = {
    "shared": "shared connection",
    "stock": "psycopg_pool",
    "geventpg": "geventpg",
    "statements": "geventpg, statements",
}

CONCURRENCY = 100  # greenlets: celery -P gevent -c 100
MIN_SIZE = 4
MAX_SIZE = 20
CAPACITY = {way: 1 if way == "shared" else MAX_SIZE for way in WAYS}  # connections it may have
ACCOUNTS = 2_000  # one row per task, so that no task waits for another's row lock

QUERY_SECONDS = 0.005
OTHER_IO_SECONDS = 0.001
SLOW_SECONDS = 30
TIME_LIMIT = 1  # of the slow tasks: Celery interrupts them long before they are done

WAY_BOUND = 50.0  # a way that is not through by then is stopped
STALL_BOUND = 8.0  # and so is one that finishes no task for this long


@dataclass(frozen=True)
class Stage:
    """Tasks that are sent together; the next stage starts when all of them have ended."""

    count: int
    slow: bool = False
    idle_backends_killed_before: bool = False


TASKS = max(int(os.environ.get("GEVENTPG_DEMO_TASKS", "2000")), 20)
SLOW_TASKS = TASKS * 3 // 200 or 1
_FIRST, _LAST = TASKS // 2, TASKS // 10
STAGES = (
    Stage(_FIRST),
    Stage(TASKS - _FIRST - SLOW_TASKS - _LAST, idle_backends_killed_before=True),
    Stage(SLOW_TASKS, slow=True),
    Stage(_LAST),
)


def application_name(way: str) -> str:
    return f"geventpg-demo-{way}"
