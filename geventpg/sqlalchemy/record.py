"""What SQLAlchemy keeps of one pooled connection: its events, ``info``, invalidation."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy.pool.base import _ConnectionRecord

from .settings import Settings


class Pool(Protocol):
    """What a record needs of the pool of its engine."""

    @property
    def key(self) -> str:
        """The name of the attribute by which a connection refers to its record."""

    def refill(self, record: Record) -> Any:
        """Give *record* another connection; return the connection if it was used before."""

    def introduction(self) -> AbstractContextManager[Any]:
        """Return the lock that is held while listeners for ``connect`` run."""


class Record(_ConnectionRecord):
    """SQLAlchemy's record of one connection of a `GeventPool`.

    In SQLAlchemy's pools a record is a place that has one connection after another. Here a record
    lives as long as its connection, which refers to it; the `geventpg.Pool` behind has the places.
    """

    held: Any = None
    """The connection, from when it is opened until it leaves the pool."""

    lost = False
    """Whether the connection was found dead, as opposed to closed by decision."""

    settings: Settings | None = None
    """The engine's settings of the connection, while a user outside the engine has it; `None` if
    the connection is never used outside the engine."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool, connect=False)
        self._gevent_pool: Pool = pool
        self._early_info: dict[Any, Any] = {}

    @property
    def usable(self) -> bool:
        """Whether there is a connection and it was not invalidated."""
        return self.held is not None and self._soft_invalidate_time <= self.starttime

    @property
    def was_dropped(self) -> bool:
        """Whether the last user of the connection is gone without having closed it."""
        return self.fairy_ref is not None and self.fairy_ref() is None

    def hold(self, conn: Any) -> None:
        """Become the record of *conn*."""
        self.held = conn
        conn.__dict__[self._gevent_pool.key] = self

    def opened(self, conn: Any) -> None:
        """Become the record of *conn*, a new connection; keep the ``info`` that listeners left."""
        self.hold(conn)
        self._early_info = dict(self.info)

    def introduced(self) -> Any:
        """Return the connection with its ``info``, which SQLAlchemy has just emptied."""
        self.info.update(self._early_info)
        return self.held

    def take_over(self, other: Record) -> None:
        """Take *other*'s connection and its ``info``; the connection's events have fired."""
        conn = other.held
        self.hold(conn)
        self.dbapi_connection = conn
        self.starttime = other.starttime
        self.settings = other.settings
        self.info.clear()
        self.info.update(other.info)
        other.held = other.dbapi_connection = None

    def get_connection(self) -> Any:
        """Return the connection for a checkout, after its ``connect`` event.

        SQLAlchemy also calls this after an invalidation during the checkout. The record then gets
        another connection.
        """
        if self.dbapi_connection is not None:
            return self.dbapi_connection
        if self.held is None:
            conn = self._gevent_pool.refill(self)
            if conn is not None:
                return conn
        with self._gevent_pool.introduction():
            return super().get_connection()
