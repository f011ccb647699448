"""The connections that a greenlet (or thread) holds: one of each named pool.

What commits the work on such a connection, and what gives it back, depends on how it is used. The
first line that fits is the one that counts:

==================  ================================  ====================  ======================
used                begins with                       committed by          given back by
==================  ================================  ====================  ======================
in a block          ``with get_conn() as conn:``      the outermost block   the outermost block
in a unit of work   `get_conn` inside a `Scope`,      the outermost scope   the outermost scope
                    such as a Celery task
by its owner        a query of Django's ORM, or       the owner             the owner's ``close()``
                    `get_conn` of its alias
loosely             `get_conn` elsewhere              ``conn.commit()``     `release_conn`
==================  ================================  ====================  ======================

A block or a unit of work on an owner's connection is a transaction of the owner's, which so knows
of it. Whatever else happens, a connection goes back when its greenlet ends, and an open
transaction is rolled back then. gevent's greenlets tell of their end; of raw greenlets and threads
the local storage is freed. A dead raw greenlet that something still refers to is found when a
waiter needs its connection.
"""

from __future__ import annotations

import logging
import threading
import weakref
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from gevent import Greenlet, getcurrent
from psycopg.pq import TransactionStatus

from geventpg import hub
from geventpg.connection.base import Owner, bindable

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

logger = logging.getLogger("geventpg")


class HeldConnection:
    """One connection that one greenlet, or thread, holds."""

    __slots__ = (
        *("_block", "_holdings", "_name", "_unit", "conn", "depth", "owner", "pool"),
        *("since", "thread", "wanted"),
    )

    def __init__(
        self,
        holdings: Holdings,
        name: str,
        pool: ConnectionPool[Any],
        conn: Any,
        owner: Owner | None = None,
    ) -> None:
        # Weak: a reference to the connection, in a traceback for example, must not keep what the
        # greenlet holds from being freed.
        self._holdings = weakref.ref(holdings)
        self._name = name
        self.pool = pool
        self.conn = bindable(conn)
        self.depth = 0
        self.since = monotonic()
        self.thread = hub.get_ident()
        self.owner = owner
        self.wanted = True
        """Whether the owner itself asked for the connection, and not `get_conn`."""
        self._block: AbstractContextManager[None] | None = None
        self._unit: AbstractContextManager[None] | None = None
        conn.binding = self

    def enter(self) -> None:
        """Begin a block. With an owner the outermost block is a transaction of the owner's."""
        if self.owner is not None and not self.depth:
            block = self.owner.join()
            block.__enter__()
            self._block = block
        self.depth += 1

    def leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End a block; return ``False`` if the connection itself has to commit or roll back."""
        self.depth -= 1
        if self.depth:
            return True  # an inner block: the outermost one decides
        if self._block is None:
            return False
        block, self._block = self._block, None
        try:
            block.__exit__(exc_type, exc, traceback)
        finally:
            if self.owner is None or (not self.wanted and self._unit is None):
                self.give_back()
        return True

    def begin_unit(self) -> None:
        """Begin a transaction of the owner's that lasts until the end of the scope."""
        if self.owner is None or self._unit or self.depth or self.owner.in_transaction:
            return
        unit = self.owner.join()
        unit.__enter__()
        self._unit = unit
        holdings = self._holdings()
        if holdings is not None:
            holdings.units.append(self)

    def end_unit(self, failure: BaseException | None) -> None:
        """Commit at the end of a scope, or roll back if it ended with *failure*."""
        unit, self._unit = self._unit, None
        if unit is not None:
            holdings = self._holdings()
            if holdings is not None:
                holdings.units.remove(self)
            if failure is None:
                unit.__exit__(None, None, None)
            else:
                unit.__exit__(type(failure), failure, failure.__traceback__)
        elif self.owner is None and failure is None:
            _commit(self.conn)
        elif self.owner is None:
            psycopg.Connection.__exit__(self.conn, BaseException, None, None)

    @property
    def in_unit(self) -> bool:
        """Whether `begin_unit` has begun a transaction that goes on."""
        return self._unit is not None

    def release(self, act: str) -> None:
        """Give the connection back because a user asked for it by *act*, such as `release_conn`.

        Raise ``psycopg.ProgrammingError`` inside a block or a transaction of the owner.
        """
        if self.in_unit:
            logger.warning("%s in a task: its transaction on %r is rolled back", act, self._name)
            self.end_unit(_Released())
        if self.depth or (self.owner is not None and self.owner.in_transaction):
            raise psycopg.ProgrammingError(
                f"{act} inside 'with get_conn()' or a transaction: the connection is released"
                " at its end"
            )
        self.give_back()

    def give_back(self) -> None:
        """End the binding and return the connection; an open transaction is rolled back."""
        if self.conn.binding is not self:
            return
        self.conn.binding = None
        self.outlive_greenlet()
        self.leave_owner()
        self.pool.putconn(self.conn)

    def leave_to_blocks(self) -> bool:
        """If blocks are open, close the connection and leave its return to them.

        Return whether blocks are open. The connection must not reach another user before they end,
        and what they still execute must not succeed without their owner.
        """
        if not self.depth:
            return False
        self.owner = None
        self.conn.discard()
        return True

    def outlive_greenlet(self) -> None:
        """Keep the connection when the greenlet ends, until the owner gives it back."""
        holdings = self._holdings()
        if holdings is not None and holdings.by_name.get(self._name) is self:
            del holdings.by_name[self._name]

    def leave_owner(self) -> None:
        """Take the connection away from its owner."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.released()


class _Released(Exception):
    """Ends a framework's transaction when a user releases its connection."""


