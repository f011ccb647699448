"""One connection per greenlet (or thread) and pool name: held here between `get_conn` calls.

A `Holder` is what one greenlet holds. It gives everything back when the greenlet ends in any
way at all: greenlets of gevent tell by a link, raw greenlets and threads by their local
storage being freed, and a dead raw greenlet that somebody still refers to is found when
somebody else has to wait.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from gevent import Greenlet, getcurrent
from psycopg.pq import TransactionStatus

from . import hub
from .bound import bindable

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool


class HeldConnection:
    """One connection bound to one greenlet."""

    __slots__ = ("_holder", "_name", "conn", "depth", "pool")

    def __init__(self, holder: Holder, name: str, pool: ConnectionPool[Any], conn: Any) -> None:
        # Weak: whoever keeps the connection (a traceback, say) must not keep the greenlet's.
        self._holder = weakref.ref(holder)
        self._name = name
        self.pool = pool
        self.conn = bindable(conn)
        self.depth = 0
        conn._binding = self

    def give_back(self) -> None:
        """End the binding and return the connection; an open transaction is rolled back."""
        if self.conn._binding is not self:
            return
        self.conn._binding = None
        holder = self._holder()
        if holder is not None:
            holder.held.pop(self._name, None)
        self.pool.putconn(self.conn)


class Holder:
    """What one greenlet, or thread, holds by pool name."""

    def __init__(self) -> None:
        self.held: dict[str, HeldConnection] = {}
        self.scopes = 0
        self.deadline: float | None = None
        """When (``time.monotonic``) the unit of work that it does has to be over."""

    def give_back_all(self) -> None:
        """Return everything. Does not switch under gevent."""
        for held in list(self.held.values()):
            held.give_back()

    def __del__(self) -> None:
        self.give_back_all()


class Scope:
    """A unit of work, such as a task: commit what it used at its end, or roll it back.

    Connections that `get_conn` bound inside are committed if the block ends normally,
    rolled back otherwise, and returned in both cases. What was bound before belongs to
    somebody further out, and a scope inside a scope joins it; but with *adopt* this greenlet
    does nothing else than this unit of work, and everything is committed here. It is told, but
    not made, to end by *deadline* (``time.monotonic``) or that of a scope around it. *commit* is
    given what it holds to be committed, in place of `commit_unit`.
    """

    def __init__(
        self,
        *,
        adopt: bool = False,
        deadline: float | None = None,
        commit: Callable[[list[HeldConnection]], None] | None = None,
    ) -> None:
        self._holder = current_holder()
        self._adopt = adopt
        self._deadline = deadline
        self._commit = commit or _commit_all
        self._outer_deadline: float | None = None
        self._foreign = frozenset() if adopt else frozenset(self._holder.held)

    @property
    def joins(self) -> bool:
        """Whether others commit, or roll back, what is done in it; before it is entered."""
        return not self._adopt and bool(self._holder.scopes or self._foreign)

    def __enter__(self) -> None:
        holder = self._holder
        holder.scopes += 1
        self._outer_deadline = holder.deadline
        if self._deadline is not None:
            holder.deadline = min(self._deadline, holder.deadline or self._deadline)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._holder.scopes -= 1
        self._holder.deadline = self._outer_deadline
        if self._holder.scopes and not self._adopt:
            return
        mine = [held for name, held in self._holder.held.items() if name not in self._foreign]
        try:
            if exc_type is None:
                self._commit(mine)
            else:
                for held in mine:
                    psycopg.Connection.__exit__(held.conn, BaseException, None, None)
        finally:
            # After a failed commit the pools roll the others back.
            for held in mine:
                held.give_back()


def commit_unit(conn: psycopg.Connection[Any]) -> None:
    """Commit a unit of work; raise if it cannot be committed, or not in full."""
    if conn.pgconn.transaction_status == TransactionStatus.INERROR:
        # The server would answer COMMIT with ROLLBACK, and psycopg would not say so.
        conn.rollback()
        raise psycopg.errors.InFailedSqlTransaction(
            "the transaction cannot be committed, because a statement in it failed and the error"
            " was handled; put such a statement in 'with conn.transaction():'"
        )
    if not conn.closed or not conn.autocommit:
        conn.commit()  # raises if the connection was lost: so is what was done on it


def _commit_all(mine: list[HeldConnection]) -> None:
    for held in mine:
        commit_unit(held.conn)


_greenlet_local = hub.GreenletLocal()
_thread_local = threading.local()
_raw: weakref.WeakKeyDictionary[Holder, weakref.ref[Any]] = weakref.WeakKeyDictionary()
_holders: weakref.WeakSet[Holder] = weakref.WeakSet()


def current_holder() -> Holder:
    """Return what the current greenlet (under gevent) or thread holds. Does not block."""
    green = hub.in_use()
    local = _greenlet_local if green else _thread_local
    holder: Holder | None = getattr(local, "holder", None)
    if holder is None:
        holder = local.holder = Holder()
        _holders.add(holder)
        if green:
            _watch_end(getcurrent(), holder)
    return holder


def _watch_end(greenlet: Any, holder: Holder) -> None:
    if isinstance(greenlet, Greenlet):
        greenlet.rawlink(lambda _ended: holder.give_back_all())
    else:
        _raw[holder] = weakref.ref(greenlet)


def reclaim_from_dead() -> bool:
    """Take back what ended raw greenlets hold; tell whether others live, to be looked after."""
    others = False
    for holder, reference in list(_raw.items()):
        greenlet = reference()
        if greenlet is None or greenlet.dead:
            holder.give_back_all()
        else:
            others = True
    return others


def give_back_what_rests() -> None:
    """Return what every greenlet and thread holds, except where a statement runs."""
    for holder in list(_holders):
        for held in list(holder.held.values()):
            if held.conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
                held.give_back()


def forget_all() -> list[psycopg.Connection[Any]]:
    """Unbind everything without returning it, in a forked child; return the connections."""
    conns: list[psycopg.Connection[Any]] = []
    for holder in list(_holders):
        for held in holder.held.values():
            held.conn._binding = None
            conns.append(held.conn)
        holder.held.clear()
    return conns
