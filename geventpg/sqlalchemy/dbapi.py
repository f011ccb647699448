"""The DBAPI module of the dialect: psycopg, but for what `connect` returns."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import psycopg

from geventpg import hub
from geventpg.connection.base import BindableConnection
from geventpg.connection.connection import Connection


def connect(*args: Any, **kwargs: Any) -> psycopg.Connection[Any]:
    """Open a connection that waits on the gevent hub; where gevent does not run, psycopg's."""
    cls: type[psycopg.Connection[Any]] = Connection if hub.in_use() else BindableConnection
    return cls.connect(*args, **kwargs)


def make() -> ModuleType:
    """Return a copy of the module `psycopg`, by the same name, that has our `connect`."""
    module = ModuleType(psycopg.__name__, psycopg.__doc__)
    vars(module).update(vars(psycopg), connect=connect)
    return module