class Holdings:
    """All that one greenlet, or thread, holds."""

    def __init__(self) -> None:
        self.by_name: dict[str, HeldConnection] = {}
        """The connections, by the names of their pools."""
        self.units: list[HeldConnection] = []
        """Connections on which the scope has a transaction; some may be given back already."""
        self.scopes = 0
        """The number of scopes around what the greenlet does now."""
        self.deadline: float | None = None
        """The time (``time.monotonic``) at which the unit of work has to be over."""

    def give_back_all(self) -> None:
        """Give everything back. Does not switch under gevent."""
        for held in list(self.by_name.values()):
            held.give_back()

    def __del__(self) -> None:
        self.give_back_all()


def _commit(conn: psycopg.Connection[Any]) -> None:
    """Commit a unit of work; raise if it cannot be committed, or not in full."""
    if conn.pgconn.transaction_status == TransactionStatus.INERROR:
        conn.rollback()
        raise cannot_commit("with conn.transaction():")
    if not conn.closed or not conn.autocommit:
        conn.commit()  # raises if the connection was lost, and with it what was done on it


def cannot_commit(advice: str) -> psycopg.errors.InFailedSqlTransaction:
    """Return the error for a COMMIT after a failed statement.

    The server would answer it with ROLLBACK, and psycopg would not say so.
    """
    return psycopg.errors.InFailedSqlTransaction(
        "the transaction cannot be committed, because a statement in it failed and the error was"
        f" handled; put such a statement in '{advice}'"
    )


_greenlet_local = hub.GreenletLocal()
_thread_local = threading.local()
_raw: weakref.WeakKeyDictionary[Holdings, weakref.ref[Any]] = weakref.WeakKeyDictionary()
_all: weakref.WeakSet[Holdings] = weakref.WeakSet()


def current_holdings() -> Holdings:
    """Return what the current greenlet (under gevent) or thread holds. Does not block."""
    green = hub.in_use()
    local = _greenlet_local if green else _thread_local
    holdings: Holdings | None = getattr(local, "holdings", None)
    if holdings is None:
        holdings = local.holdings = Holdings()
        _all.add(holdings)
        if green:
            _watch_end(getcurrent(), holdings)
    return holdings


def _watch_end(greenlet: Any, holdings: Holdings) -> None:
    if isinstance(greenlet, Greenlet):
        greenlet.rawlink(lambda _ended: holdings.give_back_all())
    else:
        _raw[holdings] = weakref.ref(greenlet)


def reclaim_from_dead() -> bool:
    """Give back what dead raw greenlets hold; return whether other raw greenlets live."""
    others = False
    for holdings, reference in list(_raw.items()):
        greenlet = reference()
        if greenlet is None or greenlet.dead:
            holdings.give_back_all()
        else:
            others = True
    return others


def held_of(pool: ConnectionPool[Any]) -> list[HeldConnection]:
    """Return what all greenlets and threads hold of *pool*."""
    return [held for held in _everything() if held.pool is pool]


def give_back_unless_active() -> None:
    """Give back what all greenlets and threads hold, except where a statement runs."""
    for held in _everything():
        if held.conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
            held.give_back()


def abandon_all() -> list[psycopg.Connection[Any]]:
    """Unbind everything in a forked child without returning it; return the connections."""
    conns: list[psycopg.Connection[Any]] = []
    for held in _everything():
        held.conn.binding = None
        held.outlive_greenlet()
        held.leave_owner()
        conns.append(held.conn)
    return conns


def _everything() -> list[HeldConnection]:
    while True:
        try:
            everyone = list(_all)
        except RuntimeError:
            continue  # another thread came or went meanwhile
        return [held for holdings in everyone for held in list(holdings.by_name.values())]
