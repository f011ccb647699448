"""The server: its role, its limits, and who uses its connections."""

from __future__ import annotations

from typing import Any

from geventpg.cli.findings import Finding, note, ok, problem, warning
from geventpg.cli.output import duration
from geventpg.connection.connection import Connection
from geventpg.sql.reading import read_text
from geventpg.sql.text import shortened

NEARLY_FULL = 0.9

_LENGTH = 80
"""Characters of a session's last statement that are shown."""

_FACTS = """
SELECT current_setting('server_version'),
       current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int,
       coalesce(current_setting('reserved_connections', true), '0')::int,
       pg_is_in_recovery(),
       current_setting('default_transaction_read_only')::bool,
       current_setting('statement_timeout'),
       current_setting('idle_in_transaction_session_timeout'),
       coalesce(current_setting('client_connection_check_interval', true), ''),
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
       (SELECT count(*)::int FROM pg_catalog.pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())
"""

_USERS = """
SELECT coalesce(nullif(application_name, ''), '?'), usename::text,
       coalesce(host(client_addr), 'local'), count(*)::int
  FROM pg_catalog.pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT 5
"""

_IDLE_IN_TRANSACTION = """
SELECT pid, usename::text, coalesce(nullif(application_name, ''), '?'),
       coalesce(host(client_addr), 'local'),
       extract(epoch FROM clock_timestamp() - state_change)::float8, query
  FROM pg_catalog.pg_stat_activity
 WHERE state LIKE 'idle in transaction%%' AND pid <> pg_backend_pid()
   AND clock_timestamp() - state_change > %s * interval '1 second'
 ORDER BY state_change LIMIT 10
"""

_HIDDEN = """
SELECT count(*)::int FROM pg_catalog.pg_stat_activity
 WHERE backend_type IS NULL AND pid <> pg_backend_pid() AND usename IS DISTINCT FROM current_user
"""


def look_at_server(
    conn: Connection[Any], *, processes: int, max_size: int, idle_after: float
) -> list[Finding]:
    """Return findings on the server behind *conn*, for *processes* with pools of *max_size*.

    Sessions count as idle in transaction after *idle_after* seconds.
    """
    row = conn.execute(_FACTS).fetchone()
    assert row is not None
    version, limit, reserved, reserved_more, standby, read_only, *timeouts, is_super, used = row
    found = [ok("server", f"PostgreSQL {version}", version=version)]
    found += look_at_role(standby=standby, read_only=read_only)
    if is_super:
        found.append(
            warning(
                "superuser",
                "This user is a superuser: its pools can take the connections that are kept for"
                " you, and any SQL injection can do anything.",
                "Let the application log in as a role of its own, without SUPERUSER.",
            )
        )
    found += look_at_room(limit, reserved, reserved_more, used, processes * max_size)
    found.append(_look_at_users(conn, used, limit))
    found += look_at_timeouts(*timeouts)
    found += look_at_idle_transactions(conn, idle_after)
    return found


def look_at_role(*, standby: bool, read_only: bool) -> list[Finding]:
    """Return a problem if nothing can be written there."""
    advice = (
        "Connect to the primary: name all servers in host= and add"
        " target_session_attrs=read-write. For reading only, this is as it should be."
    )
    if standby:
        return [problem("standby", "The server is a standby: every write fails.", advice)]
    if read_only:
        return [
            problem(
                "read-only",
                "default_transaction_read_only is on: every write fails.",
                "See whether the server was fenced off by a failover; else ALTER SYSTEM, ALTER"
                " DATABASE or ALTER ROLE … RESET default_transaction_read_only.",
            )
        ]
    return [ok("primary", "the server takes writes")]


