"""Adapters that the cursors of one connection share.

psycopg copies the connection's adapters for every cursor, in case somebody changes them on
the cursor: a third of what a short statement costs in Python. Here the cursors of one
connection share one copy; a cursor gets its own when somebody asks for its ``adapters``.
"""

from __future__ import annotations

import weakref
from functools import lru_cache, partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from psycopg.abc import Dumper, Loader
from psycopg.adapt import AdaptersMap

if TYPE_CHECKING:
    import psycopg


class SharedAdapters(AdaptersMap):
    """A connection's adapters as they were at one time, never changed: see `AdaptersMap`.

    Each statement asks for them several times, from C. So they answer without Python code.
    """

    def __init__(self, template: AdaptersMap, connection: psycopg.Connection[Any]) -> None:
        super().__init__(template)
        # Weak, because the connection owns us: it must go as soon as nobody uses it.
        self._connection = weakref.ref(connection)
        self._self = weakref.ref(self)
        me: Any = weakref.proxy(self)
        remembered: Any = lru_cache(maxsize=1024)
        self.get_loader = remembered(partial(AdaptersMap.get_loader, me))  # type: ignore[method-assign]
        self.get_dumper = remembered(partial(AdaptersMap.get_dumper, me))  # type: ignore[method-assign]

    adapters: Any = property(methodcaller("_self"))
    connection: Any = property(methodcaller("_connection"))


class ConnectionAdapters(AdaptersMap):
    """The adapters of one connection, which know when the copy for the cursors is stale."""

    _shared: SharedAdapters | None = None

    def register_dumper(self, cls: type | str | None, dumper: type[Dumper]) -> None:
        """Do as psycopg does, for this connection and the cursors made from now on."""
        self._shared = None
        super().register_dumper(cls, dumper)

    def register_loader(self, oid: int | str, loader: type[Loader]) -> None:
        """Do as psycopg does, for this connection and the cursors made from now on."""
        self._shared = None
        super().register_loader(oid, loader)

    def shared(self, connection: psycopg.Connection[Any]) -> SharedAdapters:
        """Return the copy for a cursor of *connection*, a new one if something changed."""
        shared = self._shared
        # The registry of types is copied by psycopg before it is changed.
        if shared is None or shared.types._registry is not self.types._registry:
            shared = self._shared = SharedAdapters(self, connection)
        return shared
