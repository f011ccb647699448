"""What SQLAlchemy keeps of one pooled connection: its events, ``info``, invalidation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.pool.base import _ConnectionRecord

from .settings import Settings

if TYPE_CHECKING:
    from .pool import GeventPool


class Record(_ConnectionRecord):
    """SQLAlchemy's record of one connection of a `GeventPool`.

    In SQLAlchemy's pools a record is a place that has one connection after another. Here it
    lives as long as its connection, which refers to it; places are the concern of the
    `geventpg.Pool` behind.
    """

    held: Any = None
    """The connection, from when it is opened until it leaves the pool."""

    lost = False
    """The connection was found dead, as opposed to closed by decision."""

    settings: Settings | None = None
    """The engine's settings of the connection while somebody else has it; `None`: no need."""

    def __init__(self, pool: GeventPool) -> None:
        super().__init__(pool, connect=False)
        self._gevent_pool = pool
        self._early_info: dict[Any, Any] = {}

    @property
    def usable(self) -> bool:
        """Tell whether nobody has invalidated the connection."""
        return self.held is not None and self._soft_invalidate_time <= self.starttime

    @property
    def was_dropped(self) -> bool:
        """Tell whether who had the connection is gone without closing it."""
        return self.fairy_ref is not None and self.fairy_ref() is None

    def hold(self, conn: Any) -> None:
        """Be the record of *conn*."""
        self.held = conn
        conn.__dict__[self._gevent_pool.key] = self

    def opened(self, conn: Any) -> None:
        """Be the record of *conn*, which was opened for it: listeners may have left ``info``."""
        self.hold(conn)
        self._early_info = dict(self.info)

    def introduced(self) -> Any:
        """Return the connection, which SQLAlchemy is about to make known with an empty ``info``."""
        self.info.update(self._early_info)
        return self.held

    def take_over(self, other: Record) -> None:
        """Be the record of *other*'s connection: its events have fired, its ``info`` stays."""
        conn = other.held
        self.hold(conn)
        self.dbapi_connection = conn
        self.starttime = other.starttime
        self.settings = other.settings
        self.info.clear()
        self.info.update(other.info)
        other.held = other.dbapi_connection = None

    def get_connection(self) -> Any:
        """Return the connection for a checkout, with its ``connect`` event behind it.

        Called after an invalidation during the checkout, too: then another one is needed.
        """
        if self.dbapi_connection is not None:
            return self.dbapi_connection
        if self.held is None:
            conn = self._gevent_pool.refill(self)
            if conn is not None:
                return conn
        with self._gevent_pool.introduction():
            return super().get_connection()
