"""What the server itself counted: connections, from its log."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from geventpg.testing import EmbeddedPostgres

# The server's default log_line_prefix is "%m [%p] ".
_LINE = re.compile(r"^(\S+ \S+) \S+ \[(\d+)\] (\w+):  (.*)$", re.MULTILINE)


@dataclass(eq=False)
class Handshake:
    """One TCP connection that the server saw; times in seconds, *until* None if it failed."""

    since: float
    until: float | None = None
    refused: str = ""


@contextlib.contextmanager
def logging_connections(server: EmbeddedPostgres, application_name: str) -> Iterator[ConnectionLog]:
    """Let *server* log every connection for a while, restarts included.

    Those of other applications than this one are left out: workers that other tests have left
    running come back after a restart too.
    """
    with server.connect() as conn:
        conn.execute("ALTER SYSTEM SET log_connections = on")
        conn.execute("SELECT pg_reload_conf()")
    try:
        yield ConnectionLog(server, application_name)
    finally:
        with server.connect() as conn:
            conn.execute("ALTER SYSTEM RESET log_connections")
            conn.execute("SELECT pg_reload_conf()")


class ConnectionLog:
    """An application's TCP connections that the server saw since `restart`, not unix sockets.

    Those that it refused are here too, whosever they are: their names are not in the log.
    """

    def __init__(self, server: EmbeddedPostgres, application_name: str) -> None:
        self._server = server
        self._authorized = re.compile(rf"connection authorized: .*={re.escape(application_name)}\b")
        self.restart()

    def restart(self) -> None:
        """Forget what was logged until now."""
        self._start = len(self._server.log)

    def handshakes(self) -> list[Handshake]:
        found: list[Handshake] = []
        under_way: dict[str, Handshake] = {}
        for moment, pid, level, text in _LINE.findall(self._server.log[self._start :]):
            at = datetime.strptime(moment + "+0000", "%Y-%m-%d %H:%M:%S.%f%z").timestamp()
            if text.startswith("connection received: host=127.0.0.1"):
                under_way[pid] = Handshake(at)
                found.append(under_way[pid])
            elif pid in under_way and self._authorized.match(text):
                under_way[pid].until = at
            elif pid in under_way and text.startswith("connection authorized"):
                found.remove(under_way.pop(pid))  # of another process
            elif pid in under_way and level == "FATAL":
                under_way.pop(pid).refused = text
        return found


def most_at_once(handshakes: list[Handshake]) -> int:
    """Return how many of *handshakes* were under way at the same time."""
    # Ends before beginnings of the same millisecond: the log knows no better.
    events = sorted(
        event
        for shake in handshakes
        if shake.until is not None
        for event in ((shake.since, 1), (shake.until, -1))
    )
    most = now = 0
    for _at, change in sorted(events, key=lambda event: (event[0], event[1])):
        now += change
        most = max(most, now)
    return most
