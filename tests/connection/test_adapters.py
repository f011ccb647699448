"""Adapters: cursors share a copy of their connection's, and no program can tell.

Every test runs on psycopg's own connection as well: what it asserts is what psycopg does.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.adapt import Loader
from psycopg.types import TypeInfo
from psycopg.types.string import StrDumper

import geventpg
import geventpg.connection.cursor


class Loud(Loader):
    """Loads text in capitals."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


class Quiet(Loader):
    """Loads text in lower case."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().lower()


class Exclaiming(StrDumper):
    """Dumps text with an exclamation mark."""

    def dump(self, obj: str) -> bytes:
        return obj.encode() + b"!"


class Temperature(str):
    """A type that has no dumper of its own."""

    __slots__ = ()


@pytest.fixture(params=[psycopg.Connection, geventpg.Connection], ids=["psycopg", "geventpg"])
def conn(request: pytest.FixtureRequest, dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with request.param.connect(dsn, autocommit=True) as conn:
        yield conn


def value(target: Any, query: str, params: Any = None) -> Any:
    row = target.execute(query, params).fetchone()
    assert row is not None
    return row[0]


def test_what_is_registered_on_a_connection_holds_for_cursors_made_later_only(conn: Any) -> None:
    before = conn.cursor()
    conn.adapters.register_loader("text", Loud)
    assert value(before, "select 'Text'") == "Text"
    assert value(conn, "select 'Text'") == "TEXT"
    conn.adapters.register_loader("text", Quiet)
    assert value(conn, "select 'Text'") == "text"


def test_what_is_registered_on_a_cursor_holds_for_that_cursor_only(conn: Any) -> None:
    cursor = conn.cursor()
    cursor.adapters.register_loader("text", Loud)
    cursor.adapters.register_dumper(str, Exclaiming)
    assert value(cursor, "select %s::text", ("Text",)) == "TEXT!"
    assert value(conn, "select %s::text", ("Text",)) == "Text"
    assert value(conn.cursor(), "select 'Text'") == "Text"


def test_a_loader_registered_on_a_cursor_changes_the_rows_it_already_has(conn: Any) -> None:
    cursor = conn.execute("select * from (values ('One'), ('Two')) v")
    assert cursor.fetchone() == ("One",)
    cursor.adapters.register_loader("text", Loud)
    assert cursor.fetchone() == ("TWO",)


def test_a_dumper_registered_between_two_runs_of_a_statement_is_used_by_the_second(
    conn: Any,
) -> None:
    cursor = conn.cursor()
    query = "select %s::text"
    assert value(cursor, query, (1,)) == "1"
    cursor.adapters.register_dumper(str, Exclaiming)
    assert value(cursor, query, ("Text",)) == "Text!"


def test_a_dumper_registered_on_a_connection_is_used_by_prepared_statements(conn: Any) -> None:
    for _ in range(8):
        assert value(conn, "select %s::text", ("Text",)) == "Text"
    conn.adapters.register_dumper(str, Exclaiming)
    assert value(conn, "select %s::text", ("Text",)) == "Text!"


def test_a_type_registered_on_a_connection_is_known_to_cursors_made_later(conn: Any) -> None:
    conn.execute("create type pg_temp.mood as enum ('Happy', 'Sad')")
    before = conn.cursor()
    assert value(conn, "select 'Happy'::pg_temp.mood") == "Happy"
    info = TypeInfo.fetch(conn, "mood")
    assert info is not None
    info.register(conn)
    assert before.adapters.types.get("mood") is None
    assert conn.cursor().adapters.types["mood"].oid == info.oid
    assert conn.execute("select 'Sad'::pg_temp.mood as m").description[0].type_display == "mood"


def test_a_dumper_named_by_a_string_is_found_for_its_class(conn: Any) -> None:
    name = f"{Temperature.__module__}.{Temperature.__qualname__}"
    conn.adapters.register_dumper(name, Exclaiming)
    assert value(conn, "select %s::text", (Temperature("warm"),)) == "warm!"
    assert value(conn, "select %s::text", (Temperature("warm"),)) == "warm!"


def test_adapters_of_a_context_are_used(dsn: str) -> None:
    for factory in (psycopg.Connection, geventpg.Connection):
        with factory.connect(dsn) as first:
            first.adapters.register_loader("text", Loud)
            with factory.connect(dsn, context=first) as second:
                first.adapters.register_loader("text", Quiet)
                assert value(second, "select 'Text'") == "TEXT"


def test_dumpers_get_the_connection_of_the_statement(conn: Any) -> None:
    seen: list[Any] = []

    class Curious(StrDumper):
        def __init__(self, cls: type, context: Any = None) -> None:
            super().__init__(cls, context)
            seen.append(context.connection)

    conn.adapters.register_dumper(str, Curious)
    value(conn, "select %s::text", ("Text",))
    assert seen
    assert all(one is conn for one in seen)
    seen.clear()


def test_a_statement_in_another_encoding_is_sent_in_that_encoding(conn: Any) -> None:
    for encoding in ("utf8", "latin1", "utf8"):
        conn.execute(f"set client_encoding to {encoding}")
        for _ in range(7):
            assert value(conn, "select 'é' || %s", ("ü",)) == "éü"


def test_a_cursor_that_was_used_keeps_no_connection_alive(dsn: str) -> None:
    conn = geventpg.Connection.connect(dsn, autocommit=True)
    value(conn, "select %s::int", (1,))
    gone = weakref.ref(conn)
    gc.collect()
    gc.disable()
    try:
        conn.close()
        del conn
        assert gone() is None
    finally:
        gc.enable()
