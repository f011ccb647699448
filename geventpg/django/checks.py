"""System checks: settings that make the pool useless or dangerous, with advice.

Django runs the checks of the server, which connect to it, for ``migrate`` and ``check --database``
only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gevent.monkey
from django.core import checks
from django.core.checks import CheckMessage, Error
from django.db import connections

from geventpg import hub
from geventpg.connection.pooler import is_pooled

from . import pools
from .asynchrony import has_storage_of_greenlets
from .wrapper import PooledWrapper, pooled_wrappers

_ROOM = """
    select current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int
"""


def check_patching(**_kwargs: Any) -> list[CheckMessage]:
    """Check that greenlets have database connections of their own: E001, E002."""
    if not hub.in_use():
        return []
    if not gevent.monkey.is_module_patched("threading"):
        return [
            Error(
                "gevent runs in this process, but the standard library is not patched: all"
                " greenlets share one connection for each database.",
                hint="Call gevent.monkey.patch_all() before anything else is imported, or start"
                " gunicorn with -k gevent, Celery with -P gevent.",
                id="geventpg.E001",
            )
        ]
    if not has_storage_of_greenlets():
        return [
            Error(
                "gevent patched the standard library after Django was imported: all greenlets"
                " share one connection for each database.",
                hint="Call gevent.monkey.patch_all() before 'import django', in the first lines of"
                " the program.",
                id="geventpg.E002",
            )
        ]
    return []


def check_settings(**_kwargs: Any) -> list[CheckMessage]:
    """Check for settings that defeat the pool, or the lack of one: E003, W001, W002."""
    found: list[CheckMessage] = []
    for alias in connections:
        wrapper = connections[alias]
        if not isinstance(wrapper, PooledWrapper):
            continue
        settings, where = wrapper.settings_dict, f"DATABASES[{alias!r}]"
        persistent = settings.get("CONN_MAX_AGE", 0) != 0
        if wrapper.is_pooled and persistent:
            found.append(
                Error(
                    f"{where} has CONN_MAX_AGE and a pool: connections that Django keeps are not"
                    " in the pool.",
                    hint="Remove CONN_MAX_AGE. The pool keeps connections open, for max_idle and"
                    " max_lifetime seconds.",
                    id="geventpg.E003",
                )
            )
        elif persistent:
            found.append(
                checks.Warning(
                    f"{where} has CONN_MAX_AGE and no pool: with gevent every greenlet keeps a"
                    " connection open.",
                    hint="Remove CONN_MAX_AGE and 'pool': False.",
                    id="geventpg.W001",
                )
            )
        if wrapper.is_pooled and settings["CONN_HEALTH_CHECKS"]:
            found.append(
                checks.Warning(
                    f"{where} has CONN_HEALTH_CHECKS: that is a round trip for every request.",
                    hint="Remove it. The pool notices by itself when the server closes an idle"
                    " connection.",
                    id="geventpg.W002",
                )
            )
    return found


def check_server(databases: Iterable[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """Check the server behind each of *databases*: W003, W004. Connects."""
    wanted = set(databases or ())
    wrappers = [wrapper for wrapper in pooled_wrappers() if wrapper.alias in wanted]
    found = [warning for wrapper in wrappers for warning in _check_role(wrapper)]
    servers: dict[tuple[Any, ...], list[Any]] = {}
    for wrapper in wrappers:
        servers.setdefault(_server_of(wrapper), []).append(wrapper)
    for together in servers.values():
        found += _check_room(together)
    return found


def _server_of(wrapper: Any) -> tuple[Any, ...]:
    params = wrapper.get_connection_params()
    return tuple(params.get(name) for name in ("service", "host", "hostaddr", "port"))


def _check_room(wrappers: list[Any]) -> list[CheckMessage]:
    sizes = {wrapper.alias: _max_size(wrapper) for wrapper in wrappers}
    direct = pools.unpooled(wrappers[0])
    with direct.temporary_connection() as cursor:
        cursor.execute(_ROOM)
        limit, reserved = cursor.fetchone()
        if is_pooled(direct.connection):
            return []  # how many connections a pooler takes cannot be asked here
    if sum(sizes.values()) <= limit - reserved:
        return []
    pools_text = ", ".join(f"{alias}: {size}" for alias, size in sizes.items())
    return [
        checks.Warning(
            f"The pools of one process (max_size of {pools_text}) are larger than what the server"
            f" allows: max_connections is {limit}, {reserved} of them reserved.",
            hint="Lower max_size in OPTIONS['pool'], and count every process of every host.",
            id="geventpg.W003",
        )
    ]


def _max_size(wrapper: Any) -> int:
    options = pools.check_options(wrapper.alias, wrapper.settings_dict)
    return int(options.get("max_size") or options.get("min_size", pools.DEFAULT_SIZE))


def _check_role(wrapper: Any) -> list[CheckMessage]:
    if not wrapper.settings_dict["OPTIONS"].get("assume_role"):
        return []
    direct = pools.unpooled(wrapper)
    with direct.temporary_connection():
        if not is_pooled(direct.connection):
            return []
    return [
        checks.Warning(
            f"DATABASES[{wrapper.alias!r}] has assume_role behind a pooler: in transaction mode"
            " SET ROLE stays on server connections that other clients get.",
            hint="Let the user log in with that role, or ALTER ROLE … SET role, or use session"
            " mode.",
            id="geventpg.W004",
        )
    ]
