"""One line at start-up: how big the pool is and whether the server has room for it."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from billiard import process

from geventpg import ConnectRejected, Pool
from geventpg.conninfo.checks import check_conninfo
from geventpg.conninfo.discretion import discreet
from geventpg.conninfo.faults import Fault, classify
from geventpg.registry import pools as registry

from .settings import Settings

logger = logging.getLogger("celery.worker.geventpg")

_TIMEOUT = 3.0

_ROOM = """
    select current_setting('max_connections')::int,
           current_setting('superuser_reserved_connections')::int,
           (select count(*)::int from pg_stat_activity where backend_type = 'client backend')
"""


Line = tuple[int, str]
"""A log level and a message."""


def start_up(settings: Settings) -> list[Line]:
    """Return lines about the pool's sizes, the server's limits, and whether they fit.

    Block for some seconds at most. Raise what a checkout from `geventpg.Pool` raises.
    """
    pool: Any = registry.get_pool()
    if not isinstance(pool, Pool):
        _connect_once(pool)
    with pool.connection(timeout=_TIMEOUT) as conn:
        row = conn.execute(_ROOM).fetchone()
    assert row is not None
    limit, reserved, clients = row
    others = max(clients - pool.get_stats()["pool_size"], 0)
    needed = settings.processes * pool.max_size
    available = limit - reserved
    sizes = (
        f"geventpg: pool min_size={pool.min_size} max_size={pool.max_size} in"
        f" {settings.processes} process(es) ({settings.kind}, concurrency {settings.concurrency});"
        f" server max_connections={limit}, {reserved} reserved, {others} used by others"
    )
    lines = [(logging.INFO, sizes)]
    if needed > available:
        too_many = (
            f"geventpg: {settings.processes} process(es) with max_size={pool.max_size} can ask for"
            f" {needed} connections, but the server gives {available} (max_connections={limit},"
            f" {reserved} reserved): lower max_size or the concurrency, raise max_connections, or"
            " put PgBouncer in between"
        )
        lines.append((logging.WARNING, too_many))
    elif needed > available - others:
        crowded = (
            f"geventpg: this worker can ask for {needed} connections, but others use {others} of"
            f" the {available} that the server gives"
        )
        lines.append((logging.WARNING, crowded))
    return lines


@discreet
def _connect_once(pool: Any) -> None:
    """Connect once outside the stock pool, which would only time out if the server refuses.

    Raise `ConnectRejected` or ``psycopg.OperationalError``.
    """
    conninfo = pool.conninfo() if callable(pool.conninfo) else pool.conninfo
    check_conninfo(conninfo)
    kwargs = pool.kwargs() if callable(pool.kwargs) else pool.kwargs
    try:
        psycopg.connect(conninfo, **{**(kwargs or {}), "connect_timeout": round(_TIMEOUT)}).close()
    except psycopg.OperationalError as error:
        if classify(error) is Fault.REJECTED:
            raise ConnectRejected(f"connections are refused: {error}") from error
        raise


def log(lines: list[Line]) -> None:
    """Write *lines* to the worker's log, once it has one."""
    for level, message in lines:
        logger.log(level, message)


def is_first_process() -> bool:
    """Tell whether this is the first of a prefork worker's children."""
    return getattr(process.current_process(), "index", 0) == 0
