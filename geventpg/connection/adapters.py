"""Adapters that the cursors of one connection share.

psycopg copies the connection's adapters for every cursor, in case they are changed on the cursor: a
third of what a short statement costs in Python. Here the cursors of one connection share one copy;
a cursor gets its own when its ``adapters`` are asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache, partial
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from psycopg.abc import Dumper, Loader
from psycopg.adapt import AdaptersMap
from psycopg.types import TypeInfo, TypesRegistry

if TYPE_CHECKING:
    import psycopg


class SharedAdapters(AdaptersMap):
    """A connection's adapters as they were at one time, never changed: see `AdaptersMap`.

    Each statement asks for them several times, from C. So they answer without Python code.
    """

    def __init__(self, template: AdaptersMap, connection: psycopg.Connection[Any]) -> None:
        super().__init__(template)
        # Weak, because the connection owns us: it must go as soon as it is not used any more.
        self._connection = weakref.ref(connection)
        self._self = weakref.ref(self)
        me: Any = weakref.proxy(self)
        remembered: Any = lru_cache(maxsize=1024)
        self.get_loader = remembered(partial(AdaptersMap.get_loader, me))  # type: ignore[method-assign]
        self.get_dumper = remembered(partial(AdaptersMap.get_dumper, me))  # type: ignore[method-assign]

    adapters: Any = property(methodcaller("_self"))
    connection: Any = property(methodcaller("_connection"))


class _ConnectionTypes(TypesRegistry):
    """The types of one connection, which tell when one is added."""

    def __init__(self, template: TypesRegistry, changed: Callable[[], None]) -> None:
        super().__init__(template)
        self._changed = changed

    def add(self, info: TypeInfo) -> None:
        """Do as psycopg does, for this connection and the cursors made from now on."""
        self._changed()
        super().add(info)


class ConnectionAdapters(AdaptersMap):
    """The adapters of one connection, which know when the copy for the cursors is out of date."""

    copy: SharedAdapters | None = None
    """The copy for the cursors, ``None`` if a new one is to be made."""

    def __init__(self, template: AdaptersMap) -> None:
        super().__init__(template)
        # Not a bound method: the adapters are to be collected without the garbage collector.
        me = weakref.ref(self)
        self.types = _ConnectionTypes(self.types, lambda: setattr(me(), "copy", None))

    def register_dumper(self, cls: type | str | None, dumper: type[Dumper]) -> None:
        """Do as psycopg does, for this connection and the cursors made from now on."""
        self.copy = None
        super().register_dumper(cls, dumper)

    def register_loader(self, oid: int | str, loader: type[Loader]) -> None:
        """Do as psycopg does, for this connection and the cursors made from now on."""
        self.copy = None
        super().register_loader(oid, loader)

    def shared(self, connection: psycopg.Connection[Any]) -> SharedAdapters:
        """Return the copy for a cursor of *connection*, a new one if something changed."""
        copy = self.copy
        if copy is None:
            copy = self.copy = SharedAdapters(self, connection)
        return copy
