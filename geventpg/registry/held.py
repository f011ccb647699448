"""One connection per greenlet (or thread) and pool name: held here between `get_conn` calls.

A `Holder` is what one greenlet holds. It gives everything back when the greenlet ends in any
way at all: greenlets of gevent tell by a link, raw greenlets and threads by their local
storage being freed, and a dead raw greenlet that somebody still refers to is found when
somebody else has to wait.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Sequence
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
    """One connection bound to one greenlet."""

    __slots__ = (
        *("_block", "_holder", "_name", "_unit", "conn", "depth", "owner", "pool"),
        *("since", "thread", "wanted"),
    )

    def __init__(
        self,
        holder: Holder,
        name: str,
        pool: ConnectionPool[Any],
        conn: Any,
        owner: Owner | None = None,
    ) -> None:
        # Weak: whoever keeps the connection (a traceback, say) must not keep the greenlet's.
        self._holder = weakref.ref(holder)
        self._name = name
        self.pool = pool
        self.conn = bindable(conn)
        self.depth = 0
        self.since = monotonic()
        self.thread = hub.get_ident()
        self.owner = owner
        self.wanted = True
        """Whether the owner itself asked for it, and not `get_conn`."""
        self._block: AbstractContextManager[None] | None = None
        self._unit: AbstractContextManager[None] | None = None
        conn.binding = self

    def enter(self) -> None:
        """Begin a block. With an owner the outermost one is a transaction of the owner's."""
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
        """End a block; return whether there is nothing left to do for its end."""
        self.depth -= 1
        if self.depth:
            return True  # an inner block: the outermost decides
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
        """Make what the owner does from now on, to the end of the scope, one transaction."""
        if self.owner is None or self._unit or self.depth or self.owner.in_transaction:
            return
        unit = self.owner.join()
        unit.__enter__()
        self._unit = unit
        holder = self._holder()
        if holder is not None:
            holder.units.append(self)

    def end_unit(self, failure: BaseException | None) -> None:
        """Commit at the end of a scope, or roll back if it ended with *failure*."""
        unit, self._unit = self._unit, None
        if unit is not None:
            holder = self._holder()
            if holder is not None:
                holder.units.remove(self)
            if failure is None:
                unit.__exit__(None, None, None)
            else:
                unit.__exit__(type(failure), failure, failure.__traceback__)
        elif self.owner is None and failure is None:
            commit_unit(self.conn)
        elif self.owner is None:
            psycopg.Connection.__exit__(self.conn, BaseException, None, None)

    @property
    def in_unit(self) -> bool:
        """Whether `begin_unit` has begun a transaction that goes on."""
        return self._unit is not None

    def release(self, act: str) -> None:
        """Give the connection back for a user's *act*, such as `release_conn`, if that may be."""
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
        self.disown()
        self.pool.putconn(self.conn)

    def leave_to_blocks(self) -> bool:
        """Close the connection for its owner if blocks are open on it; tell whether they are.

        They belong to this greenlet and not to the next user: so the connection goes back at
        their end, broken.
        """
        if not self.depth:
            return False
        self.owner = None
        self.conn.discard()
        return True

    def outlive_greenlet(self) -> None:
        """Stay out when the greenlet ends, until the owner gives it back."""
        holder = self._holder()
        if holder is not None and holder.held.get(self._name) is self:
            del holder.held[self._name]

    def disown(self) -> None:
        """Take the connection away from its owner."""
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.lost()


class _Released(Exception):
    """What a framework's transaction ends with when its connection is released."""


class Holder:
    """What one greenlet, or thread, holds by pool name."""

    def __init__(self) -> None:
        self.held: dict[str, HeldConnection] = {}
        self.units: list[HeldConnection] = []
        """Those with a transaction of the scope's, though they may be given back already."""
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
        mine = [
            *self._holder.units,
            *(
                held
                for name, held in self._holder.held.items()
                if held.owner is None and name not in self._foreign
            ),
        ]
        try:
            if exc is None:
                self._commit(mine)
            else:
                _end_units(mine, exc)
        except BaseException as error:
            _end_units([held for held in mine if held.in_unit], error)
            raise
        finally:
            # After a failed commit the pools roll the others back.
            for held in mine:
                if held.owner is None or not held.wanted:
                    held.give_back()


def _end_units(helds: Sequence[HeldConnection], failure: BaseException | None) -> None:
    for position, held in enumerate(helds):
        try:
            held.end_unit(failure)
        except BaseException as error:
            # The others are rolled back when they are given back.
            _end_units([h for h in helds[position + 1 :] if h.in_unit], failure or error)
            raise


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
        held.end_unit(None)


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


def held_of(pool: ConnectionPool[Any]) -> list[HeldConnection]:
    """Return what all greenlets and threads hold of *pool*."""
    while True:
        try:
            everyone = list(_holders)
            break
        except RuntimeError:
            continue  # another thread came or went meanwhile
    return [h for holder in everyone for h in list(holder.held.values()) if h.pool is pool]


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
            held.conn.binding = None
            held.disown()
            conns.append(held.conn)
        holder.held.clear()
    return conns
