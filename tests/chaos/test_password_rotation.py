"""A password that is changed under load: with a secret that is asked for, no task fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from psycopg import sql
from psycopg.conninfo import make_conninfo

from geventpg import ConnectRejected, Pool, PoolTimeout
from tests.chaos.form import pick
from tests.support import wait_until
from tests.support.pools import counts, settled, terminate

USERS = 50
SIZE = 8
LAG = 1.5


class SecretStore:
    """Where a program asks for the password of its role: late, slow and sometimes away."""

    def __init__(self, admin: Any, role: str) -> None:
        self._admin = admin
        self.role = role
        self.password = "first"
        self.delay = 0.0
        self.away = False
        self.asked = 0
        self.changes = 0

    def change(self, lag: float) -> None:
        """Change the password on the server, and *lag* seconds later what is told here."""
        self.changes += 1
        fresh = f"change-{self.changes}"
        self._admin.execute(
            sql.SQL("alter role {} password {}").format(
                sql.Identifier(self.role), sql.Literal(fresh)
            )
        )
        gevent.sleep(lag)
        self.password = fresh

    def ask(self) -> str:
        """Return the password, or raise as the client of such a store would."""
        self.asked += 1
        told = self.password
        gevent.sleep(self.delay)
        if self.away:
            raise ConnectionError("the secret store does not answer")
        return told


@pytest.fixture
def store(admin, dsn) -> Iterator[SecretStore]:
    """Return the store of a role's password; the role is dropped after the test."""
    role = "rotating"
    admin.execute(f"create role {role} login password 'first'")
    yield SecretStore(admin, role)
    ours = "select pid from pg_stat_activity where usename = %s"
    terminate(admin, *(pid for (pid,) in admin.execute(ours, [role]).fetchall()))
    admin.execute(f"drop role {role}")


def by_kwargs(store: SecretStore, dsn: str) -> dict[str, Any]:
    return {"conninfo": dsn, "kwargs": lambda: {"user": store.role, "password": store.ask()}}


def by_conninfo(store: SecretStore, dsn: str) -> dict[str, Any]:
    return {"conninfo": lambda: make_conninfo(dsn, user=store.role, password=store.ask())}


SECRETS: dict[str, Callable[[SecretStore, str], dict[str, Any]]] = {
    "kwargs": by_kwargs,
    "conninfo": by_conninfo,
}


class Load:
    """Greenlets that use *pool* as fast as they can, newcomers, and what becomes of all."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._gate = Event()
        self._gate.set()
        self._stop = False
        self.done = 0
        self.failures: list[BaseException] = []
        self.longest_wait = 0.0
        self._greenlets = [gevent.spawn(self._run) for _ in range(USERS)]
        self._greenlets.append(gevent.spawn(self._newcomers))

    def _run(self) -> None:
        while not self._stop:
            self._task()

    def _newcomers(self) -> None:
        # A new waiter makes the pool hurry.
        while not self._stop:
            self._greenlets.append(gevent.spawn(self._task))
            gevent.sleep(0.02)

    def _task(self) -> None:
        self._gate.wait()
        asked = time.monotonic()
        try:
            with self._pool.connection() as conn:
                self.longest_wait = max(self.longest_wait, time.monotonic() - asked)
                conn.execute("select pg_sleep(0.005)")
            self.done += 1
        except Exception as error:
            self.failures.append(error)
            self._stop = True

    def pause(self) -> None:
        """Return when all tasks have finished, and none begins anew."""
        self._gate.clear()
        wait_until(lambda: counts(self._pool)[2:4] == (0, 0), timeout=20)

    def go_on(self) -> None:
        self._gate.set()

    def progress(self, number: int = 4 * USERS) -> None:
        """Return when *number* more tasks are done."""
        aim = self.done + number
        wait_until(lambda: self.done >= aim or self.failures, timeout=20)

    def end(self) -> None:
        """Let all tasks finish; raise if one failed."""
        self._stop = True
        gevent.joinall(self._greenlets, timeout=20, raise_error=True)
        if self.failures:
            raise AssertionError(f"{len(self.failures)} failed") from self.failures[0]


@pytest.fixture
def rotating_pool(store, dsn) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a pool which asks *store* for its secret."""
    pools: list[Any] = []

    def make(way: str = "kwargs", **options: Any) -> Any:
        options = {"min_size": 4, "max_size": SIZE, "timeout": 15.0, **options}
        pool: Any = Pool(open=True, **SECRETS[way](store, dsn), **options)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def report(load: Load, store: SecretStore, pool: Any) -> None:
    refused = pool.get_stats()["connections_errors"]
    print(
        f"{load.done} tasks of {USERS} greenlets, {len(load.failures)} failed;"
        f" {store.changes} changes of the password, asked {store.asked} times,"
        f" {refused} attempts refused or failed; longest wait {load.longest_wait:.2f} s"
    )


