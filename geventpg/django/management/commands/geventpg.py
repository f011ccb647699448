"""``manage.py geventpg``: look at the pools' connections from outside, and have them replaced."""

from __future__ import annotations

import time
from typing import Any

import gevent.monkey
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from geventpg.connection.pooler import is_pooled
from geventpg.django import pools
from geventpg.django.wrapper import pooled_wrappers

_SERVER = """
    select current_setting('server_version'), current_setting('max_connections'),
           current_setting('superuser_reserved_connections'),
           (select count(*) from pg_stat_activity where backend_type = 'client backend')
"""

_SESSIONS = """
    select application_name, coalesce(host(client_addr), 'local'), coalesce(state, '?'), count(*),
           coalesce(extract(epoch from max(now() - state_change)), 0)::int
    from pg_stat_activity
    where datname = current_database() and usename = session_user and pid <> pg_backend_pid()
    group by 1, 2, 3 order by 1, 2, 3
"""

_OLD = """
    from pg_stat_activity
    where datname = current_database() and usename = session_user and pid <> pg_backend_pid()
      and backend_type = 'client backend' and backend_start < %s
      and (%s::text is null or application_name = %s)
"""


class Command(BaseCommand):  # type: ignore[misc]  # ships no types
    """See ``manage.py geventpg --help``."""

    help = (
        "status: the pool's settings, the server's limits and this application's sessions."
        " drain: end this application's idle sessions, so that the pools of all its processes open"
        " new ones; no request meets a session that was ended while it was idle. To change a size"
        " for all processes change DATABASES; geventpg.get_pool(alias).resize() does it in one."
    )
    requires_system_checks: tuple[str, ...] = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the action and its options."""
        parser.add_argument("action", choices=["status", "drain"], nargs="?", default="status")
        parser.add_argument("--database", help="an alias; default: all, for drain 'default'")
        parser.add_argument("--application-name", help="drain only sessions of that name")
        parser.add_argument(
            "--rest",
            type=float,
            default=5.0,
            help="drain sessions that were idle this long (s); a request that pauses longer"
            " between two statements, outside a transaction, would lose its connection",
        )
        parser.add_argument(
            "--timeout", type=float, default=60.0, help="seconds to wait for busy sessions"
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        """Do what was asked; block for ``--timeout`` seconds at most."""
        wrappers = {wrapper.alias: wrapper for wrapper in pooled_wrappers()}
        wanted = options["database"]
        if wanted is not None and wanted not in connections:
            raise CommandError(f"there is no database {wanted!r} in DATABASES")
        if wanted is not None and wanted not in wrappers:
            raise CommandError(f"the database {wanted!r} has no pool of geventpg")
        if options["action"] == "drain":
            wanted = wanted or DEFAULT_DB_ALIAS
            if wanted not in wrappers:
                raise CommandError(f"the database {wanted!r} has no pool of geventpg")
            self._drain(wrappers[wanted], options)
            return
        if not wrappers:
            raise CommandError("no database has a pool of geventpg")
        patched = gevent.monkey.is_module_patched("threading")
        self.stdout.write(f"this process: gevent {'patched' if patched else 'not patched'}")
        for alias, wrapper in wrappers.items():
            if wanted in (None, alias):
                self._show(wrapper)

    def _show(self, wrapper: Any) -> None:
        given = pools.check_options(wrapper.alias, wrapper.settings_dict)
        sizes = {"min_size": pools.DEFAULT_SIZE, **given}
        sizes.setdefault("max_size", sizes["min_size"])
        shown = " ".join(f"{name}={value}" for name, value in sorted(sizes.items()))
        self.stdout.write(f"\n{wrapper.alias}: in every process a pool with {shown}")
        direct = pools.unpooled(wrapper)
        with direct.temporary_connection() as cursor:
            pooler = is_pooled(direct.connection)
            cursor.execute(_SERVER)
            version, limit, reserved, used = cursor.fetchone()
            self.stdout.write(
                f"  server: PostgreSQL {version}{', behind a pooler' if pooler else ''};"
                f" max_connections={limit}, {reserved} reserved, {used} in use"
            )
            cursor.execute(_SESSIONS)
            for name, address, state, count, seconds in cursor.fetchall():
                self.stdout.write(
                    f"  {count} session(s) {state!r} of {name or 'no application_name'!r} from"
                    f" {address}, for {seconds} s at most"
                )

    def _drain(self, wrapper: Any, options: dict[str, Any]) -> None:
        name, deadline = options["application_name"], time.monotonic() + options["timeout"]
        direct = pools.unpooled(wrapper)
        with direct.temporary_connection() as cursor:
            if is_pooled(direct.connection):
                raise CommandError(
                    "behind a pooler the sessions are the pooler's: RECONNECT in PgBouncer's"
                    " console replaces them"
                )
            cursor.execute("select clock_timestamp()")
            old = [cursor.fetchone()[0], name, name]
            # They were idle for a while, so a request is hardly about to use them.
            rest = "and state = 'idle' and state_change < clock_timestamp() - %s * interval '1 s'"
            ended = 0
            while True:
                cursor.execute(
                    f"select pg_terminate_backend(pid) {_OLD} {rest}",  # ours
                    [*old, options["rest"]],
                )
                ended += len(cursor.fetchall())
                cursor.execute(f"select count(*) {_OLD}", old)  # ours
                left = cursor.fetchone()[0]
                if not left or time.monotonic() >= deadline:
                    break
                time.sleep(min(0.2, options["timeout"]))
        self.stdout.write(f"{wrapper.alias}: {ended} session(s) ended, {left} still at work")
        if left:
            raise CommandError(f"{left} session(s) never rested for {options['rest']:g} s")
