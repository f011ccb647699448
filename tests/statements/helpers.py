"""What the tests of statements share."""

from __future__ import annotations

import itertools
from typing import Any

import gevent

from tests.connection.helpers import Attempt
from tests.support import wait_until
from tests.support.pools import counts

INSERT = "insert into things values (%s, %s) returning id"
ECHO = "select %s::int"

_numbers = itertools.count(1)


def warm_up(pool: Any) -> None:
    """Have a connection ready that statements share: the first ones ask it what it can do."""
    wait_until(lambda: counts(pool).idle >= pool.min_size)
    assert echo(pool)
    wait_until(lambda: at_rest(pool))


def echo(pool: Any, **options: Any) -> bool:
    """Send a number that no other statement sends; return whether that is the answer."""
    number = next(_numbers)
    return bool(pool.fetch_val(ECHO, (number,), **options) == number)


def echoes(pool: Any, number: int, **options: Any) -> list[Any]:
    """Return greenlets that each send one, all in the same turn of the hub."""
    return [gevent.spawn(echo, pool, **options) for _ in range(number)]


def all_true(greenlets: list[Any]) -> bool:
    """Return whether each greenlet returned true; raise what one of them raised."""
    gevent.joinall(greenlets, raise_error=True)
    return all(greenlet.value for greenlet in greenlets)


def at_rest(pool: Any) -> bool:
    """Return whether no statement is on its way and no connection is in use."""
    now = stats(pool)
    return counts(pool).in_use == now.outstanding == now.waiting == now.connections == 0


def stats(pool: Any) -> Any:
    """Return the numbers of the pool's statements, as attributes."""
    return pool.statement_stats()


def sleeping(admin: Any) -> list[int]:
    """Return the backends that execute ``pg_sleep`` now."""
    query = "select pid from pg_stat_activity where wait_event = 'PgSleep'"
    return [pid for (pid,) in admin.execute(query)]


def cancel(admin: Any, slow: Attempt) -> None:
    """Cancel what sleeps until *slow* is over.

    Once is not enough: just now it may be on its way to a connection of its own.
    """
    query = "select pg_cancel_backend(pid) from unnest(%s::int[]) pid"
    wait_until(
        lambda: admin.execute(query, [sleeping(admin)]) and slow.over,
        message="the slow statement is over",
    )
