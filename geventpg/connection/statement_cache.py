"""Statements that a connection has prepared and can execute again in the fewest steps.

psycopg makes a transformer for each statement, which has to find the dumper of each parameter
and the loader of each column anew. One that has found them is kept here with the statement.
It serves one cursor at a time: while one cursor has it, the next one makes its own.
"""

from __future__ import annotations

import sys
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from psycopg import postgres, pq
from psycopg.adapt import AdaptersMap, PyFormat, Transformer

from geventpg.sql.reading import Reading, read

from .adapters import SharedAdapters
from .psycopg_internals import (
    KEEPS_STATEMENTS,
    MAX_CACHED_STATEMENT_LENGTH,
    QueryPart,
    encoding_of,
    query2pg,
)

if TYPE_CHECKING:
    import psycopg

TEXT = pq.Format.TEXT

_MOST = 256


def _oids(*names: str) -> set[int]:
    """Return the oids of types and of their arrays."""
    types = [postgres.types[name] for name in names]
    return {oid for type_ in types for oid in (type_.oid, type_.array_oid)}


# Columns of these types are loaded in the same way whatever the session's settings are.
_PLAIN = _oids(
    *("bool", "bytea", "bpchar", "float4", "float8", "int2", "int4", "int8", "json", "jsonb"),
    *("name", "numeric", "oid", "text", "uuid", "varchar"),
)
# Of these, the loader looks at the settings when it is made.
_TIMES = _oids("date", "time", "timestamp", "timestamptz", "interval")
_SETTINGS = b"TimeZone", b"DateStyle", b"IntervalStyle"

references = getattr(sys, "getrefcount", lambda _: 0)
FREE = 2
"""What `references` says of a transformer that no cursor has: its statement's, and its own.

Where references are not counted it never says so.
"""


class Known:
    """One text on one connection, prepared once or for several combinations of types."""

    __slots__ = ("formats", "names", "order", "query", "settings", "tx")

    def __init__(
        self,
        context: KnownStatements,
        query: bytes,
        formats: list[PyFormat],
        order: list[str] | None,
    ) -> None:
        self.query = query
        self.formats = formats
        self.order = order
        """The names of its parameters, if they have names."""
        self.tx = Transformer(cast(Any, context))
        self.names: set[bytes] = set()
        """The prepared statements for whose rows ``tx`` will do."""
        self.settings: tuple[bytes | None, ...] | None = None
        """What the loaders of its columns looked at, if they look at anything."""

    def in_order(self, params: Any) -> list[Any] | None:
        """Return parameters that have names in their order; ``None`` if they do not fit."""
        if params.__class__ is not dict or not self.order:
            return None
        try:
            return [params[name] for name in self.order]
        except KeyError:
            return None


class KnownStatements:
    """The statements of one connection, for one encoding and one state of its adapters."""

    __slots__ = ("_judged", "adapters", "by_text", "connection", "encoding")

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        # Weak, because the connection owns us: it must go as soon as it is not used any more.
        self.connection: Any = weakref.proxy(conn)
        self.adapters: AdaptersMap | None = None
        self.encoding = ""
        self.by_text: dict[str, Known] = {}
        self._judged: set[bytes] = set()

    def learn(self, text: str, name: bytes, adapters: AdaptersMap, answer: pq.abc.PGresult) -> None:
        """Remember a text with parameters, prepared as *name*, whose *answer* just came."""
        if not KEEPS_STATEMENTS:
            return
        encoding = encoding_of(self.connection.pgconn)
        if adapters is not self.adapters or encoding != self.encoding or len(self._judged) >= _MOST:
            self.by_text.clear()
            self._judged.clear()
            self.adapters, self.encoding = adapters, encoding
        if name in self._judged or adapters.__class__ is not SharedAdapters:
            return
        self._judged.add(name)
        query, formats, order, _parts, reading = placeholders(text, encoding)
        oids = {answer.ftype(column) for column in range(answer.nfields)}
        if (
            formats is None
            or reading.effects
            or not reading.pipelines(has_params=bool(formats))
            or not oids <= _PLAIN | _TIMES
            or self._has_others(oids)
        ):
            return
        known = self.by_text.get(text)
        if known is None:
            known = self.by_text[text] = Known(self, query, formats, order)
        known.names.add(name)
        if oids & _TIMES:
            known.settings = settings_of(self.connection.pgconn)

    def drop(self, text: str) -> None:
        """Drop a statement whose settings have changed; it is learned anew."""
        self._judged -= self.by_text.pop(text).names

    def _has_others(self, oids: set[int]) -> bool:
        """Tell whether a type among these has a loader of the user's: it may do anything."""
        loaders = [self.adapters and self.adapters.get_loader(oid, TEXT) for oid in oids]
        return not all(loader and loader.__module__.startswith("psycopg") for loader in loaders)


def settings_of(pgconn: pq.abc.PGconn) -> tuple[bytes | None, ...]:
    """Return the settings that loaders of dates and times look at."""
    return tuple([pgconn.parameter_status(name) for name in _SETTINGS])


Placeholders = tuple[
    bytes, "list[PyFormat] | None", "list[str] | None", "list[QueryPart]", "Reading"
]
_TOO_LONG: Placeholders = b"", None, None, [], read(b"")


def placeholders(query: str, encoding: str) -> Placeholders:
    """Return the statement as the server knows it, and what of psycopg's goes with it.

    That is the format of each placeholder, their names if they have names, and the parts between
    them; and its reading. No formats: it is too long to be remembered.
    """
    if len(query) > MAX_CACHED_STATEMENT_LENGTH:
        return _TOO_LONG
    return _placeholders(query, encoding)


@lru_cache(maxsize=512)
def _placeholders(query: str, encoding: str) -> Placeholders:
    text, formats, order, parts = query2pg(query.encode(encoding), encoding)
    return text, formats, order, parts, read(text)