@pytest.mark.hang_limit(90)
@pytest.mark.parametrize("way", SECRETS)
@pytest.mark.parametrize(
    "lag",
    pick(short=[LAG], long=[0.0, LAG]),
    ids=pick(short=["lagging"], long=["in step", "lagging"]),
)
def test_recycled_connections_ask_for_the_new_password_and_no_task_fails(
    rotating_pool, store, way, lag
):
    # Every connection is replaced several times a second. While the secret is wrong, those that
    # exist are kept past their age, so that no caller waits for the store.
    pool = rotating_pool(way, max_lifetime=0.3)
    load = Load(pool)
    for _ in range(pick(short=1, long=3)):
        load.progress()
        store.change(lag)
    load.progress()
    load.end()
    report(load, store, pool)
    assert store.asked > 3
    assert load.longest_wait < 1.0


@pytest.mark.hang_limit(90)
@pytest.mark.parametrize(
    "trouble", pick(short=["lagging", "away"], long=["none", "lagging", "slow", "away"])
)
def test_when_all_sessions_end_at_the_moment_of_the_change_no_task_fails(
    rotating_pool, store, admin, trouble
):
    pool = rotating_pool()
    load = Load(pool)
    lag = LAG if trouble == "lagging" else 0.0
    store.delay = 0.4 if trouble == "slow" else 0.0
    for _ in range(pick(short=1, long=3)):
        load.progress()
        # No greenlet is in a statement, which would fail with its session.
        load.pause()
        ours = admin.execute("select pid from pg_stat_activity where usename = %s", [store.role])
        store.away = trouble == "away"
        terminate(admin, *(pid for (pid,) in ours.fetchall()))
        load.go_on()
        store.change(lag)
        if store.away:
            gevent.sleep(LAG)
            store.away = False
    load.progress()
    load.end()
    report(load, store, pool)
    assert load.longest_wait < LAG + 3.0


def test_a_drained_pool_waits_for_the_new_password(rotating_pool, store):
    pool = rotating_pool()
    load = Load(pool)
    for _ in range(pick(short=1, long=3)):
        load.progress()
        pool.drain()
        store.change(LAG)
    load.progress()
    load.end()
    report(load, store, pool)
    assert load.longest_wait < LAG + 3.0


def test_a_secret_that_stays_wrong_fails_all_waiters_before_their_deadlines(
    rotating_pool, store, admin
):
    pool = rotating_pool(timeout=30.0)
    wait_until(lambda: settled(pool, 4))
    admin.execute("alter role rotating password 'told to nobody'")
    since = time.monotonic()
    pool.drain()
    users = [gevent.spawn(pool.getconn) for _ in range(USERS)]
    gevent.joinall(users, timeout=20)
    took = time.monotonic() - since
    print(f"{USERS} greenlets were told after {took:.1f} s")
    assert {type(user.exception) for user in users} == {ConnectRejected}
    assert took < 15
    # Later callers are told within a moment, and the server is not hammered.
    asked = store.asked
    for _ in range(pick(short=1, long=3)):
        with pytest.raises(PoolTimeout, match="password authentication failed"):
            pool.getconn(timeout=5)
    assert store.asked - asked <= 4
