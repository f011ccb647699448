"""The option values of one pool, as its parts read them. They may change while the pool runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

import psycopg
from psycopg_pool.abc import ConninfoParam, KwargsParam

_numbers = count(1)

ConnectionCallback = Callable[[Any], None]


@dataclass(slots=True, repr=False)
class Settings:
    """What a pool was told; `docs/options.md` says what each value means. Times are seconds.

    Its repr shows no values: there are secrets among them.
    """

    name: str
    conninfo: ConninfoParam
    kwargs: KwargsParam | None
    connection_class: type[psycopg.Connection[Any]]
    configure: ConnectionCallback | None
    check: ConnectionCallback | None
    reset: ConnectionCallback | None
    min_size: int
    max_size: int
    timeout: float
    max_waiting: int
    max_lifetime: float
    max_idle: float
    reconnect_timeout: float
    num_workers: int
    keepalive_interval: float
    probe_timeout: float
    cancel_timeout: float
    leak_threshold: float
    prepare: str
    statement_connections: int
    use_lifo: bool

    @classmethod
    def of(cls, conninfo: ConninfoParam, options: Mapping[str, Any]) -> Settings:
        """Return the values of *options*, the keyword arguments of `Pool`, all of them."""
        values = {field.name: options[field.name] for field in fields(cls) if field.name in options}
        if values["max_size"] is None:
            values["max_size"] = values["min_size"]
        values["name"] = values["name"] or f"pool-{next(_numbers)}"
        return cls(conninfo=conninfo, **values)

    def where_to_connect(self) -> tuple[str, dict[str, Any]]:
        """Return the conninfo and the keyword arguments. Callables that tell them may block."""
        conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs
        return conninfo or "", kwargs or {}

    @property
    def asks_where_to_connect(self) -> bool:
        """Tell whether a callable answers `where_to_connect`, perhaps with something new."""
        return callable(self.conninfo) or callable(self.kwargs)

    def lifetime(self) -> float:
        """Return for how long a connection lives: a little shorter at random.

        As in psycopg_pool, so that connections opened together are not replaced together.
        """
        return self.max_lifetime * random.uniform(0.95, 1.0)