def look_at_room(
    limit: int, reserved: int, reserved_more: int, used: int, planned: int
) -> list[Finding]:
    """Return findings on ``max_connections``, for pools of *planned* connections in all."""
    room = limit - reserved - reserved_more
    text = (
        f"max_connections={limit}, {reserved + reserved_more} reserved; the pools can ask for"
        f" {planned}, others use {used} now"
    )
    facts = {"max_connections": limit, "reserved": reserved + reserved_more, "planned": planned}
    found: list[Finding] = []
    if planned > room:
        found.append(
            problem(
                "max-connections",
                f"{text}: that is more than the {room} that the server gives.",
                "Lower max_size or the number of processes, raise max_connections, or put"
                " PgBouncer in between; geventpg plan computes it. (--processes and --max-size say"
                " what is planned.)",
                **facts,
            )
        )
    elif used + 1 >= NEARLY_FULL * room:
        found.append(
            warning(
                "connections-nearly-used-up",
                f"{text}: nearly all of the {room} are taken.",
                "See who holds them below; lower their pools' sizes or raise max_connections.",
                used=used,
                **facts,
            )
        )
    else:
        found.append(ok("max-connections", text, used=used, **facts))
    if reserved == 0:
        found.append(
            warning(
                "nothing-reserved",
                "superuser_reserved_connections is 0: when all connections are taken, you cannot"
                " get in to see why.",
                "Set it to 3, which is the default, and restart the server.",
            )
        )
    return found


def _look_at_users(conn: Connection[Any], used: int, limit: int) -> Finding:
    rows = conn.execute(_USERS).fetchall()
    who = "; ".join(f"{count} of {app} ({user} from {addr})" for app, user, addr, count in rows)
    text = f"{used} of {limit} connections are in use by others" + (f": {who}" if who else "")
    users = [
        {"application": app, "user": user, "address": addr, "connections": count}
        for app, user, addr, count in rows
    ]
    return ok("connections", text, users=users)


def look_at_timeouts(statement: str, idle: str, check_interval: str) -> list[Finding]:
    """Return findings on what ends a statement, or a transaction, that hangs."""
    found: list[Finding] = []
    if statement == "0":
        found.append(
            warning(
                "statement-timeout-off",
                "statement_timeout is 0: a statement may run, and hold its connection, for ever.",
                "ALTER ROLE … SET statement_timeout = '30s', or what your longest one needs.",
            )
        )
    if idle == "0":
        found.append(
            warning(
                "idle-timeout-off",
                "idle_in_transaction_session_timeout is 0: a forgotten transaction keeps its locks"
                " and its connection for ever, and VACUUM from its work.",
                "ALTER ROLE … SET idle_in_transaction_session_timeout = '1min'.",
            )
        )
    if check_interval in ("", "0"):
        found.append(
            note(
                "client-check-off",
                "client_connection_check_interval is 0: the server goes on with the statements of"
                " processes that were killed.",
                "With Celery prefork, whose hard time limit kills: ALTER ROLE … SET"
                " client_connection_check_interval = '5s' (PostgreSQL 14 or newer).",
            )
        )
    if not found:
        found.append(ok("timeouts", f"statement_timeout={statement}, idle in transaction={idle}"))
    return found


def look_at_idle_transactions(conn: Connection[Any], idle_after: float) -> list[Finding]:
    """Return a warning that names the sessions that sit in a transaction, and their programs."""
    rows = conn.execute(_IDLE_IN_TRANSACTION, [idle_after]).fetchall()
    hidden = conn.execute(_HIDDEN).fetchone()
    found: list[Finding] = []
    if hidden is not None and hidden[0]:
        found.append(
            note(
                "sessions-hidden",
                f"{hidden[0]} sessions of other users do not show what they do.",
                "GRANT pg_monitor to the user that runs this, to see them.",
            )
        )
    if not rows:
        return [*found, ok("idle-in-transaction", "no session sits idle in a transaction")]
    sessions = [
        {
            "pid": pid,
            "user": user,
            "application": app,
            "address": addr,
            "seconds": seconds,
            "statement": shortened(read_text(query or "?").without_literals, _LENGTH),
        }
        for pid, user, app, addr, seconds, query in rows
    ]
    who = "; ".join(
        f"pid {s['pid']}, {s['application']} ({s['user']} from {s['address']}), for"
        f" {duration(s['seconds'])} after: {s['statement']}"
        for s in sessions
    )
    found.append(
        warning(
            "idle-in-transaction",
            f"{len(rows)} session(s) sit idle in a transaction: {who}",
            "Find the code that waits for something else while it holds a connection; set"
            " leak_threshold to have it logged with its stack. pg_terminate_backend(pid) ends one.",
            sessions=sessions,
        )
    )
    return found
