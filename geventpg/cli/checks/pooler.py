"""The pooler between here and the server: its mode, and whether statements may be prepared."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

import gevent
import psycopg
from psycopg import pq

from geventpg.cli.findings import Finding, note, ok, problem, warning
from geventpg.connection.connection import Connection
from geventpg.connection.pooler import is_pooled

from .environment import GOOD_LIBPQ
from .reaching import Target

_TURNS = 6
_BLOCKED_AFTER = 1.0


@dataclass(frozen=True)
class Pooler:
    """What could be found out about a pooler."""

    mode: str
    """``session``, ``transaction``, ``statement``, or ``unknown``."""
    version: str = ""
    """PgBouncer's version, if its console let us in."""
    prepared: int | None = None
    """``max_prepared_statements``, likewise."""
    pool_size: int | None = None


def look_at_pooler(conn: Connection[Any], target: Target, prepare: str) -> list[Finding]:
    """Return findings on a pooler, and on prepared statements with the option *prepare*."""
    if not is_pooled(conn):
        return [ok("direct", "a direct connection; prepared statements are safe")]
    pooler = ask(conn, target)
    name = f"PgBouncer {pooler.version}".strip() if pooler.version else "a pooler"
    facts = {
        "mode": pooler.mode,
        "version": pooler.version,
        "max_prepared_statements": pooler.prepared,
        "default_pool_size": pooler.pool_size,
    }
    found = []
    if pooler.mode == "session":
        size = f" (default_pool_size={pooler.pool_size})" if pooler.pool_size else ""
        found.append(
            warning(
                "pooler-session-mode",
                f"behind {name} in session mode: each connection of a pool keeps a server"
                " connection, also while it is idle, and others wait for it.",
                "Use transaction mode, or connect directly; else let all pools together be no"
                f" larger than the pooler's{size}.",
                **facts,
            )
        )
    elif pooler.mode == "statement":
        found.append(
            problem(
                "pooler-statement-mode",
                f"behind {name} in statement mode: transactions are refused, so tasks fail.",
                "Use pool_mode = transaction.",
                **facts,
            )
        )
    else:
        mode = f"{pooler.mode} mode" if pooler.mode != "unknown" else "a mode that does not show"
        found.append(
            note(
                "pooler",
                f"behind {name} in {mode}",
                "SET, LISTEN, advisory locks and temporary tables do not survive a transaction;"
                " see docs/poolers.md.",
                **facts,
            )
        )
    return [*found, _look_at_preparing(pooler, prepare)]


def _look_at_preparing(pooler: Pooler, prepare: str) -> Finding:
    knows = bool(pooler.prepared) and pq.version() >= GOOD_LIBPQ
    if prepare != "always":
        more = "; it would take prepared ones: prepare='always' is faster" if knows else ""
        return ok("prepare", f"prepare={prepare!r}: nothing is prepared behind the pooler{more}")
    if pooler.mode == "session" or knows:
        return ok("prepare", "prepare='always', which this pooler can do")
    return problem(
        "prepare-unsafe",
        "prepare='always' behind a pooler that does not know prepared statements: statements fail,"
        " or execute those of other clients.",
        "Leave prepare at 'auto'. For prepared statements: PgBouncer 1.21 or newer with"
        " max_prepared_statements, and libpq 17 or newer.",
    )


def ask(conn: Connection[Any], target: Target) -> Pooler:
    """Find out what kind of pooler is in between: its console, if it lets us in, and its ways."""
    mode = observe_mode(conn, target)
    config = _console(target)
    shown = config.get("pool_mode", mode) if mode == "unknown" else mode
    return Pooler(
        mode=shown,
        version=config.get("version", ""),
        prepared=_integer(config.get("max_prepared_statements", "0" if config else "")),
        pool_size=_integer(config.get("default_pool_size", "")),
    )


def observe_mode(conn: Connection[Any], target: Target) -> str:
    """Tell the mode by which server connections two clients are given in turn."""
    try:
        conn.execute("BEGIN")
        conn.execute("COMMIT")
    except psycopg.Error:
        return "statement"  # "transaction blocks not allowed in statement pooling mode"
    other: Connection[Any] | None = None
    try:
        with gevent.Timeout(_BLOCKED_AFTER):
            other = target.connect()
            other.cancel_timeout = 0.1  # no server connection runs it, so there is nothing to end
            seen = [(_pid(conn), _pid(other)) for _ in range(_TURNS)]
    except gevent.Timeout:
        # Ours stays ours, and the other waits for a server connection that is not there.
        return "session"
    except psycopg.Error:
        return "unknown"
    finally:
        if other is not None:
            other.close()
    shared = any(mine == others for mine, others in seen)
    return "transaction" if shared or len(set(seen)) > 1 else "session"


def _pid(conn: Connection[Any]) -> int:
    row = conn.execute("SELECT pg_catalog.pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def _console(target: Target) -> dict[str, str]:
    """Return PgBouncer's settings, and its ``version``; nothing if it does not tell us."""
    settings: dict[str, str] = {}
    with (
        suppress(psycopg.Error),
        gevent.Timeout(_BLOCKED_AFTER, False),
        closing(target.connect(dbname="pgbouncer")) as console,
    ):
        version = console.execute(b"SHOW VERSION").fetchone()
        settings["version"] = str(version[0]).removeprefix("PgBouncer ") if version else ""
        for row in console.execute(b"SHOW CONFIG"):
            settings[str(row[0])] = str(row[1])
    return settings


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
