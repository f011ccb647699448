"""Every connection warm, and every statement prepared, before a clock starts."""

from __future__ import annotations

import gevent
from gevent.event import Event

from benchmarks.peers.base import GeventDriver
from benchmarks.workload import SELECT, WARM_KEYS, require

PATIENCE = 30.0


def warm(driver: GeventDriver, connections: int) -> None:
    """Hold all connections at once, so that none escapes, and run the statement on each."""
    all_out = Event()
    out = 0

    def on_one_connection() -> None:
        nonlocal out
        with driver.connection() as conn:
            out += 1
            if out == connections:
                all_out.set()
            if not all_out.wait(PATIENCE):
                raise TimeoutError(f"the pool gave only {out} of {connections} connections")
            for key in WARM_KEYS:
                require(driver.execute(conn, SELECT, (key,)), key)

    gevent.joinall([gevent.spawn(on_one_connection) for _ in range(connections)], raise_error=True)
